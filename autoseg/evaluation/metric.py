"""What a metric is, what it is computed from, and the registry of all metrics.

One more metric is one file; within autoseg it lies in :mod:`autoseg.evaluation.metrics`, outside it belongs to a
package that names it as an entry point of the group ``autoseg.extensions``::

    from autoseg.evaluation.metric import METRICS, MaskPair, Metric

    def volume_similarity(masks: MaskPair) -> float:
        return 1 - masks.ratio(abs(masks.predicted - masks.real), masks.predicted + masks.real)

    METRICS.register("volume_similarity", Metric(volume_similarity, "Volume similarity", "overlap", "more"))

``autoseg evaluate --metrics dice,volume_similarity`` measures it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from autoseg.evaluation.lesions import GLIOMA_2023, LesionRules, LesionScores, score_lesions
from autoseg.evaluation.surface import SurfaceDistances, surface_distances
from autoseg.utils.registry import Registry

#: What is good about a metric: larger values, smaller ones, or neither (a volume).
Direction = Literal["more", "less", "neither"]

#: What a metric is, which decides what it is worth where a mask is empty: a share of 0 to 1 of foreground that is in
#: common, a distance in mm, a volume in ml, or something else (computed as it is).
Kind = Literal["overlap", "distance", "volume", "other"]


@dataclass(frozen=True)
class MaskPair:
    """A predicted mask and its reference, and what metrics are computed from, each when it is first used.

    Attributes:
        prediction: bool ``(z, y, x)``, cut to the box of both masks, a volume to two slices or more; for a picture
            ``(1, y, x)``.
        reference: bool, of the same shape.
        spacing: mm ``(z, y, x)``.
        voxels: number of voxels of the whole image that count.
        tolerance_mm: up to which surfaces are taken for the same.
        lesions: rules of lesion-wise scores.
        groups: numbered lesions of prediction and reference, cut likewise, where these rules join them through other
            tissues.
    """

    prediction: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, float, float]
    voxels: int
    tolerance_mm: float
    lesions: LesionRules = GLIOMA_2023
    groups: tuple[np.ndarray, np.ndarray] | None = None

    @cached_property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return int(np.count_nonzero(self.prediction))

    @cached_property
    def real(self) -> int:
        """Voxels of the reference."""
        return int(np.count_nonzero(self.reference))

    @cached_property
    def shared(self) -> int:
        """Voxels of both: the true positive ones."""
        return int(np.count_nonzero(self.prediction & self.reference))

    @property
    def an_empty_one(self) -> bool:
        """Whether the prediction, the reference or both are empty; there are no distances then."""
        return not (self.predicted and self.real)

    @cached_property
    def surfaces(self) -> SurfaceDistances:
        """Distances between the two surfaces; only where neither mask is empty."""
        return surface_distances(self.prediction, self.reference, self.spacing)

    @cached_property
    def lesion_scores(self) -> LesionScores:
        """Lesion by lesion; empty masks, too."""
        return score_lesions(self.prediction, self.reference, self.spacing, self.lesions, self.groups)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return float(np.prod(self.spacing)) / 1000

    @staticmethod
    def ratio(part: float, whole: float) -> float:
        """``part / whole``, NaN where ``whole`` is zero."""
        return part / whole if whole else float("nan")


@dataclass(frozen=True)
class Metric:
    """A metric and how it is shown.

    Attributes:
        compute: the value for a pair of masks, NaN where undefined. Not called for a distance where a mask is empty.
        heading: of its column in tables, without the unit.
        kind: what it is.
        better: which values are.
        unit: ``mm``, ``ml``, or nothing.
        digits: decimals in tables.
        symmetric: the same when prediction and reference change places, so that it can measure the agreement of two
            annotations neither of which is the reference.
        uses_tolerance: depends on the tolerance, which its heading then names.
    """

    compute: Callable[[MaskPair], float]
    heading: str
    kind: Kind
    better: Direction
    unit: str = ""
    digits: int = 3
    symmetric: bool = False
    uses_tolerance: bool = False

    @property
    def title(self) -> str:
        """Heading with unit."""
        return f"{self.heading} {self.unit}".rstrip()


METRICS: Registry[Metric] = Registry("metric", option="--metrics", package="autoseg.evaluation.metrics")
