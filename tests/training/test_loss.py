"""Losses worked by hand and against torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from autoseg.plan import Output, Target
from autoseg.recipe import Loss
from autoseg.training.loss import (
    cross_entropy,
    deep_supervision_loss,
    encode,
    segmentation_loss,
    soft_dice_loss,
    supervision_weights,
)
from tests.builders import LABELS, REGIONS

IGNORING = LABELS.model_copy(update={"ignore": 9})


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, len(values))


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


def test_dice_by_hand() -> None:
    # overlap 0.8 + 0.6 = 1.4, volume 0.8 + 0.6 + 0.2 + 2 = 3.6
    loss = soft_dice_loss(tensor(0.8, 0.6, 0.2, 0.0), tensor(1, 1, 0, 0), smooth=0)
    assert loss.item() == pytest.approx(1 - 2.8 / 3.6)
    # without the third voxel: 2.8 / 3.4
    loss = soft_dice_loss(tensor(0.8, 0.6, 0.2, 0.0), tensor(1, 1, 0, 0), tensor(1, 1, 0, 1), smooth=0)
    assert loss.item() == pytest.approx(1 - 2.8 / 3.4)


def test_dice_over_the_batch_or_each_image() -> None:
    probabilities = torch.tensor([[[1.0, 0.5]], [[0.5, 0.0]]])
    truth = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    each = (2 * 1 / 2.5 + 2 * 0.5 / 1.5) / 2
    together = 2 * 1.5 / 4
    assert soft_dice_loss(probabilities, truth, batch_dice=False, smooth=0).item() == pytest.approx(1 - each)
    assert soft_dice_loss(probabilities, truth, batch_dice=True, smooth=0).item() == pytest.approx(1 - together)


def test_absent_and_unpredicted_costs_nothing() -> None:
    assert soft_dice_loss(tensor(0.0, 0.0), tensor(0, 0)).item() == pytest.approx(0)
    assert math.isfinite(soft_dice_loss(tensor(0.0, 0.0), tensor(0, 0), smooth=0).item())


def test_cross_entropy_as_torch() -> None:
    logits, label = random_case()
    truth, _ = encode(label, LABELS)
    assert cross_entropy(logits, truth, "labels").item() == pytest.approx(F.cross_entropy(logits, label).item())
    label[0, 0] = 9
    truth, counts = encode(label, IGNORING)
    expected = F.cross_entropy(logits, label, ignore_index=9).item()
    assert cross_entropy(logits, truth, "labels", counts).item() == pytest.approx(expected)


def test_binary_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[0.0, 2.0], [0.0, -1.0]]])
    truth = torch.tensor([[[True, True], [False, False]]])
    costs = [math.log(2), math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.exp(-1))]
    assert cross_entropy(logits, truth, "regions").item() == pytest.approx(sum(costs) / 4)
    first_only = torch.tensor([[[True, False]]])
    assert cross_entropy(logits, truth, "regions", first_only).item() == pytest.approx((costs[0] + costs[2]) / 2)


def test_background_takes_no_part_in_dice() -> None:
    logits = torch.tensor([[[0.0, 3.0], [1.0, -2.0]]])  # two heads, two voxels
    label = torch.tensor([[1, 0]])
    target = Target(kind="labels", outputs=[Output(name="one", values=[1], paint=1)])
    truth, _ = encode(label, target)
    p = [math.e / (1 + math.e), math.exp(-2) / (math.exp(3) + math.exp(-2))]
    expected = 1 - (2 * p[0]) / (p[0] + p[1] + 1)
    loss = Loss(dice_weight=1, ce_weight=0, smooth=0)
    assert segmentation_loss(logits, truth, loss, "labels").item() == pytest.approx(expected, rel=1e-5)


def test_terms_are_weighted() -> None:
    logits, label = random_case()
    truth, _ = encode(label, LABELS)
    dice, entropy, both = (
        segmentation_loss(logits, truth, Loss(dice_weight=d, ce_weight=c), "labels").item()
        for d, c in ((1, 0), (0, 1), (2, 3))
    )
    assert both == pytest.approx(2 * dice + 3 * entropy, rel=1e-6)


@pytest.mark.parametrize("target", [IGNORING, REGIONS.model_copy(update={"ignore": 9})])
@pytest.mark.parametrize("batch_dice", [True, False])
def test_ignored_voxels_have_no_gradient(target: Target, batch_dice: bool) -> None:
    logits, label = random_case(target.heads)
    label[:, 1] = 9
    logits.requires_grad_()
    deep_supervision_loss(logits, label, Loss(batch_dice=batch_dice), target).backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 1].any()
    assert logits.grad[:, :, 0].abs().min() > 0


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
