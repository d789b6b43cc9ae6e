"""A folder of images that nothing describes: which of them are scans, and which belong to one case."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from autoseg.data.counts import value_counts
from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.data.file_names import colours_of, image_ending, images_in, is_image, is_picture, stem
from autoseg.data.image import read_geometry, read_image
from autoseg.data.label_maps import label_values
from autoseg.data.names import names_label
from autoseg.data.result_files import PREDICTIONS, results_in
from autoseg.inference.channel_numbers import ChannelNumbers, numbered
from autoseg.inference.like_training import cases_as_proposed, channels_as_proposed
from autoseg.plans.plan import Plan, channels_of_all
from autoseg.utils.errors import AutosegError
from autoseg.utils.progress import say
from autoseg.utils.text import listed

#: A word of a file's name that label maps have.
_LABEL_WORD = re.compile(
    r"(^|[_\-. ])(seg|segm|segmentation|labels?|lbl|masks?|gt|ground.?truth|annotation|roi|lesion|tumou?r)([_\-. ]|$)",
    re.I,
)

#: Different values that a label map has, at most.
_MOST_VALUES = 120


def bare_images(folder: Path, plans: Sequence[Plan], datasets: Sequence[Dataset] = ()) -> list[Case]:
    """The cases of a folder of images.

    One case an image where each holds all the plans' channels, else ``CASE_0000``, ``CASE_0001``, … numbered as the
    training data or in the plans' order, else those that a description can be proposed for, as case folders. Results
    of earlier predictions are left out.

    Args:
        folder: of the images.
        plans: say which channels.
        datasets: that the runs were trained on.

    Raises:
        AutosegError: no images, label maps among them, or several channels a case for a plan of one.
    """
    results, files = set(results_in(folder)), _scans_in(folder)
    if results:
        say(f"{folder}: {len(results)} results of an earlier prediction ({PREDICTIONS}) left out.")
    if not files:
        if not results and (cases := cases_as_proposed(folder, plans)):
            return cases
        if proposed := channels_as_proposed(folder):
            raise AutosegError(
                f"{folder} holds no dataset; its scans seem to be {', '.join(proposed)}, and the model takes "
                f"{', '.join(channels_of_all(plans))}: give them with --channel, or describe them in an autoseg.toml."
            )
        raise AutosegError(f"{folder} holds no dataset and no images that autoseg can read.")
    named = [path for path in files if _LABEL_WORD.search(stem(path))]
    _refuse_label_maps(folder, named)
    numbers = ChannelNumbers.of(plans, datasets)
    if _of_one_numbered_channel(files, numbers):
        return _by_number(folder, files, numbers)
    # An unreadable file is taken for one of its kind, so that it fails alone and by its name.
    one_alone = len(numbers.names) == len(numbers.channels) == 1
    counts = [1] * len(files) if one_alone else [components_of(path) for path in files]
    places = [None if count is None else numbers.places(count) for count in counts]
    whole = next((found for found in places if found is not None), None)
    if whole is None and len(numbers.names) == 1:  # no file can be read
        whole = numbers.places(1)
    if whole is not None and all(found or count is None for found, count in zip(places, counts, strict=True)):
        read = set(named)
        others = (path for path in files if path not in read)
        _refuse_label_maps(folder, [p for p in others if names_label(stem(p)) or _names_output(p, plans)])
        return _by_file(folder, files, [found or whole for found in places], numbers)
    if not any(numbers.channel(path) in numbers.names for path in files):
        if cases := cases_as_proposed(folder, plans):
            return cases
        raise AutosegError(
            f"{folder} holds images but no dataset; name them {numbers.told}, or describe the folder with an "
            "autoseg.toml."
        )
    return _by_number(folder, files, numbers)


def case_name(path: Path, numbers: ChannelNumbers, holds_all: bool) -> str:
    """The name of the case of one image, the same as where its folder is given: without the number of its channel.

    Args:
        path: of the image.
        numbers: what they stand for.
        holds_all: whether the image holds all channels that are wanted.
    """
    one = numbered(path) if is_image(path) else None
    if one is None:
        return stem(path)
    beside = _scans_in(path.parent)
    if holds_all and not _of_one_numbered_channel(beside, numbers):
        return one[0] if _all_first(beside) else stem(path)
    return one[0] if numbers.channel(path) is not None else stem(path)


def _scans_in(folder: Path) -> list[Path]:
    """Images of a folder that are no results."""
    results = set(results_in(folder))
    return [path for path in images_in(folder) if path not in results]


def _all_first(files: Sequence[Path]) -> bool:
    """Whether all files are numbered 0000: nnU-Net names a picture CASE_0000.png, too, though it holds all channels."""
    return all((one := numbered(path)) is not None and one[1] == 0 for path in files)


def _of_one_numbered_channel(files: Sequence[Path], numbers: ChannelNumbers) -> bool:
    """Whether all files have numbers of the training data's channels, of which the only one wanted is there."""
    if len(numbers.names) != 1 or len(numbers.channels) == 1:
        return False
    channels = {numbers.channel(path) for path in files}
    return None not in channels and numbers.names[0] in channels


