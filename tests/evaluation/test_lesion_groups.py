"""Lesions of BraTS 2024 and 2025, hand-worked: joined by dilation and through other tissues, small ones dropped."""

import math

import numpy as np
import pytest

from autoseg.evaluation.cases import evaluate_arrays
from autoseg.evaluation.challenges import EVALUATIONS, brats_evaluation
from autoseg.evaluation.lesion_groups import joined_lesions, joined_through, without_small
from autoseg.evaluation.protocol import EvaluationProtocol
from autoseg.utils.errors import UsageError

MM = (1.0, 1.0, 1.0)
SHAPE = (14, 20, 40)


def volume(*boxes: tuple[int, int, int]) -> np.ndarray:
    """Label values along x: ``(value, from, to)`` of bars of 3×3 voxels."""
    labels = np.zeros(SHAPE, np.uint8)
    for value, start, stop in boxes:
        labels[5:8, 8:11, start:stop] = value
    return labels


def scores(edition: str, prediction: np.ndarray, reference: np.ndarray) -> dict[str, dict[str, float]]:
    rules = brats_evaluation(edition)
    return evaluate_arrays(prediction, reference, MM, rules.structures, rules.protocol(EvaluationProtocol()))


def counts(found: dict[str, float]) -> tuple[float, ...]:
    return found["lesions_found"], found["lesions_missed"], found["lesions_false"]


def test_fragments_round_one_necrosis_are_one_lesion() -> None:
    """An enhancing rim of two parts of 27 voxels, 9 voxels apart, with necrosis between; one part is found."""
    reference = volume((3, 10, 13), (1, 13, 22), (3, 22, 25))
    prediction = volume((3, 10, 13), (1, 13, 22))
    for edition in ("gli2024", "gli2025", "met2024"):
        found = scores(edition, prediction, reference)["enhancing_tumor"]
        assert found["lesion_dice"] == pytest.approx(2 * 27 / (27 + 54))
        assert counts(found) == (1, 0, 0)
    # Without the necrosis between them, as in 2023 with it, they are two.
    apart = scores("gli2024", volume((3, 10, 13)), volume((3, 10, 13), (3, 22, 25)))["enhancing_tumor"]
    assert (apart["lesion_dice"], counts(apart)) == (pytest.approx(1 / 2), (1, 1, 0))
    before = scores("met2023", prediction, reference)["enhancing_tumor"]
    assert (before["lesion_dice"], counts(before)) == (pytest.approx(1 / 2), (1, 1, 0))


def test_a_cavity_joins_what_lies_round_it_in_gliomas_alone() -> None:
    reference = volume((3, 10, 13), (4, 13, 22), (3, 22, 25))
    found = scores("gli2024", volume((3, 10, 13), (4, 13, 22)), reference)
    assert counts(found["enhancing_tumor"]) == (1, 0, 0)
    assert counts(found["resection_cavity"]) == (1, 0, 0)
    assert counts(found["whole_tumor"]) == (1, 1, 0)  # no tissue joins regions


def test_predicted_lesions_are_joined_and_small_ones_are_dropped() -> None:
    """Made up far from the tumour: 18 voxels do not count among gliomas (up to 20), and two parts of 27 are one."""
    reference = volume((2, 2, 6))
    small = volume((2, 2, 6), (2, 30, 32))
    parts = volume((2, 2, 6), (2, 26, 29), (2, 34, 37))
    assert counts(scores("gli2024", small, reference)["whole_tumor"]) == (1, 0, 0)
    assert counts(scores("gli2023", small, reference)["whole_tumor"]) == (0, 0, 1)  # 36 mm³ are small there
    assert counts(scores("gli2024", parts, reference)["whole_tumor"]) == (1, 0, 1)
    assert counts(scores("gli2024", volume((3, 30, 32)), reference)["enhancing_tumor"]) == (0, 0, 1)  # over 10


def test_dilation_of_each_tissue() -> None:
    """Parts with 8 voxels between them: 5 steps from each join them, 3 don't."""
    near, one = ((1, 5, 10), (1, 18, 23)), ((1, 5, 10),)
    found = scores("gli2024", volume(*one), volume(*near))
    assert counts(found["non_enhancing"]) == (1, 0, 0)
    assert counts(found["tumor_core"]) == (1, 1, 0)
    children = scores("ped2024", volume((4, 5, 10)), volume((4, 5, 10), (4, 18, 23)))
    assert counts(children["edema"]) == counts(children["whole_tumor"]) == (1, 0, 0)


def test_radiotherapy_leaves_false_lesions_out_and_misses_cost_the_diagonal() -> None:
    reference = volume((1, 2, 9), (1, 20, 27))
    found = scores("men-rt2024", volume((1, 2, 9), (1, 32, 39)), reference)["gtv"]
    assert found["lesion_dice"] == pytest.approx(1 / 2)
    assert found["lesion_hd95"] == pytest.approx(math.hypot(*SHAPE) / 2)
    assert counts(found) == (1, 1, 1)


def test_a_lesion_that_touches_two_belongs_to_the_first() -> None:
    own = np.array([[[1, 0, 2, 0, 3, 0, 4]]])
    others = np.array([[[0, 1, 0, 2, 0, 0, 0]]])
    # 1 and 2 touch the other tissue's first; 3 touches its second, 2 touches both; 4 none.
    joined = joined_through(own, others)[0, 0]
    assert joined[0] == joined[2]
    assert len({joined[0], joined[4], joined[6], 0}) == 4
    assert joined[6] == 4
    assert np.array_equal(joined_through(own, np.zeros_like(others)), own)


def test_lesions_are_numbered_at_the_edge_of_an_image_as_inside() -> None:
    mask = np.zeros((1, 1, 9), bool)
    mask[0, 0, [0, 4, 8]] = True
    assert len(np.unique(joined_lesions(mask, 1))) == 4
    assert len(np.unique(joined_lesions(mask, 2))) == 2
    assert not without_small(joined_lesions(mask, 1), 1).any()
    assert without_small(joined_lesions(mask, 0), 0.5).any()


def test_editions_whose_rules_are_not_published_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no published code .* ped2024"):
        brats_evaluation("PED2025")
    with pytest.raises(UsageError, match="unknown"):
        brats_evaluation("men2024")
    assert brats_evaluation("GLI2024") is EVALUATIONS["gli2024"]
