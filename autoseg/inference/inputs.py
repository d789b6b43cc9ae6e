"""What to predict: a dataset in any layout, a folder of images, or single files."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.data.dicom import is_dicom
from autoseg.data.dicom_headers import read_dicom_header
from autoseg.data.file_names import is_image, stem, why_not_plain
from autoseg.data.image import refuse_part
from autoseg.data.layouts.bids import names_of_channel
from autoseg.data.layouts.dicom import DICOM
from autoseg.data.layouts.layout import PROPOSED, datasets_below, recognise_layout
from autoseg.data.names import SEQUENCES, channel_key, pair, sequence_in
from autoseg.data.result_files import results_in
from autoseg.inference.bare_images import all_channels, bare_images, case_name, components_of
from autoseg.inference.channel_numbers import ChannelNumbers, numbered
from autoseg.inference.like_training import cases_as_proposed, cases_like
from autoseg.plans.plan import Plan, channels_of_all
from autoseg.plans.stage import Stage
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import say
from autoseg.utils.text import listed


def cases_to_predict(
    path: str | Path,
    plan: Plan | Sequence[Plan],
    layout: str | None = None,
    everything: bool = False,
    like: Dataset | Sequence[Dataset] | None = None,
) -> list[Case]:
    """The cases in a folder.

    A dataset gives its unlabelled cases where it has any (its test set), else all; its channels may go by other names
    than the plan's, as ``T1ce`` for ``t1c``. A folder of bare images gives one
    case an image where each holds all the plan's channels, else groups ``CASE_0000``, ``CASE_0001``, … by the numbers
    of the training data, or in its order where those have none.

    Args:
        path: dataset, or folder of images or of DICOM series, or one image file.
        plan: says which channels; of several runs, the plans of all.
        layout: of the dataset, to skip the recognition.
        everything: labelled cases too.
        like: what the run or runs were trained on: a folder that nothing describes may be laid out as it is, or its
            channels numbered so, and where BIDS calls a channel otherwise beside other scans, its files tell which one
            is meant.

    Raises:
        AutosegError: nothing there that can be predicted.
    """
    path = Path(path)
    if not path.exists():
        raise AutosegError(f"{path} does not exist.")
    plans = [plan] if isinstance(plan, Plan) else list(plan)
    datasets = [] if like is None else [like] if isinstance(like, Dataset) else list(like)
    if layout is None and path.is_file() and (is_image(path) or is_dicom(path)):
        refuse_part(path)
        numbers, count = ChannelNumbers.of(plans, datasets), components_of(path)
        places = None if count is None else numbers.places(count)
        if places is None:
            return [_case_of_one_channel(path, plans, numbers)]
        if list(places.values()) not in ([None], list(range(len(numbers.names)))):
            numbers.say(path)
        other = numbers.channel(path)
        if len(numbers.names) == 1 and other not in (None, *numbers.names):
            say(f"{path.name} is taken for {numbers.names[0]}; of its number is {other} in the training data.")
        return [Case(id=case_name(path, numbers, holds_all=True), channels=all_channels(path, places))]
    kind = recognise_layout(path) if layout is None and path.is_dir() else layout or ""
    if kind is None and (several := datasets_below(path)):
        raise AutosegError(f"{path} holds several datasets; give one of them: {', '.join(several)}.")
    if kind in (None, PROPOSED):
        if cases := cases_like(path, plans, datasets):
            return cases
        # Results beside the scans look like their label maps.
        proposed = cases_as_proposed(path, plans) if kind == PROPOSED and not results_in(path) else []
        return proposed or bare_images(path, plans, datasets)
    dataset = Dataset.open(path, layout)
    cases = [*dataset.cases, *dataset.unlabelled] if everything else list(dataset.unlabelled or dataset.cases)
    _refuse_strays(dataset, cases)
    _refuse_namesakes(dataset)
    if dataset.layout == DICOM:
        cases = [_only_series(case, plans) for case in cases]
    return by_other_names(cases, dataset.channels, plans, datasets)


def _refuse_strays(dataset: Dataset, cases: Sequence[Case]) -> None:
    """Refuse to leave images out that lie in one folder with the scans to predict, and are no case's by their names."""
    scans = {file.path.parent: file.path.name for case in cases for file in case.channels.values()}
    strays = [path for path in dataset.strays if path.parent in scans]
    if strays:
        raise AutosegError(
            f"{strays[0].parent} holds images that belong to no case by their names "
            f"({listed(path.name for path in strays)}); name them like {scans[strays[0].parent]}, or move them "
            "elsewhere."
        )


def _refuse_namesakes(dataset: Dataset) -> None:
    """Refuse a test set of which scans are left out, or that is taken for none, as training cases have their names."""
    if dataset.namesakes:
        folder, names = dataset.namesakes[0].parent, listed(path.name for path in dataset.namesakes)
        raise AutosegError(
            f"{folder} holds scans with the name of a training case ({names}); rename them, or predict the folder "
            f"itself, {folder}."
        )


