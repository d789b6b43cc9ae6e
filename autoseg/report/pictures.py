"""Figures of one predicted case, written beside its result."""

from pathlib import Path

from autoseg.data.dataset import Case, LoadedCase, load_case
from autoseg.data.image import read_image
from autoseg.evaluation.cases import read_labels
from autoseg.plans.plan import Plan
from autoseg.plans.target import Target
from autoseg.report.heat import heat_png
from autoseg.report.overlay import overlay_png
from autoseg.utils.errors import AutosegError


def prediction_picture(case: Case, prediction: Path, plan: Plan, target: Target, out: Path) -> None:
    """Draw a predicted label map on the case's first channel of the plan, with the reference where the case has one.

    Args:
        case: the scan.
        prediction: its label map.
        plan: names the channels.
        target: that was predicted.
        out: PNG file to write.

    Raises:
        AutosegError: a file can't be read, or the case has no channel.
    """
    labels, _ = read_labels(prediction)
    loaded = _background(case, plan)
    names = {output.name: output.values for output in target.outputs}
    overlay_png(loaded.image[0], labels, loaded.label, loaded.spacing, names, title=case.id, out=out)


def disagreement_picture(case: Case, disagreement: Path, plan: Plan, out: Path) -> None:
    """Draw a map of disagreement on the case's first channel of the plan.

    Args:
        case: the scan.
        disagreement: values from 0 to 1.
        plan: names the channels.
        out: PNG file to write.

    Raises:
        AutosegError: a file can't be read, or the case has no channel.
    """
    heat, loaded = read_image(disagreement).array[0], _background(case, plan)
    heat_png(loaded.image[0], heat, loaded.spacing, "disagreement", title=case.id, out=out)


def _background(case: Case, plan: Plan) -> LoadedCase:
    # A case of several runs may have channels of another's plan only.
    channel = next((name for name in (*plan.channel_names, *case.channels) if name in case.channels), None)
    if channel is None:
        raise AutosegError(f"case {case.id} has no image of any channel to be drawn on; add its files.")
    return load_case(case, [channel])
