"""The sum of terms, at one resolution and at several."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.plans.recipe import Distillation, Loss
from autoseg.plans.target import Output, Target
from autoseg.step.distillation import distillation_loss
from autoseg.step.losses import deep_supervision_loss, encode, segmentation_loss, supervision_weights
from tests.builders import LABELS, REGIONS

IGNORING = LABELS.model_copy(update={"ignore": 9})


def random_case(heads: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, heads, 4, 5), torch.randint(0, 3, (2, 4, 5))


def test_encode_labels() -> None:
    truth, counts = encode(torch.tensor([[0, 1, 2, 7]]), LABELS)
    assert counts is None
    assert truth.int().tolist() == [[[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]]


def test_encode_regions_and_ignore() -> None:
    target = REGIONS.model_copy(update={"ignore": 9})
    truth, counts = encode(torch.tensor([[0, 1, 2, 9]]), target)
    assert truth.int().tolist() == [[[0, 1, 1, 0], [0, 0, 1, 0]]]
    assert counts.int().tolist() == [[[1, 1, 1, 0]]]


def test_encode_united_label() -> None:
    target = Target(kind="labels", outputs=[Output(name="any", values=[1, 4], paint=1)])
    truth, _ = encode(torch.tensor([[0, 1, 2, 4]]), target)
    assert truth.int().tolist() == [[[1, 0, 1, 0], [0, 1, 0, 1]]]


def test_background_takes_no_part_in_dice() -> None:
    logits = torch.tensor([[[0.0, 3.0], [1.0, -2.0]]])  # two heads, two voxels
    label = torch.tensor([[1, 0]])
    target = Target(kind="labels", outputs=[Output(name="one", values=[1], paint=1)])
    truth, _ = encode(label, target)
    p = [math.e / (1 + math.e), math.exp(-2) / (math.exp(3) + math.exp(-2))]
    expected = 1 - (2 * p[0]) / (p[0] + p[1] + 1)
    loss = Loss(dice_weight=1, ce_weight=0, smooth=0)
    assert segmentation_loss(logits, truth, loss, "labels").item() == pytest.approx(expected, rel=1e-5)


def test_background_takes_part_where_it_is_asked_to() -> None:
    logits = torch.tensor([[[0.0, 3.0], [1.0, -2.0]]])  # two heads, two voxels
    truth, _ = encode(torch.tensor([[1, 0]]), Target(kind="labels", outputs=[Output(name="one", values=[1], paint=1)]))
    p = [math.e / (1 + math.e), math.exp(-2) / (math.exp(3) + math.exp(-2))]
    one = (2 * p[0]) / (p[0] + p[1] + 1)
    background = (2 * (1 - p[1])) / (2 - p[0] - p[1] + 1)
    loss = Loss(dice_weight=1, ce_weight=0, smooth=0, background=True)
    found = segmentation_loss(logits, truth, loss, "labels").item()
    assert found == pytest.approx(1 - (one + background) / 2, rel=1e-5)


def test_terms_are_weighted() -> None:
    logits, label = random_case()
    truth, _ = encode(label, LABELS)
    names = [f"{term}_weight" for term in ("dice", "ce", "focal", "tversky", "topk")]

    def value(weights: list[float]) -> float:
        return segmentation_loss(logits, truth, Loss(**dict(zip(names, weights, strict=True))), "labels").item()

    alone = [value([float(index == other) for other in range(5)]) for index in range(5)]
    assert len({round(one, 4) for one in alone}) == 5
    weights = [2, 3, 0.5, 4, 0.25]
    expected = sum(weight * one for weight, one in zip(weights, alone, strict=True))
    assert value(weights) == pytest.approx(expected, rel=1e-6)


def test_options_reach_their_terms() -> None:
    logits, label = random_case()
    truth, _ = encode(label, LABELS)

    def value(**changes: Any) -> float:
        return segmentation_loss(logits, truth, Loss(**changes), "labels").item()

    def only(term: str, **changes: Any) -> float:
        return value(**{"dice_weight": 0, "ce_weight": 0, f"{term}_weight": 1, **changes})

    assert only("tversky", tversky_alpha=0.5, tversky_beta=0.5) == pytest.approx(only("dice"))
    assert only("tversky", tversky_alpha=0.5, tversky_beta=0.5, batch_dice=False) == pytest.approx(
        only("dice", batch_dice=False)
    )
    assert only("dice", batch_dice=False) != pytest.approx(only("dice"))
    assert only("dice", smooth=5) != pytest.approx(only("dice"))
    assert only("dice", dice_denominator="squares") != pytest.approx(only("dice"))
    assert only("dice", dice_numerator="once") != pytest.approx(only("dice"))
    # Two images of 20 voxels: the mean over voxels times the voxels of one.
    assert only("focal", focal_reduction="sum") == pytest.approx(20 * only("focal"))
    assert only("focal", focal_gamma=0) == pytest.approx(only("ce"))
    assert only("topk", topk_share=1) == pytest.approx(only("ce"))
    for term in ("ce", "focal", "topk"):
        assert only(term, omega=0.5) == pytest.approx(only(term) / 2)
    assert only("tversky", omega=0.2) == only("tversky")


#: Every term, alone and as published recipes add them up.
LOSSES: dict[str, dict[str, Any]] = {
    "dice": {"ce_weight": 0},
    "dice of squares": {"ce_weight": 0, "dice_denominator": "squares"},
    "dice of each image": {"ce_weight": 0, "batch_dice": False},
    "dice without the 2": {"ce_weight": 0, "dice_numerator": "once"},
    "dice with twice the smoothing": {"ce_weight": 0, "dice_numerator": "twice_smoothed"},
    "cross-entropy": {"dice_weight": 0},
    "weighted cross-entropy": {"dice_weight": 0, "omega": 0.8},
    "focal": {"dice_weight": 0, "ce_weight": 0, "focal_weight": 1, "focal_gamma": 0.5},
    "sum of focal": {"dice_weight": 0, "ce_weight": 0, "focal_weight": 1, "focal_reduction": "sum"},
    "tversky": {"dice_weight": 0, "ce_weight": 0, "tversky_weight": 1},
    "tversky of each image": {"dice_weight": 0, "ce_weight": 0, "tversky_weight": 1, "batch_dice": False},
    "top-k": {"dice_weight": 0, "ce_weight": 0, "topk_weight": 1, "topk_share": 0.4, "omega": 0.3},
    "0.7 dice + 0.3 cross-entropy": {"dice_weight": 0.7, "ce_weight": 0.3},
    "dice + focal": {"ce_weight": 0, "focal_weight": 1},
    "dice + tversky": {"ce_weight": 0, "tversky_weight": 1},
    "everything": {"focal_weight": 1, "tversky_weight": 1, "topk_weight": 1, "omega": 0.6},
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", [IGNORING, REGIONS.model_copy(update={"ignore": 9})], ids=["labels", "regions"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), ignored=st.floats(0.1, 1))
def test_ignored_voxels_have_no_influence(name: str, target: Target, seed: int, ignored: float) -> None:
    """Whatever the network says there, the loss is the same; and it is told nothing about them."""
    torch.manual_seed(seed)
    label = torch.randint(0, 3, (2, 4, 5))
    away = torch.rand(2, 4, 5) < ignored
    label[away] = 9
    logits = torch.randn(2, target.heads, 4, 5, requires_grad=True)
    elsewhere = torch.where(away[:, None], 20 * torch.randn_like(logits), logits.detach())
    loss = deep_supervision_loss(logits, label, Loss(**LOSSES[name]), target)
    assert deep_supervision_loss(elsewhere, label, Loss(**LOSSES[name]), target).item() == pytest.approx(
        loss.item(), rel=1e-6
    )
    loss.backward()
    assert logits.grad is not None
    told = logits.grad.abs().sum(1)
    assert not told[away].any()
    if not name.startswith("top-k"):
        assert told[~away].bool().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", [LABELS, IGNORING, REGIONS], ids=["labels", "ignoring", "regions"])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_extreme_logits_have_finite_gradients(name: str, target: Target, size: float) -> None:
    logits, label = random_case(target.heads)
    logits = (size * logits).requires_grad_()
    loss = deep_supervision_loss(logits, label, Loss(**LOSSES[name]), target)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", [LABELS, REGIONS], ids=["labels", "regions"])
def test_descending_finds_the_truth(name: str, target: Target) -> None:
    """Each of them is least where everything is right."""
    logits, label = random_case(target.heads)
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(120):
        optimizer.zero_grad()
        deep_supervision_loss(logits, label, Loss(**LOSSES[name]), target).backward()
        optimizer.step()
    truth, _ = encode(label, target)
    found = logits > 0 if target.kind == "regions" else logits == logits.amax(1, keepdim=True)
    assert torch.equal(found, truth)


def test_all_ignored_is_finite_and_still() -> None:
    logits, label = random_case()
    logits.requires_grad_()
    for smooth in (1e-5, 0.0):
        loss = deep_supervision_loss(logits, torch.full_like(label, 9), Loss(smooth=smooth), IGNORING)
        loss.backward()
        assert math.isfinite(loss.item())
        assert not logits.grad.any()


@pytest.mark.parametrize(
    ("resolutions", "weights"),
    [(1, [1]), (2, [1, 0]), (3, [2 / 3, 1 / 3, 0]), (5, [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])],
)
def test_supervision_weights(resolutions: int, weights: list[float]) -> None:
    assert supervision_weights(resolutions) == pytest.approx(weights)


def test_deep_supervision_by_hand() -> None:
    """Three resolutions: two thirds of the loss at full size, one third at half size with its nearest labels."""
    torch.manual_seed(0)
    outputs = [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 4, 4), torch.randn(1, 3, 2, 2)]
    label = torch.kron(torch.randint(0, 3, (1, 4, 4)), torch.ones(2, 2, dtype=torch.long))
    loss = Loss()
    full = segmentation_loss(outputs[0], encode(label, LABELS)[0], loss, "labels")
    half = segmentation_loss(outputs[1], encode(label[:, ::2, ::2], LABELS)[0], loss, "labels")
    found = deep_supervision_loss(outputs, label, loss, LABELS)
    assert found.item() == pytest.approx((2 * full + half).item() / 3, rel=1e-6)
    # The lowest resolution has no say.
    outputs[2] = outputs[2] + 100 * torch.randn(1, 3, 2, 2)
    assert deep_supervision_loss(outputs, label, loss, LABELS).item() == pytest.approx(found.item())


def test_perfect_is_better_than_anything_else() -> None:
    _, label = random_case()
    for target in (LABELS, REGIONS):
        truth, _ = encode(label, target)
        perfect = deep_supervision_loss(40.0 * truth - 20, label, Loss(), target).item()
        assert perfect == pytest.approx(0, abs=1e-4)
        assert deep_supervision_loss(20.0 - 40 * truth, label, Loss(), target).item() > 10


def test_a_teacher_is_compared_with_each_answer() -> None:
    """The mean over the answers; a voxel of the ignore label counts for the answers whose label map does not say so."""
    torch.manual_seed(0)
    target = LABELS.model_copy(update={"ignore": 9})
    logits, teacher = torch.randn(2, 2 * target.heads, 4, 4, 4), torch.randn(2, target.heads, 4, 4, 4)
    said = torch.cat([teacher, torch.ones(2, 1, 4, 4, 4)], dim=1)
    label = torch.zeros((2, 2, 4, 4, 4), dtype=torch.int16)
    label[:, 1, 0] = 9
    recipe = Distillation(weight=0.5, temperature=2.0, teacher="any")
    both = distillation_loss(logits, label, said, recipe, target)
    parts = [
        distillation_loss(logits[:, : target.heads], label[:, 0], said, recipe, target),
        distillation_loss(logits[:, target.heads :], label[:, 1], said, recipe, target),
    ]
    assert both.item() == pytest.approx(sum(part.item() for part in parts) / 2, rel=1e-6)
