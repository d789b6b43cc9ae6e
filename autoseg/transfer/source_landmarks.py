"""The intensities that a source's weights know, onto which other images are mapped (``--harmonize``)."""

from collections.abc import Collection
from functools import partial

from autoseg.data.boxes import foreground
from autoseg.data.dataset import Case, load_case
from autoseg.data.fingerprint import case_landmarks, mean_landmarks
from autoseg.plans.stage import Stage
from autoseg.runs.run import Run
from autoseg.utils.errors import UsageError
from autoseg.utils.parallel import each


def source_landmarks(
    run: Run, stage: Stage, channels: Collection[str], keeps: bool, workers: int | None = None
) -> dict[str, list[float]]:
    """Channel → intensities at the landmarks, of the images that a source was trained on.

    They are measured where no file of its run has them. A run that keeps its own source knows of that one's images only
    what its own were harmonized to.

    Args:
        run: folder of the source.
        stage: of its plan.
        channels: of the source.
        keeps: whether the run keeps the source that it was fine-tuned from itself.
        workers: processes that read images, where they are measured; None for one a core.

    Raises:
        UsageError: they are not known and can't be measured, or no training image has one of the channels.
    """
    # A source that was harmonized itself has only seen what its own plan maps to.
    known = {**({} if keeps else run.fingerprint.landmarks), **stage.preprocessing.harmonize}
    if not set(channels) <= known.keys():
        if keeps:
            raise UsageError(
                f"--harmonize: {run.path} keeps the source that it was fine-tuned from, and does not say which "
                "intensities that one's training images had; leave the option out, or start from that source itself."
            )
        known = {**_measured(run, workers), **known}
    if unknown := sorted(set(channels) - known.keys()):
        raise UsageError(f"--harmonize: no training image of {run.path} has {', '.join(unknown)}; leave it out.")
    return {name: known[name] for name in channels}


def _measured(run: Run, workers: int | None) -> dict[str, list[float]]:
    cases = run.dataset.cases
    if not cases or not all(case.has_scans for case in cases):
        raise UsageError(
            f"--harmonize: the fingerprint of {run.path} does not say which intensities its training images "
            "had (it was imported, or made by an earlier version), and they are not at hand; leave the option out."
        )
    measure = partial(_of_case, run.plan.channel_names)
    return mean_landmarks(each(measure, cases, workers, "Intensities of the source's images"))


def _of_case(channels: list[str], case: Case) -> dict[str, list[float]]:
    loaded = load_case(case, channels, with_label=False)
    return case_landmarks(loaded, channels, foreground(loaded.image, loaded.mask))
