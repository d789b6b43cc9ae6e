"""Voxel counts and their Dice: what an evaluation says, and sums of parts."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.evaluation import masks
from autoseg.evaluation.cases import evaluate_arrays
from autoseg.evaluation.masks import measure
from autoseg.evaluation.protocol import Empty, EvaluationProtocol
from autoseg.evaluation.voxel_counts import counts, dices
from autoseg.plans.target import Output, Target
from tests.builders import LABELS, REGIONS

PAIRS = st.tuples(*[arrays(np.int32, (2, 3, 4), elements=st.integers(0, 3))] * 2)
TARGETS = (
    LABELS,
    REGIONS,
    Target(kind="labels", outputs=LABELS.outputs, ignore=3),
    Target(kind="regions", outputs=[Output(name="all", values=[1, 2], paint=1), LABELS.outputs[1]], ignore=3),
)


@given(
    st.tuples(*[arrays(np.int32, (2, 3, 4), elements=st.integers(0, 3))] * 2),
    st.sampled_from(TARGETS),
    st.sampled_from(get_args(Empty)),
)
def test_dice_is_the_evaluations(pair: tuple[np.ndarray, np.ndarray], target: Target, empty: Empty) -> None:
    found = dices(counts(*pair, target), empty)
    wanted = evaluate_arrays(
        *pair, (1.0, 1.0, 1.0), target.outputs, EvaluationProtocol(empty=empty, ignore=target.ignore)
    )
    assert found == pytest.approx([wanted[output.name]["dice"] for output in target.outputs], nan_ok=True)


def test_the_conventions_are_the_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more, too: there is one table of them."""
    absent, cube = np.zeros((1, 3), np.int64), np.zeros((2, 2, 2), bool)
    for empty in get_args(Empty):
        found = measure(cube, cube, (1.0, 1.0, 1.0), EvaluationProtocol(empty=empty))["dice"]
        assert dices(absent, empty) == pytest.approx([found], nan_ok=True)
    monkeypatch.setitem(masks._EMPTY, "new", (0.5, 0.0, 1.0))
    assert dices(absent, "new").tolist() == [0.5]  # type: ignore[arg-type]


def test_hand_worked_counts() -> None:
    prediction = np.array([1, 1, 2, 0, 2])
    reference = np.array([1, 2, 2, 0, 3])
    assert counts(prediction, reference, LABELS).tolist() == [[2, 1, 1], [2, 2, 1]]
    assert counts(prediction, reference, REGIONS).tolist() == [[4, 3, 3], [2, 2, 1]]
    assert counts(prediction, reference, TARGETS[2]).tolist() == [[2, 1, 1], [1, 2, 1]]
    assert dices(np.array([[2, 1, 1], [2, 2, 1], [0, 0, 0]]), "brats").tolist() == [2 / 3, 0.5, 1.0]


@given(PAIRS, st.sampled_from(TARGETS))
def test_counts_of_parts_add_up(pair: tuple[np.ndarray, np.ndarray], target: Target) -> None:
    prediction, reference = pair
    parts = [counts(prediction[..., part], reference[..., part], target) for part in (slice(1), slice(1, None))]
    assert np.array_equal(sum(parts), counts(prediction, reference, target))
