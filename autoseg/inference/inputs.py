"""What to predict: a dataset in any layout, a folder of images, or single files."""

import re
from collections.abc import Sequence
from pathlib import Path

from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.data.file_names import image_ending, images_in, is_image, is_picture, why_not_plain
from autoseg.data.image import read_geometry
from autoseg.data.layouts.layout import PROPOSED, datasets_below, recognise_layout
from autoseg.data.names import channel_key, pair
from autoseg.plans.plan import Plan
from autoseg.plans.stage import Stage
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import say


def cases_to_predict(path: str | Path, plan: Plan, layout: str | None = None, everything: bool = False) -> list[Case]:
    """The cases in a folder.

    A dataset gives its unlabelled cases where it has any (its test set), else all; its channels may go by other names
    than the plan's, as ``T1ce`` for ``t1c``. A folder of bare images gives one
    case an image where each holds all the plan's channels, else groups ``CASE_0000``, ``CASE_0001``, … in its order.
    Folders of cases are told by the names of their files, as in training.

    Args:
        path: dataset, or folder of images, or one image file.
        plan: says which channels.
        layout: of the dataset, to skip the recognition.
        everything: labelled cases too.

    Raises:
        AutosegError: nothing there that can be predicted.
    """
    path = Path(path)
    if not path.exists():
        raise AutosegError(f"{path} does not exist.")
    if layout is None and path.is_file() and is_image(path):
        if _components(path) != len(plan.channels):
            return [single_case({plan.channel_names[0]: path}, [plan.stage()])]
        return [Case(id=_stem(path), channels=_all_of(path, plan))]
    found = recognise_layout(path) if layout is None else layout
    if found is None and path.is_dir() and images_in(path):
        return _bare_images(path, plan)
    if layout is None and path.is_dir() and found in (None, PROPOSED) and not datasets_below(path):
        undescribed = _undescribed(path, plan)
        if undescribed is None:
            return _bare_images(path, plan)
        dataset = undescribed
    else:
        dataset = Dataset.open(path, layout)
    cases = [*dataset.cases, *dataset.unlabelled] if everything else list(dataset.unlabelled or dataset.cases)
    return by_other_names(cases, dataset.channels, plan)


def single_case(
    files: dict[str, Path],
    stages: Sequence[Stage],
    name: str | None = None,
    mask: Path | None = None,
) -> Case:
    """One case of files named by channel (``--channel t1c=PATH``).

    Args:
        files: channel name → file.
        stages: that will predict the case, one of every run; each takes the channels it knows.
        name: of the case; the first file's by default.
        mask: its brain mask, if any (``--mask``).

    Raises:
        UsageError: a channel that no plan has, or one not given that a plan can't do without.
        AutosegError: a file does not exist.
    """
    known = list(dict.fromkeys(channel for stage in stages for channel in stage.channel_names))
    for channel in files:
        if channel not in known:
            raise UsageError(f"--channel {channel}: the plan's channels are {', '.join(known)}.")
    if name is not None and (why := why_not_plain(name)) is not None:
        raise UsageError(f"--name {name!r} can't name a result: {why}.")
    for path in (*files.values(), *([mask] if mask else [])):
        if not path.exists():
            raise AutosegError(f"{path} does not exist.")
    needed = list(
        dict.fromkeys(
            channel for stage in stages if not stage.takes_missing_channels for channel in stage.channel_names
        )
    )
    lacking = [channel for channel in needed if channel not in files]
    if lacking:
        raise UsageError(f"--channel {lacking[0]}=PATH is missing; the plan needs {', '.join(needed)}.")
    first = next(iter(files.values()))
    return Case(id=name or _stem(first), channels={c: ChannelFile(path=p) for c, p in files.items()}, mask=mask)


def by_other_names(cases: list[Case], channels: Sequence[str], plan: Plan) -> list[Case]:
    """Let a sequence that the dataset calls otherwise (``T1ce``) be found under the plan's name (``t1c``), too."""
    others = {name: other for name, other in pair(plan.channel_names, channels, channel_key).items() if name != other}
    if not others:
        return cases
    say(f"{', '.join(f'{other} is taken for {name}' for name, other in others.items())}.")
    return [
        case.model_copy(
            update={
                "channels": {
                    **case.channels,
                    **{name: case.channels[other] for name, other in others.items() if other in case.channels},
                }
            }
        )
        for case in cases
    ]


def _undescribed(folder: Path, plan: Plan) -> Dataset | None:
    """A folder that nothing describes, laid out so that the plan's channels are found; else None."""
    try:
        dataset = Dataset.open(folder, PROPOSED)
    except AutosegError:
        return None
    return dataset if pair(plan.channel_names, dataset.channels, channel_key) else None


def _bare_images(folder: Path, plan: Plan) -> list[Case]:
    files = images_in(folder)
    if not files:
        raise AutosegError(f"{folder} holds no dataset and no images that autoseg can read.")
    numbers = {path: re.fullmatch(r"(.+)_(\d{4})", _stem(path)) for path in files}
    wanted = len(plan.channels)
    held = [_components(path) for path in files] if wanted > 1 else [1]
    # An unreadable file is taken for one of its kind, so that it fails alone and by its name.
    if all(count in (None, wanted) for count in held) and wanted in held:
        # nnU-Net names a picture CASE_0000.png, too, though it holds all channels.
        first_only = all(match and match[2] == "0000" for match in numbers.values())
        found: dict[str, Path] = {}
        for path, match in numbers.items():
            name = match[1] if match and first_only else _stem(path)
            if name in found:
                raise AutosegError(f"{folder} has two images of {name} ({found[name].name}, {path.name}); remove one.")
            found[name] = path
        return [Case(id=name, channels=_all_of(path, plan)) for name, path in found.items()]
    grouped: dict[str, dict[str, ChannelFile]] = {}
    others = []
    for path, match in numbers.items():
        if match and int(match[2]) < wanted:
            grouped.setdefault(match[1], {})[plan.channel_names[int(match[2])]] = ChannelFile(path=path)
        else:
            others.append(path.name)
    if not grouped:
        raise AutosegError(
            f"{folder} holds images but no dataset; for {wanted} channels name them CASE_0000, CASE_0001, … "
            f"in the order {', '.join(plan.channel_names)}, or describe the folder with an autoseg.toml."
        )
    if others:
        say(f"{folder}: {', '.join(others)} left out; not named CASE_0000 to CASE_{wanted - 1:04d}.")
    return [Case(id=name, channels=channels) for name, channels in grouped.items()]


def _components(path: Path) -> int | None:
    """How many channels a file holds, without a picture's alpha; None where it can't be read."""
    try:
        count = read_geometry(path)[1]
        # Of a picture, grey or colours are taken, and what is transparent is left out.
        return count - 1 if count in (2, 4) and is_picture(image_ending(path)) else count
    except AutosegError:
        return None


def _all_of(path: Path, plan: Plan) -> dict[str, ChannelFile]:
    """Every channel of the plan, out of one file."""
    if len(plan.channels) == 1:
        return {plan.channel_names[0]: ChannelFile(path=path)}
    return {name: ChannelFile(path=path, component=index) for index, name in enumerate(plan.channel_names)}


def _stem(path: Path) -> str:
    ending = image_ending(path)
    return path.name[: -len(ending)] if ending else path.stem
