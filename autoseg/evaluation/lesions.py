"""Lesion-wise scores: each lesion of the reference is scored by itself, and lesions that are made up count, too.

Three ways to say which predicted lesion belongs to which of the reference:

``touching`` (BraTS 2023, "Lesion-wise performance metrics", github.com/rachitsaluja/BraTS-2023-Metrics): reference
lesions that a dilation joins are one; all predicted components that touch the dilated lesion together are its
prediction; a predicted component that touches none is false. Dice and HD95 (surfaces as in
:mod:`autoseg.evaluation.surface`) are summed over the lesions above a smallest volume and divided by their number plus
that of the false ones; a missed or false lesion has a Dice of 0 and the penalty as its HD95.

``joined`` (BraTS 2024 and 2025, github.com/rachitsaluja/BraTS-2024-Metrics): the same, but predicted components are
joined as those of the reference are, small ones are dropped, and other tissues join lesions, too
(:mod:`autoseg.evaluation.lesion_groups`).

``one_to_one`` (BraTS 2026, package ``brats-evaluation``, on panoptica): components are paired so that the sum of their
Dice is largest; distances run between border voxels, both directions pooled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import cc3d
import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from autoseg.data.boxes import bounding_box, box_of_all, volume_box
from autoseg.evaluation.lesion_groups import (
    LESION_CONNECTIVITY,
    NEIGHBOURS,
    Tissue,
    grown_lesions,
    joined_lesions,
    lesions_of,
    without_small,
)
from autoseg.evaluation.surface import border_hausdorff_95, surface_distances

#: Least Dice of a pair, and the cost of no pair: one that shares no voxel is none.
_NO_PAIR = 1e-6


@dataclass(frozen=True)
class LesionRules:
    """The rules of one challenge.

    Attributes:
        matching: ``touching``, ``joined`` or ``one_to_one``; see the top of this module.
        dilation: steps by which reference lesions are dilated, each to 18 neighbours.
        above_mm3: reference lesions up to this volume do not count; ``joined``: nor do predicted ones.
        penalty_mm: HD95 of a missed or false lesion; NaN for the diagonal of the image in voxels.
        misses: ``counted`` as lesions of Dice 0, or ``left_out`` of the means, which are those of the pairs.
        none: Dice and HD95 where there is no lesion to score and none is false.
        false: ``counted`` as lesions of Dice 0, or ``left_out`` of the means.
        through: tissues that join lesions.
        own: label values of a structure → rules that it has instead, whatever it is called.
    """

    matching: Literal["touching", "joined", "one_to_one"] = "touching"
    dilation: int = 3
    above_mm3: float = 50.0
    penalty_mm: float = 374.0
    misses: Literal["counted", "left_out"] = "counted"
    none: tuple[float, float] = (1.0, 0.0)
    false: Literal["counted", "left_out"] = "counted"
    through: tuple[Tissue, ...] = ()
    own: tuple[tuple[tuple[int, ...], "LesionRules"], ...] = ()

    def of(self, values: Sequence[int], shape: tuple[int, ...]) -> "LesionRules":
        """The rules of a structure, by its label values, in an image of this shape."""
        rules = dict(self.own).get(tuple(sorted(values)), self)
        return replace(rules, penalty_mm=math.hypot(*shape)) if math.isnan(rules.penalty_mm) else rules

    def grouped(self, labels: np.ndarray, values: Sequence[int], voxel_mm3: float, predicted: bool) -> np.ndarray:
        """Number the lesions that label values make, by the rules of ``joined``.

        Args:
            labels: label values ``(z, y, x)`` of the whole image, in which other tissues are, too.
            values: of the structure.
            voxel_mm3: volume of a voxel.
            predicted: or of the reference.
        """
        tissue = Tissue(tuple(values), self.dilation, self.above_mm3)
        return lesions_of(labels, tissue, self.through, voxel_mm3, drop_small=predicted)


#: Rules where no challenge is named: those of BraTS 2023 for gliomas.
GLIOMA_2023 = LesionRules()


class LesionScores(NamedTuple):
    """Scores of one mask.

    Attributes:
        dice: lesion-wise.
        hd95: lesion-wise, mm.
        found: lesions of the reference that have a prediction.
        missed: those that have none.
        false: predicted ones that belong to none.
    """

    dice: float
    hd95: float
    found: int
    missed: int
    false: int


class _Lesion(NamedTuple):
    """A lesion of the reference: its volume, and the scores of its prediction, None where it was missed."""

    mm3: float
    scores: tuple[float, float] | None


def score_lesions(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    rules: LesionRules = GLIOMA_2023,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
) -> LesionScores:
    """Score a mask lesion by lesion.

    Args:
        prediction: bool ``(z, y, x)``.
        reference: bool, of the same shape; what lies outside of both may be cut off, down to two slices of a volume
            along each axis; a picture is ``(1, y, x)``.
        spacing: mm ``(z, y, x)``.
        rules: of the challenge.
        groups: numbered lesions of prediction and reference on the same grid, where other tissues join them
            (:meth:`LesionRules.grouped`).
    """
    if not prediction.any() and not reference.any():
        return LesionScores(*rules.none, 0, 0, 0)
    if rules.matching == "touching":
        lesions, false = _touching(prediction, reference, spacing, rules.dilation)
    elif rules.matching == "joined":
        if groups is None:
            predicted = joined_lesions(prediction, rules.dilation)
            predicted = without_small(predicted, rules.above_mm3 / float(np.prod(spacing)))
            groups = predicted, joined_lesions(reference, rules.dilation)
        lesions, false = _joined(*groups, spacing, rules.dilation)
    else:
        lesions, false = _one_to_one(prediction, reference, spacing)
    counted = [lesion for lesion in lesions if lesion.mm3 > rules.above_mm3]
    pairs = [lesion.scores for lesion in counted if lesion.scores is not None]
    missed = len(counted) - len(pairs)
    dice, hd95 = _means(pairs, missed, false if rules.false == "counted" else 0, rules)
    return LesionScores(dice, hd95, len(pairs), missed, false)


def _means(pairs: Sequence[tuple[float, float]], missed: int, false: int, rules: LesionRules) -> tuple[float, float]:
    if rules.misses == "counted":
        # Without a lesion to score, one-to-one editions say nothing, whatever is made up.
        if not pairs and not missed and (not false or np.isnan(rules.none[0])):
            return rules.none
        scores = [*pairs, *[(0.0, rules.penalty_mm)] * (missed + false)]
    else:
        if not pairs and not missed and not false:
            return rules.none
        scores = list(pairs) or [(0.0, rules.penalty_mm)]
    dice, hd95 = np.mean(scores, axis=0)
    return float(dice), float(hd95)


def _touching(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float], dilation: int
) -> tuple[list[_Lesion], int]:
    """The lesions of the reference, and how many predicted ones touch none."""
    near = grown_lesions(reference, dilation)
    predicted, count = _components(prediction)
    both = (near > 0) & (predicted > 0)
    pairs = np.unique(np.stack([near[both], predicted[both]], axis=1), axis=0)
    boxes = ndimage.find_objects(predicted)
    lesions = []
    for number, box in enumerate(ndimage.find_objects(near), start=1):
        if box is None:
            continue
        touching = [int(other) for one, other in pairs if one == number]
        around_all = box_of_all([box, *(boxes[other - 1] for other in touching)], reference.shape)
        mine = reference[around_all] & (near[around_all] == number)
        voxels = int(np.count_nonzero(mine))
        scores = None
        if touching:
            theirs = np.isin(predicted[around_all], touching)
            cut = volume_box(bounding_box(mine | theirs), mine.shape)
            distance = surface_distances(theirs[cut], mine[cut], spacing).hausdorff(95)
            scores = _dice(theirs, mine), distance
        if voxels:
            lesions.append(_Lesion(voxels * float(np.prod(spacing)), scores))
    return lesions, count - len({int(other) for _, other in pairs})


def _joined(
    predicted: np.ndarray, real: np.ndarray, spacing: tuple[float, float, float], dilation: int
) -> tuple[list[_Lesion], int]:
    """The lesions of the reference, and how many predicted ones touch none; both numbered."""
    boxes, other_boxes = ndimage.find_objects(real), ndimage.find_objects(predicted)
    used: set[int] = set()
    lesions = []
    for number, box in enumerate(boxes, start=1):
        if box is None:
            continue
        room = tuple(slice(max(side.start - dilation, 0), side.stop + dilation) for side in box)
        near = real[room] == number
        if dilation:
            near = ndimage.binary_dilation(near, NEIGHBOURS, iterations=dilation)
        touching = [int(other) for other in np.unique(predicted[room][near]) if other]
        used.update(touching)
        around_all = box_of_all([box, *(other_boxes[other - 1] for other in touching)], real.shape)
        mine = real[around_all] == number
        scores = None
        if touching:
            theirs = np.isin(predicted[around_all], touching)
            scores = _dice(theirs, mine), surface_distances(theirs, mine, spacing).hausdorff(95)
        lesions.append(_Lesion(int(np.count_nonzero(mine)) * float(np.prod(spacing)), scores))
    return lesions, len(set(np.unique(predicted).tolist()) - {0} - used)


def _one_to_one(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[list[_Lesion], int]:
    """The lesions of the reference, and how many predicted ones are in no pair."""
    real, count = _components(reference)
    predicted, others = _components(prediction)
    sizes = np.bincount(real.ravel(), minlength=count + 1)[1:]
    other_sizes = np.bincount(predicted.ravel(), minlength=others + 1)[1:]
    shared = np.zeros((count, others))
    both = (real > 0) & (predicted > 0)
    np.add.at(shared, (real[both] - 1, predicted[both] - 1), 1)
    dices = 2 * shared / np.maximum(sizes[:, None] + other_sizes[None], 1)
    cost = np.where(dices >= _NO_PAIR, 1 - dices, 1 + _NO_PAIR)
    partners = {int(one): int(other) for one, other in zip(*linear_sum_assignment(cost), strict=True)}
    boxes, other_boxes = ndimage.find_objects(real), ndimage.find_objects(predicted)
    lesions, pairs = [], 0
    for number in range(count):
        partner = partners.get(number)
        scores = None
        if partner is not None and dices[number, partner] >= _NO_PAIR:
            box = box_of_all([boxes[number], other_boxes[partner]], real.shape)
            mine, theirs = real[box] == number + 1, predicted[box] == partner + 1
            scores = float(dices[number, partner]), border_hausdorff_95(theirs, mine, spacing)
            pairs += 1
        lesions.append(_Lesion(float(sizes[number]) * float(np.prod(spacing)), scores))
    return lesions, others - pairs


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    labels, count = cc3d.connected_components(mask.astype(np.uint8), connectivity=LESION_CONNECTIVITY, return_N=True)
    return labels.astype(np.int64), int(count)


def _dice(mine: np.ndarray, theirs: np.ndarray) -> float:
    return 2 * int(np.count_nonzero(mine & theirs)) / (int(np.count_nonzero(mine)) + int(np.count_nonzero(theirs)))
