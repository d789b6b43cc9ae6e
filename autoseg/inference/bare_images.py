"""A folder of images that nothing describes: which of them are scans, and which belong to one case."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from autoseg.data.counts import value_counts
from autoseg.data.dataset import Case, ChannelFile
from autoseg.data.file_names import colours_of, image_ending, images_in, is_picture
from autoseg.data.image import read_geometry, read_image
from autoseg.data.label_maps import label_values
from autoseg.inference.like_training import cases_as_proposed
from autoseg.inference.results.folder import PREDICTIONS, results_in
from autoseg.plans.plan import Plan, channels_of_all
from autoseg.utils.errors import AutosegError
from autoseg.utils.progress import say

#: A word of a file's name that label maps have.
_LABEL_WORD = re.compile(
    r"(^|[_\-. ])(seg|segm|segmentation|labels?|lbl|masks?|gt|ground.?truth|annotation|roi|lesion|tumou?r)([_\-. ]|$)",
    re.I,
)

#: Different values that a label map has, at most.
_MOST_VALUES = 120

#: File names listed in a message.
_LISTED = 8


def bare_images(folder: Path, plans: Sequence[Plan]) -> list[Case]:
    """The cases of a folder of images.

    One case an image where each holds all the plans' channels, else ``CASE_0000``, ``CASE_0001``, … in the plans'
    order, else those that a description can be proposed for, as case folders. Results of earlier predictions are left
    out.

    Raises:
        AutosegError: no images, label maps among them, or several channels a case for a plan of one.
    """
    results = set(results_in(folder))
    files = [path for path in images_in(folder) if path not in results]
    if results:
        say(f"{folder}: {len(results)} results of an earlier prediction ({PREDICTIONS}) left out.")
    if not files:
        if not results and (cases := cases_as_proposed(folder, plans)):
            return cases
        raise AutosegError(f"{folder} holds no dataset and no images that autoseg can read.")
    _refuse_label_maps(folder, files)
    numbers = {path: re.fullmatch(r"(.+)_(\d{4})", stem(path)) for path in files}
    names = channels_of_all(plans)
    wanted = len(names)
    held = [components_of(path) for path in files] if wanted > 1 else [1]
    # An unreadable file is taken for one of its kind, so that it fails alone and by its name.
    if all(count in (None, wanted) for count in held) and wanted in held:
        # nnU-Net names a picture CASE_0000.png, too, though it holds all channels.
        first_only = all(match and match[2] == "0000" for match in numbers.values())
        if wanted == 1 and not first_only:
            _refuse_several_channels(folder, numbers, names[0])
        found: dict[str, Path] = {}
        for path, match in numbers.items():
            name = match[1] if match and first_only else stem(path)
            if name in found:
                _refuse_twice(folder, name, found[name], path)
            found[name] = path
        return [Case(id=name, channels=all_channels(path, names)) for name, path in found.items()]
    grouped: dict[str, dict[str, ChannelFile]] = {}
    others = []
    for path, match in numbers.items():
        if match and int(match[2]) < wanted:
            channels, name = grouped.setdefault(match[1], {}), names[int(match[2])]
            if name in channels:
                _refuse_twice(folder, f"{match[1]}, {name}", channels[name].path, path)
            channels[name] = ChannelFile(path=path)
        else:
            others.append(path.name)
    if not grouped:
        if cases := cases_as_proposed(folder, plans):
            return cases
        raise AutosegError(
            f"{folder} holds images but no dataset; for {wanted} channels name them CASE_0000, CASE_0001, … "
            f"in the order {', '.join(names)}, or describe the folder with an autoseg.toml."
        )
    if others:
        say(f"{folder}: {', '.join(others)} left out; not named CASE_0000 to CASE_{wanted - 1:04d}.")
    return [Case(id=name, channels=channels) for name, channels in grouped.items()]


def components_of(path: Path) -> int | None:
    """How many channels a file holds, without a picture's alpha; None where it can't be read."""
    try:
        count = read_geometry(path)[1]
    except AutosegError:
        return None
    return colours_of(count) if is_picture(image_ending(path)) else count


def all_channels(path: Path, names: Sequence[str]) -> dict[str, ChannelFile]:
    """Channels of these names, in their order, out of one file."""
    if len(names) == 1:
        return {names[0]: ChannelFile(path=path)}
    return {name: ChannelFile(path=path, component=index) for index, name in enumerate(names)}


def stem(path: Path) -> str:
    """A file's name without the ending of its format."""
    ending = image_ending(path)
    return path.name[: -len(ending)] if ending else path.stem


def _refuse_label_maps(folder: Path, files: Sequence[Path]) -> None:
    """A label map that is predicted as a scan gives a result that nobody asked for, and looks like one."""
    found = [path for path in files if _LABEL_WORD.search(stem(path)) and _is_label_map(path)]
    if found:
        raise AutosegError(
            f"{folder} holds label maps among the scans ({_listed(found)}); move them to another folder, or describe "
            "this one with an autoseg.toml."
        )


def _is_label_map(path: Path) -> bool:
    try:
        return len(value_counts(label_values(read_image(path)))) <= _MOST_VALUES
    except AutosegError:
        return False


def _refuse_several_channels(folder: Path, numbers: dict[Path, re.Match[str] | None], channel: str) -> None:
    """Several cases with the same numbers from 0000 on are cases of several channels, not that many cases."""
    by_case: dict[str, set[str]] = {}
    for match in numbers.values():
        if match:
            by_case.setdefault(match[1], set()).add(match[2])
    several = {name: found for name, found in by_case.items() if len(found) > 1 and "0000" in found}
    if len(several) > 1 and len(set(map(frozenset, several.values()))) == 1:
        count = len(next(iter(several.values())))
        shown = [path for path, match in numbers.items() if match and match[1] in several]
        raise AutosegError(
            f"{folder} holds {len(several)} cases of {count} channels ({_listed(shown)}), and the model has one, "
            f"{channel}; put the files of that channel alone into a folder."
        )


def _refuse_twice(folder: Path, what: str, one: Path, other: Path) -> NoReturn:
    raise AutosegError(f"{folder} has two images of {what} ({one.name}, {other.name}); remove one.")


def _listed(paths: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in paths[:_LISTED])
    return names if len(paths) <= _LISTED else f"{names} and {len(paths) - _LISTED} more"