def _by_file(
    folder: Path, files: Sequence[Path], places: Sequence[Mapping[str, int | None]], numbers: ChannelNumbers
) -> list[Case]:
    """A case a file, each of which holds all channels."""
    named, first_only = [numbered(path) for path in files], _all_first(files)
    if len(numbers.names) == 1 and not first_only:
        _refuse_several_channels(folder, files, numbers.names[0])
    others = {channel for path in files if (channel := numbers.channel(path)) is not None} - {*numbers.names}
    if len(numbers.names) == 1 and others:
        told = ", ".join(sorted(others))
        say(f"{folder}: images are taken for {numbers.names[0]}; of their number is {told} in the training data.")
    if list(places[0].values()) not in ([None], list(range(len(numbers.names)))):
        numbers.say(folder)
    found: dict[str, Path] = {}
    cases = []
    for path, one, place in zip(files, named, places, strict=True):
        name = one[0] if one and first_only else stem(path)
        if name in found:
            _refuse_twice(folder, name, found[name], path)
        found[name] = path
        cases.append(Case(id=name, channels=all_channels(path, place)))
    return cases


def _by_number(folder: Path, files: Sequence[Path], numbers: ChannelNumbers) -> list[Case]:
    """The cases of files that are numbered by their channel; channels that no plan has are left out."""
    grouped: dict[str, dict[str, ChannelFile]] = {}
    others = []
    for path in files:
        one, name = numbered(path), numbers.channel(path)
        if one is None or name is None:
            others.append(path.name)
        elif name in numbers.names:
            channels = grouped.setdefault(one[0], {})
            if name in channels:
                _refuse_twice(folder, f"{one[0]}, {name}", channels[name].path, path)
            channels[name] = ChannelFile(path=path)
    if others:
        say(f"{folder}: {', '.join(others)} left out; their names have no number of a channel ({numbers.told}).")
    numbers.say(folder)
    return [Case(id=name, channels=channels) for name, channels in grouped.items()]


def components_of(path: Path) -> int | None:
    """How many channels a file holds, without a picture's alpha; None where it can't be read."""
    try:
        count = read_geometry(path)[1]
    except AutosegError:
        return None
    return colours_of(count) if is_picture(image_ending(path)) else count


def all_channels(path: Path, places: Mapping[str, int | None]) -> dict[str, ChannelFile]:
    """Channels out of one file, each from its place (:meth:`ChannelNumbers.places`)."""
    return {name: ChannelFile(path=path, component=place) for name, place in places.items()}


def _names_output(path: Path, plans: Sequence[Plan]) -> bool:
    """Whether a file's name has the name of what a model segments."""
    names = {output.name for plan in plans for output in plan.target.outputs}
    patterns = (r"[\W_]*".join(map(re.escape, re.findall(r"[^\W_]+", name))) for name in names)
    return any(re.search(rf"(?<![^\W_]){name}(?![^\W_])", stem(path), re.I) for name in patterns if name)


def _refuse_label_maps(folder: Path, named: Sequence[Path]) -> None:
    """A label map that is predicted as a scan gives a result that nobody asked for, and looks like one."""
    found = [path for path in named if _is_label_map(path)]
    if found:
        raise AutosegError(
            f"{folder} holds label maps among the scans ({listed(path.name for path in found)}); move them to another "
            "folder, or describe this one with an autoseg.toml."
        )


def _is_label_map(path: Path) -> bool:
    try:
        return len(value_counts(label_values(read_image(path)))) <= _MOST_VALUES
    except AutosegError:
        return False


def _refuse_several_channels(folder: Path, files: Sequence[Path], channel: str) -> None:
    """Several cases with the same numbers from 0000 on are cases of several channels, not that many cases."""
    by_case: dict[str, list[int]] = {}
    for path in files:
        if (one := numbered(path)) is not None:
            by_case.setdefault(one[0], []).append(one[1])
    several = {name: found for name, found in by_case.items() if len(set(found)) > 1 and 0 in found}
    if len(several) > 1 and len(set(map(frozenset, several.values()))) == 1:
        count = len(set(next(iter(several.values()))))
        shown = [path for path in files if (one := numbered(path)) is not None and one[0] in several]
        raise AutosegError(
            f"{folder} holds {len(several)} cases of {count} channels ({listed(path.name for path in shown)}), and the "
            f"model has one, {channel}; put the files of that channel alone into a folder."
        )


def _refuse_twice(folder: Path, what: str, one: Path, other: Path) -> NoReturn:
    raise AutosegError(f"{folder} has two images of {what} ({one.name}, {other.name}); remove one.")
