"""A folder laid out like the training data, without the file that described those."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from autoseg.data.dataset import Case, Dataset
from autoseg.data.description import Description
from autoseg.data.file_names import images_in
from autoseg.data.layouts.manifest import ChannelEntry, LabelEntry, Manifest, MaskEntry, parse, read_described
from autoseg.data.layouts.propose import propose
from autoseg.data.layouts.spellings import spelled_freely
from autoseg.data.names import channel_key, pair
from autoseg.data.result_files import results_in
from autoseg.plans.plan import Plan, channels_of_all
from autoseg.utils.errors import AutosegError, LockedFolder
from autoseg.utils.progress import say
from autoseg.utils.text import listed


def cases_like(path: Path, plans: Sequence[Plan], datasets: Sequence[Dataset]) -> list[Case]:
    """The cases of a folder whose files are named as those of the training data.

    Args:
        path: the folder.
        plans: say which channels a case has to have.
        datasets: that the runs were trained on.

    Returns:
        None of them where the folder is not laid out so.
    """
    manifest = manifest_of(datasets, plans)
    if manifest is None:
        return []
    cases, others = (_with_all_channels(_read(path, one), plans) for one in (manifest, _in_any_spelling(manifest)))
    cases = max(cases, others, key=lambda found: sum(len(case.channels) for case in found))
    if cases:
        say(f"{path}: nothing describes it; its files are named as those of the training data.")
        _say_left_out(path, _without_a_case(path, manifest, cases))
    return cases


def cases_as_proposed(path: Path, plans: Sequence[Plan]) -> list[Case]:
    """The cases of a folder by the description that ``autoseg inspect`` proposes; none where that does not fit.

    Args:
        path: the folder.
        plans: say which channels a case has to have.
    """
    try:
        proposed = parse(propose(path), path)
    except AutosegError:
        return []
    description = _read(path, proposed)
    if description is not None and description.cases and description.unlabelled and images_in(path):
        return []  # label maps beside some scans only are no dataset, but something left over
    cases = _with_all_channels(description, plans)
    if cases:
        found = ", ".join(sorted({pattern for role, pattern in proposed.patterns().items() if "channel:" in role}))
        say(f"{path}: nothing describes it; scans are taken to be {found}.")
        taken = {case.id for case in cases}
        everyone = (*description.cases, *description.unlabelled) if description is not None else ()
        _say_left_out(path, [case.id for case in everyone if case.id not in taken])
    return cases


def channels_as_proposed(path: Path) -> list[str]:
    """The channels of a folder by the description that ``autoseg inspect`` proposes; none where it proposes none."""
    try:
        return list(parse(propose(path), path).channels)
    except AutosegError:
        return []


def manifest_of(datasets: Sequence[Dataset], plans: Sequence[Plan]) -> Manifest | None:
    """A description of where files lie below the folders of datasets, by the paths of their cases.

    Of a channel that several datasets have, the first one's files.

    Returns:
        None where the names of the cases are no part of the paths of each channel of a plan; and for one channel whose
        files lie in the dataset's folder itself, as any folder of images has them.
    """
    names = channels_of_all(plans)
    patterns: dict[str, str] = {}
    components: dict[str, int | None] = {}
    for dataset in reversed(datasets):
        found, parts = _patterns_of(dataset, names)
        patterns |= found
        components |= parts
    channels = {name: patterns[f"channel:{name}"] for name in names if f"channel:{name}" in patterns}
    if not any(channels.keys() >= set(plan.channel_names) for plan in plans):
        return None
    if len(channels) == 1 and "/" not in next(iter(channels.values())):
        return None
    label, mask = patterns.get("label"), patterns.get("mask")
    try:
        return Manifest(
            channels={name: ChannelEntry(file=file, component=components[name]) for name, file in channels.items()},
            label=None if label is None else LabelEntry(file=label, values=datasets[0].labels),
            mask=None if mask is None else MaskEntry(file=mask),
        )
    except ValidationError:
        return None


def _patterns_of(dataset: Dataset, names: Sequence[str]) -> tuple[dict[str, str], dict[str, int | None]]:
    """The pattern of a dataset's files by role, and the component of each channel."""
    root = dataset.root
    if not any(file.is_relative_to(root) for case in dataset.cases for file in case.files):
        root = root.parent  # of a table
    roles: dict[str, Counter[str]] = {}
    components: dict[str, int | None] = {}
    for case in dataset.cases:
        whole_id = re.compile(rf"(?<![A-Za-z0-9]){re.escape(case.id)}(?![A-Za-z0-9])")
        files = {f"channel:{name}": file.path for name, file in case.channels.items() if name in names}
        components |= {name: file.component for name, file in case.channels.items()}
        files |= {
            role: found for role, found in (("label", case.label), ("mask", case.mask)) if isinstance(found, Path)
        }
        for role, file in files.items():
            pattern = whole_id.sub("{id}", file.relative_to(root).as_posix()) if file.is_relative_to(root) else ""
            if "{id}" in pattern:
                roles.setdefault(role, Counter())[pattern] += 1
    return {role: counts.most_common(1)[0][0] for role, counts in roles.items()}, components


