"""A picture of one predicted case, beside its result."""

from pathlib import Path

from autoseg.dataset import Case, load_case
from autoseg.evaluation.cases import read_labels
from autoseg.plan import Plan
from autoseg.report.overlay import overlay_png


def prediction_picture(case: Case, prediction: Path, plan: Plan, out: Path) -> None:
    """Draw a predicted label map on the case's first channel, with the reference where the case has one.

    Args:
        case: the scan.
        prediction: its label map.
        plan: names the channels and what was segmented.
        out: PNG file to write.

    Raises:
        AutosegError: a file can't be read.
    """
    labels, _ = read_labels(prediction)
    channel = next(name for name in plan.channel_names if name in case.channels)
    loaded = load_case(case, [channel])
    names = {output.name: output.values for output in plan.target.outputs}
    overlay_png(loaded.image[0], labels, loaded.label, loaded.spacing, names, title=case.id, out=out)
