"""From scores to probabilities and label maps, against torch and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoseg.inference.decoding import OutputProbabilities, paint_probabilities, paint_scores
from autoseg.plans.target import Output, Target
from tests.builders import LABELS, REGIONS


def target_of(kind: str, count: int) -> Target:
    return Target(
        kind=kind,  # type: ignore[arg-type]
        outputs=[Output(name=str(i), values=[i + 1], paint=10 * (i + 1)) for i in range(count)],
    )


def test_labels_by_hand() -> None:
    background, outer, inner = torch.tensor([[3.0, 0, 0, -1, 0]]), torch.tensor([[1.0, 1, 0, -1, 2]]), None
    inner = torch.tensor([[2.0, 0, 1, -2, 2]])
    # The last voxel ties between the outputs and the one before it between background and the first: first wins.
    assert paint_scores([background, outer, inner], LABELS).tolist() == [[0, 1, 2, 0, 1]]


def test_regions_are_painted_in_order() -> None:
    whole, inner = torch.tensor([[1.0, 1, -1, 0, -1]]), torch.tensor([[-1.0, 1, 1, 0, -1]])
    assert paint_scores([whole, inner], REGIONS).tolist() == [[1, 2, 2, 0, 0]]
    backwards = REGIONS.model_copy(update={"outputs": REGIONS.outputs[::-1]})
    assert paint_scores([inner, whole], backwards).tolist() == [[1, 1, 2, 0, 0]]


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_some_of_the_outputs(kind: str) -> None:
    """Decided among all of them, and given in another order."""
    target = target_of(kind, 3)
    wanted = target.model_copy(update={"outputs": [target.outputs[2], target.outputs[0]]})
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(target.heads, 3, 4)).astype(np.float32))
    every, found = OutputProbabilities(logits, target), OutputProbabilities(logits, target, wanted)
    assert len(found) == 2
    assert all(torch.equal(one, every[place]) for one, place in zip(found, (2, 0), strict=True))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 6), seed=st.integers(0, 10**6), scale=st.sampled_from([1.0, 30.0, 1000.0]))
@example(count=2, seed=0, scale=1000.0)  # large logits: nothing of the sum may be lost to rounding
def test_as_torch(count: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy((scale * rng.normal(size=(count + 1, 3, 4))).astype(np.float32))
    target = target_of("labels", count)
    streamed = torch.stack(list(OutputProbabilities(logits, target)))
    torch.testing.assert_close(streamed, torch.softmax(logits, 0)[1:], atol=1e-6, rtol=1e-4)
    assert (streamed.sum(0) <= 1 + 1e-5).all()
    painted = paint_scores(logits, target)
    assert painted.dtype == torch.int16
    assert torch.equal(painted, 10 * logits.argmax(0).to(torch.int16))
    regions = target_of("regions", count + 1)
    streamed = torch.stack(list(OutputProbabilities(logits, regions)))
    torch.testing.assert_close(streamed, torch.sigmoid(logits))


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(["labels", "regions"]), count=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_probabilities_and_scores_agree(kind: str, count: int, seed: int) -> None:
    target = target_of(kind, count)
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(target.heads, 5, 5)).astype(np.float32))
    probabilities = torch.stack(list(OutputProbabilities(logits, target)))
    assert torch.equal(paint_probabilities(probabilities, target), paint_scores(logits, target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_widened(dtype: torch.dtype) -> None:
    logits = torch.tensor([[20.0], [21.0]]).to(dtype)
    (found,) = OutputProbabilities(logits, target_of("labels", 1))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)


def test_input_is_not_changed() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
    before = logits.clone()
    paint_scores(logits, LABELS)
    list(OutputProbabilities(logits, LABELS))
    paint_probabilities(logits[1:].abs() / 10, LABELS)
    assert torch.equal(logits, before)


def test_label_values_of_any_size() -> None:
    """40000 and −40000 do not fit into 16 bits."""
    logits = torch.eye(3)[:, None]
    for value in (40000, -40000, 70000):
        outputs = [Output(name="a", values=[value], paint=value), Output(name="b", values=[2], paint=2)]
        target = Target(kind="labels", outputs=outputs)
        for found in (paint_scores(logits, target), paint_probabilities(logits[1:], target)):
            assert found.dtype == torch.int32
            assert found.tolist() == [[0, value, 2]]
        regions = Target(kind="regions", outputs=outputs)
        assert paint_scores(logits[1:], regions).tolist() == [[0, value, 2]]