def _in_any_spelling(manifest: Manifest) -> Manifest:
    """A description that fits files in other letter case, too, and with other endings of their format."""
    channels = {
        name: entry if isinstance(entry, str) else entry.model_copy(update={"file": spelled_freely(entry.file)})
        for name, entry in manifest.channels.items()
    }
    label, mask = (
        None if entry is None or entry.file is None else entry.model_copy(update={"file": spelled_freely(entry.file)})
        for entry in (manifest.label, manifest.mask)
    )
    return manifest.model_copy(update={"channels": channels, "label": label, "mask": mask})


def _without_a_case(path: Path, manifest: Manifest, cases: Sequence[Case]) -> list[str]:
    """Folders beside those of the cases that hold images, and are no case's."""
    patterns = [pattern for role, pattern in manifest.patterns().items() if role.startswith("channel:")]
    levels = {
        number
        for pattern in patterns
        for number, part in enumerate(PurePosixPath(pattern).parts[:-1])
        if "{id}" in part
    }
    if not levels:
        return []
    level = min(levels) + 1
    used = {file.path for case in cases for file in case.channels.values() if file.path.is_relative_to(path)}
    folders = {path.joinpath(*file.relative_to(path).parts[:level]) for file in used}
    beside = {child for parent in {folder.parent for folder in folders} for child in parent.iterdir()} - folders
    found = (child for child in sorted(beside) if child.is_dir() and not child.name.startswith("."))
    return [child.relative_to(path).as_posix() for child in found if set(images_in(child)) - {*results_in(child)}]


def _say_left_out(path: Path, names: Sequence[str]) -> None:
    if names:
        say(f"{path}: {listed(names)} left out; none of the images there is named as a scan of the model.")


def _read(path: Path, manifest: Manifest) -> Description | None:
    try:
        return read_described(path, manifest)
    except LockedFolder:
        raise
    except AutosegError:
        return None


def _with_all_channels(description: Description | None, plans: Sequence[Plan]) -> list[Case]:
    """Cases with the plans' names of channels; none where no case has all of one plan."""
    if description is None:
        return []
    names = channels_of_all(plans)
    others: dict[str, str] = {}
    for plan in plans:
        others |= pair(plan.channel_names, description.channels, channel_key)
    if not any(others.keys() >= set(plan.channel_names) for plan in plans):
        if not len(names) == len(description.channels) == 1:
            return []
        others = {names[0]: description.channels[0]}
    cases = [
        case.model_copy(
            update={"channels": {n: case.channels[other] for n, other in others.items() if other in case.channels}}
        )
        for case in (*description.cases, *description.unlabelled)
    ]
    cases = [case for case in cases if case.channels]
    whole = any(case.channels.keys() >= set(plan.channel_names) for case in cases for plan in plans)
    return cases if whole else []