def single_case(
    files: dict[str, Path],
    stages: Sequence[Stage],
    name: str | None = None,
    mask: Path | None = None,
    numbers: ChannelNumbers | None = None,
) -> Case:
    """One case of files named by channel (``--channel t1c=PATH``).

    Args:
        files: channel name → file.
        stages: that will predict the case, one of every run; each takes the channels it knows.
        name: of the case; the first file's by default, without a channel's number.
        mask: its brain mask, if any (``--mask``).
        numbers: channels by their numbers in files' names.

    Raises:
        UsageError: a channel that no plan has, or one not given that a plan can't do without, or DICOM files of two
            patients.
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
        refuse_part(path)
    needed = list(
        dict.fromkeys(
            channel for stage in stages if not stage.takes_missing_channels for channel in stage.channel_names
        )
    )
    lacking = [channel for channel in needed if channel not in files]
    if lacking:
        raise UsageError(f"--channel {lacking[0]}=PATH is missing; the plan needs {', '.join(needed)}.")
    _refuse_two_patients(files)
    name = name or _name_of(files, numbers)
    return Case(id=name, channels={c: ChannelFile(path=p) for c, p in files.items()}, mask=mask)


def _name_of(files: dict[str, Path], numbers: ChannelNumbers | None) -> str:
    """The first one's, or what stands before the numbers, where they are those of the channels of one case."""
    found = {one[0] for path in files.values() if (one := numbered(path)) is not None}
    told = numbers is not None and all(numbers.channel(path) == channel for channel, path in files.items())
    if told and len(found) == 1:
        return found.pop()
    first = next(iter(files.values()))
    return first.name if first.is_dir() else stem(first)


def _refuse_two_patients(files: dict[str, Path]) -> None:
    """Refuse channels whose DICOM files have different identifiers of a patient, which are not shown."""
    patients: dict[str, str] = {}
    for channel, path in files.items():
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        file = next((one for one in inside if is_dicom(one)), None)
        header = None if file is None else read_dicom_header(file)
        if header is not None and header.text("PatientID"):
            patients.setdefault(header.text("PatientID"), channel)
    if len(patients) > 1:
        one, other, *_ = patients.values()
        raise UsageError(
            f"--channel {one} and --channel {other} are DICOM of different patients, by PatientID; give scans of one, "
            "or convert them to NIfTI if they are."
        )


def _case_of_one_channel(path: Path, plans: Sequence[Plan], numbers: ChannelNumbers) -> Case:
    """The case of one image, which is the channel that the plans can't do without, or the one that its name tells."""
    stages = [plan.stage() for plan in plans]
    names = channels_of_all(plans)
    needed = [stage.channel_names[0] for stage in stages if not stage.takes_missing_channels]
    if needed or len(names) == 1:
        return single_case({(needed or names)[0]: path}, stages, case_name(path, numbers, len(names) == 1))
    told = _channels_told(path, numbers)
    if len(told) != 1:
        raise UsageError(
            f"{path}: its name does not tell which channel of the plan it is ({', '.join(names)}); give it with "
            "--channel NAME=PATH."
        )
    say(f"{path.name} is taken for {told[0]}.")
    return single_case({told[0]: path}, stages, case_name(path, numbers, holds_all=False))


def _channels_told(path: Path, numbers: ChannelNumbers) -> list[str]:
    """The channels of the plans that a file's name speaks of: by nnU-Net's number, and by the sequence."""
    names, channel = numbers.names, numbers.channel(path)
    by_number = [channel] if channel in names else []
    # A name of BIDS tells the contrast agent apart from the sequence.
    keys: set[str | None] = {channel_key(name) for name in names_of_channel(path)} or {sequence_in(stem(path))}
    return list(dict.fromkeys([*by_number, *(name for name in names if channel_key(name) in keys)]))


def _only_series(case: Case, plans: Sequence[Plan]) -> Case:
    """An exam of one series of no known sequence, for a plan of one channel: the channel is that."""
    alone = {plan.channel_names[0] for plan in plans if len(plan.channels) == 1}
    (wanted,) = alone if len(alone) == 1 else ("",)
    if not wanted or len(case.channels) != 1:
        return case
    ((name, file),) = case.channels.items()
    if name in SEQUENCES.values() and channel_key(wanted) in SEQUENCES.values():
        return case
    say(f"{case.id}: {file.path} is taken for {wanted}.")
    return case.model_copy(update={"channels": {wanted: file}})


def by_other_names(
    cases: list[Case], channels: Sequence[str], plans: Sequence[Plan], datasets: Sequence[Dataset] = ()
) -> list[Case]:
    """Let a sequence that the dataset calls otherwise (``T1ce``) be found under the plan's name (``t1c``), too.

    Args:
        cases: of the dataset.
        channels: of the dataset.
        plans: that the cases are for.
        datasets: that the runs were trained on: where BIDS calls a channel otherwise beside other scans, their files
            tell which one is meant.
    """
    found: dict[str, str] = {}
    for plan in plans:
        found |= pair(plan.channel_names, channels, channel_key)
    found |= _as_in_training(channels_of_all(plans), channels, datasets)
    others = {name: other for name, other in found.items() if name != other}
    if not others:
        return cases
    say(f"{', '.join(f'{other} is taken for {name}' for name, other in others.items())}.")
    return [
        case.model_copy(
            update={
                "channels": {
                    **{name: file for name, file in case.channels.items() if name not in others},
                    **{name: case.channels[other] for name, other in others.items() if other in case.channels},
                }
            }
        )
        for case in cases
    ]


def _as_in_training(names: Sequence[str], channels: Sequence[str], datasets: Sequence[Dataset]) -> dict[str, str]:
    """Plan's name → what a dataset calls the kind of scan that this was in training, where its name tells less.

    BIDS tells by more than the suffix what comes in several kinds; and runs of earlier versions call enhanced scans by
    the suffix, where they saw no others.
    """
    found: dict[str, str] = {}
    for dataset in datasets:
        for name in names:
            file = next((case.channels[name].path for case in dataset.cases if name in case.channels), None)
            own = names_of_channel(file) if file else []
            called = next((one for one in own if one.endswith(f"_{name}") and one in channels), None)
            # What lies there by the plan's name is another kind, which may do; a native scan for an enhanced one never.
            if called and (name not in channels or own[-1] != name):
                found.setdefault(name, called)
    return found
