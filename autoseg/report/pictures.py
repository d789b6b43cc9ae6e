"""A picture of one predicted case, beside its result."""

from pathlib import Path

from autoseg.dataset import Case, load_case
from autoseg.errors import AutosegError
from autoseg.evaluation.cases import read_labels
from autoseg.plan import Plan
from autoseg.report.overlay import overlay_png


def prediction_picture(case: Case, prediction: Path, plan: Plan, out: Path) -> None:
    """Draw a predicted label map on the case's first channel of the plan, with the reference where the case has one.

    Args:
        case: the scan.
        prediction: its label map.
        plan: names the channels and what was segmented.
        out: PNG file to write.

    Raises:
        AutosegError: a file can't be read, or the case has no channel.
    """
    labels, _ = read_labels(prediction)
    # A case of several runs may have channels of another's plan only.
    channel = next((name for name in (*plan.channel_names, *case.channels) if name in case.channels), None)
    if channel is None:
        raise AutosegError(f"case {case.id} has no image of any channel to be drawn on; add its files.")
    loaded = load_case(case, [channel])
    names = {output.name: output.values for output in plan.target.outputs}
    overlay_png(loaded.image[0], labels, loaded.label, loaded.spacing, names, title=case.id, out=out)
