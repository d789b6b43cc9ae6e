"""What to predict: a dataset in any layout, a folder of images, or single files."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.data.dicom import is_dicom
from autoseg.data.file_names import is_image, why_not_plain
from autoseg.data.image import refuse_part
from autoseg.data.layouts.dicom import DICOM
from autoseg.data.layouts.layout import PROPOSED, datasets_below, recognise_layout
from autoseg.data.names import SEQUENCES, channel_key, pair
from autoseg.inference.bare_images import all_channels, bare_images, components_of, stem
from autoseg.inference.like_training import cases_as_proposed, cases_like
from autoseg.inference.results.folder import results_in
from autoseg.plans.plan import Plan
from autoseg.plans.stage import Stage
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import say


def cases_to_predict(
    path: str | Path,
    plan: Plan,
    layout: str | None = None,
    everything: bool = False,
    like: Dataset | None = None,
) -> list[Case]:
    """The cases in a folder.

    A dataset gives its unlabelled cases where it has any (its test set), else all; its channels may go by other names
    than the plan's, as ``T1ce`` for ``t1c``. A folder of bare images gives one
    case an image where each holds all the plan's channels, else groups ``CASE_0000``, ``CASE_0001``, … in its order.

    Args:
        path: dataset, or folder of images or of DICOM series, or one image file.
        plan: says which channels.
        layout: of the dataset, to skip the recognition.
        everything: labelled cases too.
        like: dataset that the run was trained on: a folder that nothing describes may be laid out as it is.

    Raises:
        AutosegError: nothing there that can be predicted.
    """
    path = Path(path)
    if not path.exists():
        raise AutosegError(f"{path} does not exist.")
    if layout is None and path.is_file() and (is_image(path) or is_dicom(path)):
        refuse_part(path)
        if components_of(path) != len(plan.channels):
            return [single_case({plan.channel_names[0]: path}, [plan.stage()])]
        return [Case(id=stem(path), channels=all_channels(path, plan))]
    kind = recognise_layout(path) if layout is None and path.is_dir() else layout or ""
    if kind is None and (several := datasets_below(path)):
        raise AutosegError(f"{path} holds several datasets; give one of them: {', '.join(several)}.")
    if kind in (None, PROPOSED):
        # Results beside the scans look like their label maps.
        proposed = cases_as_proposed(path, plan) if kind == PROPOSED and not results_in(path) else []
        return cases_like(path, plan, like) or proposed or bare_images(path, plan)
    dataset = Dataset.open(path, layout)
    cases = [*dataset.cases, *dataset.unlabelled] if everything else list(dataset.unlabelled or dataset.cases)
    if dataset.layout == DICOM:
        cases = [_only_series(case, plan) for case in cases]
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
        refuse_part(path)
    needed = list(
        dict.fromkeys(
            channel for stage in stages if not stage.takes_missing_channels for channel in stage.channel_names
        )
    )
    lacking = [channel for channel in needed if channel not in files]
    if lacking:
        raise UsageError(f"--channel {lacking[0]}=PATH is missing; the plan needs {', '.join(needed)}.")
    first = next(iter(files.values()))
    return Case(id=name or stem(first), channels={c: ChannelFile(path=p) for c, p in files.items()}, mask=mask)


def _only_series(case: Case, plan: Plan) -> Case:
    """An exam of one series of no known sequence, for a plan of one channel: the channel is that."""
    (wanted,) = plan.channel_names if len(plan.channels) == 1 else ("",)
    if not wanted or len(case.channels) != 1:
        return case
    ((name, file),) = case.channels.items()
    if name in SEQUENCES.values() and channel_key(wanted) in SEQUENCES.values():
        return case
    say(f"{case.id}: {file.path} is taken for {wanted}.")
    return case.model_copy(update={"channels": {wanted: file}})


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
