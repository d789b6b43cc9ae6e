"""The protocol of an evaluation: what is measured of two masks, and by which conventions.

This module imports nothing heavy, so that the command line can show its defaults.

What the numbers are where a mask is empty is a convention, and there are two:

``skip`` (default): what is undefined is NaN, and means leave it out. Both empty: every overlap and distance
is NaN (a case without the structure says nothing about how well it is segmented). Only the reference empty
(false alarm): Dice, Jaccard, precision and NSD are 0, sensitivity and distances NaN. Only the prediction
empty (missed): Dice, Jaccard, sensitivity and NSD are 0, precision and distances NaN.

``brats``: every case counts. Both empty: overlaps are 1, distances 0. One empty: overlaps are 0, distances
:data:`autoseg.evaluation.masks.BRATS_PENALTY_MM`; with ``brats2023``, 374 mm. ``brats2026``: both empty is NaN; no
voxel in common is an overlap of 0 and a distance of 373 mm.
"""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from autoseg.utils.errors import UsageError

if TYPE_CHECKING:
    from typing import Self

    from autoseg.evaluation.lesions import LesionRules

Empty = Literal["skip", "brats", "brats2023", "brats2026"]

#: Tolerance of the normalised surface Dice where none is given, in mm.
TOLERANCE_MM = 2.0

#: Metrics measured where none are named, in the order of the files' columns.
STANDARD_METRICS = (
    "dice",
    "jaccard",
    "nsd",
    "hd95",
    "hd",
    "assd",
    "sensitivity",
    "precision",
    "specificity",
    "prediction_ml",
    "reference_ml",
    "difference_ml",
)

#: Bootstrap samples: enough for two digits of a 95 % interval's ends (Efron & Tibshirani 1993, ch. 14: at least 1000).
RESAMPLES = 10_000

#: Cases evaluated at the same time by default; each holds two label maps in memory.
WORKERS = min(8, os.cpu_count() or 1)

#: Cases whose agreement is measured at the same time by default; each holds all annotators' label maps in memory.
AGREEMENT_WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class EvaluationProtocol:
    """What is measured of two masks, and by which conventions; the same for all cases.

    Attributes:
        tolerance_mm: of the normalised surface Dice.
        empty: convention for empty masks (see the top of this module).
        ignore: reference voxels of this label value do not count; None where all do.
        metrics: names of registered metrics; None for the usual ones: :data:`STANDARD_METRICS` of an evaluation, the
            Dice of an agreement.
        lesions: rules of lesion-wise scores; None for those of BraTS 2023 for gliomas.
        known: label values that files may have besides 0 and the ignored one; None for any.

    Raises:
        UsageError: a negative tolerance, or an unknown convention.
    """

    tolerance_mm: float = TOLERANCE_MM
    empty: Empty = "skip"
    ignore: int | None = None
    metrics: tuple[str, ...] | None = None
    lesions: "LesionRules | None" = None
    known: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.tolerance_mm >= 0:
            raise UsageError(f"--tolerance {self.tolerance_mm} is no distance; give 0 or more millimetres.")
        if self.empty not in get_args(Empty):
            raise UsageError(f"--empty {self.empty} is unknown; choose one of {', '.join(get_args(Empty))}.")

    def with_metrics(self, *names: str) -> "Self":
        """The same protocol that measures these, too; unchanged where it measures the usual ones."""
        if self.metrics is None:
            return self
        return replace(self, metrics=tuple(dict.fromkeys((*self.metrics, *names))))

    def with_ignore(self, value: int | None) -> "Self":
        """The same protocol that ignores a dataset's label value, unless it names one itself."""
        return self if self.ignore is not None else replace(self, ignore=value)
