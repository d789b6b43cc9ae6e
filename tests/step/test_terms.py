"""Each term worked by hand, in its paper's special cases, and against torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from autoseg.plans.loss import Loss
from autoseg.step.losses import encode, segmentation_loss
from autoseg.step.terms import (
    cross_entropy,
    focal_loss,
    soft_dice_loss,
    softened_divergence,
    topk_cross_entropy,
    tversky_loss,
)
from tests.builders import LABELS, REGIONS

IGNORING = LABELS.model_copy(update={"ignore": 9})


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, len(values))


def random_case(heads: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, heads, 4, 5), torch.randint(0, 3, (2, 4, 5))


def surely(*probabilities: float) -> torch.Tensor:
    """Logits of one region (or of a label against the background) that mean these probabilities."""
    return torch.logit(tensor(*probabilities))


def two_heads(*probabilities: float) -> torch.Tensor:
    """Logits of background and one label that give the label these probabilities."""
    logits = surely(*probabilities)
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


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


def test_dice_of_squares_by_hand() -> None:
    # overlap 0.8 + 0.6 = 1.4; squares 0.64 + 0.36 + 0.04 = 1.04, and two true voxels
    loss = soft_dice_loss(tensor(0.8, 0.6, 0.2, 0.0), tensor(1, 1, 0, 0), smooth=0, denominator="squares")
    assert loss.item() == pytest.approx(1 - 2.8 / 3.04)
    # without the third voxel: 1 and two
    loss = soft_dice_loss(
        tensor(0.8, 0.6, 0.2, 0.0), tensor(1, 1, 0, 0), tensor(1, 1, 0, 1), smooth=0, denominator="squares"
    )
    assert loss.item() == pytest.approx(1 - 2.8 / 3)


def test_dice_of_squares_is_dice_where_all_is_certain() -> None:
    said, truth = tensor(1, 0, 1, 1), tensor(1, 1, 1, 0)
    assert soft_dice_loss(said, truth, denominator="squares").item() == soft_dice_loss(said, truth).item()


#: Two structures' voxels that get 0.8 and 0.6, two others that get 0.2 and 0: overlap 1.4, volumes 1.6 and 2.
SAID, TRUE = (0.8, 0.6, 0.2, 0.0), (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("paper", "numerator", "epsilon", "expected"),
    [
        ("Rahimpour et al., eq. 5", "once", 0.4, 1 - (1.4 + 0.4) / (1.6 + 2 + 0.4)),
        ("Tweedy, training and loss function", "twice_smoothed", 0.4, 1 - 2 * (1.4 + 0.4) / (1.6 + 2 + 0.4)),
        ("Wacker et al., eqs. 1 and 2", "twice", 0.0, 1 - 2 * 1.4 / (2 + 1.6)),
        ("Yıldız et al., eq. 3", "twice", 0.4, 1 - (2 * 1.4 + 0.4) / (1.6 + 2 + 0.4)),
    ],
)
def test_dice_as_each_paper_prints_it(paper: str, numerator: str, epsilon: float, expected: float) -> None:
    found = soft_dice_loss(tensor(*SAID), tensor(*TRUE), smooth=epsilon, numerator=numerator).item()
    assert found == pytest.approx(expected), paper


def test_why_two_of_them_cannot_be_meant() -> None:
    """A perfect answer costs a half as Rahimpour et al. print it; an empty region pays one as Tweedy does."""
    perfect = soft_dice_loss(tensor(1, 1, 0, 0), tensor(*TRUE), smooth=1e-5, numerator="once")
    assert perfect.item() == pytest.approx(0.5, abs=1e-5)
    empty = soft_dice_loss(tensor(0.0, 0.0), tensor(0, 0), smooth=1e-5, numerator="twice_smoothed")
    assert empty.item() == pytest.approx(-1)


def test_mean_over_classes_as_wacker() -> None:
    """Eq. 2: with K = 2 classes the loss is one less the mean of their two Dice."""
    said = torch.tensor([[[0.8, 0.6, 0.2, 0.0], [0.1, 0.2, 0.7, 0.0]]])
    truth = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]])
    expected = 1 - (2 * 1.4 / 3.6 + 2 * 0.7 / 2.0) / 2
    assert soft_dice_loss(said, truth, smooth=0).item() == pytest.approx(expected)


def test_tversky_index_and_loss() -> None:
    """Yıldız et al. print the index (eq. 7); the loss is one less it, and least where all is right."""
    index = 1.4 / (1.4 + 0.3 * 0.2 + 0.7 * 0.6)
    assert tversky_loss(tensor(*SAID), tensor(*TRUE), 0.3, 0.7, smooth=0).item() == pytest.approx(1 - index)
    assert tversky_loss(tensor(*TRUE), tensor(*TRUE), 0.3, 0.7, smooth=0).item() == 0


def test_tversky_by_hand() -> None:
    # hit 0.8 + 0.6 = 1.4, false 0.2, missed 0.2 + 0.4 = 0.6
    said, truth = tensor(0.8, 0.6, 0.2, 0.0), tensor(1, 1, 0, 0)
    found = tversky_loss(said, truth, 0.3, 0.7, smooth=0).item()
    assert found == pytest.approx(1 - 1.4 / (1.4 + 0.3 * 0.2 + 0.7 * 0.6))
    # without the second voxel: hit 0.8, false 0.2, missed 0.2
    found = tversky_loss(said, truth, 0.3, 0.7, tensor(1, 0, 1, 1), smooth=0).item()
    assert found == pytest.approx(1 - 0.8 / (0.8 + 0.06 + 0.14))


def test_tversky_over_the_batch_or_each_image() -> None:
    probabilities = torch.tensor([[[1.0, 0.5]], [[0.5, 0.0]]])
    truth = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    each = (1 / (1 + 0.2 * 0.5) + 0.5 / (0.5 + 0.8 * 0.5)) / 2
    together = 1.5 / (1.5 + 0.2 * 0.5 + 0.8 * 0.5)
    assert tversky_loss(probabilities, truth, 0.2, 0.8, batch_dice=False, smooth=0).item() == pytest.approx(1 - each)
    assert tversky_loss(probabilities, truth, 0.2, 0.8, smooth=0).item() == pytest.approx(1 - together)


@given(seed=st.integers(0, 2**31), smooth=st.sampled_from([0.0, 1e-5, 1.0]), together=st.booleans())
def test_even_tversky_is_dice(seed: int, smooth: float, together: bool) -> None:
    """α = β = ½ (Salehi et al. 2017)."""
    torch.manual_seed(seed)
    probabilities, truth = torch.rand(2, 3, 7), torch.rand(2, 3, 7) < 0.4
    counts = torch.rand(2, 1, 7) < 0.8
    assert tversky_loss(probabilities, truth, 0.5, 0.5, counts, together, smooth).item() == pytest.approx(
        soft_dice_loss(probabilities, truth, counts, together, smooth).item(), abs=1e-6
    )


def test_tversky_of_ones_is_jaccard() -> None:
    """α = β = 1 is intersection over union: 2 of 4 voxels."""
    assert tversky_loss(tensor(1, 1, 1, 0), tensor(1, 1, 0, 1), 1, 1, smooth=0).item() == pytest.approx(0.5)


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


def test_weighted_cross_entropy_by_hand() -> None:
    """ω = 0.8: a label's voxel that gets ¼ costs 0.8·log 4, the background that gets ½ costs 0.2·log 2."""
    truth = torch.tensor([[[False, True], [True, False]]])
    expected = (0.8 * math.log(4) + 0.2 * math.log(2)) / 2
    assert cross_entropy(two_heads(0.25, 0.5), truth, "labels", omega=0.8).item() == pytest.approx(expected)
    # A region's voxels cost the same.
    assert cross_entropy(surely(0.25, 0.5), truth[:, 1:], "regions", omega=0.8).item() == pytest.approx(expected)
    only_first = torch.tensor([[[True, False]]])
    found = cross_entropy(two_heads(0.25, 0.5), truth, "labels", only_first, omega=0.8).item()
    assert found == pytest.approx(0.8 * math.log(4))


def test_weighted_cross_entropy_as_torch() -> None:
    logits, label = random_case()
    truth, _ = encode(label, LABELS)
    weights = torch.tensor([0.3, 0.7, 0.7])
    # torch's mean divides by the weights, ours by the voxels
    expected = F.cross_entropy(logits, label, weights, reduction="sum") / label.numel()
    assert cross_entropy(logits, truth, "labels", omega=0.7).item() == pytest.approx(expected.item())
    truth, _ = encode(label, REGIONS)
    weights = torch.where(truth, 0.7, 0.3)
    expected = F.binary_cross_entropy_with_logits(logits[:, :2], truth.float(), weights)
    assert cross_entropy(logits[:, :2], truth, "regions", omega=0.7).item() == pytest.approx(expected.item())


def test_focal_by_hand() -> None:
    """A voxel that gets 0.9 for what it is costs 0.01·−log 0.9; one that gets 0.4, 0.36·−log 0.4."""
    expected = (0.01 * -math.log(0.9) + 0.36 * -math.log(0.4)) / 2
    truth = torch.tensor([[[False, True], [True, False]]])
    assert focal_loss(two_heads(0.9, 0.6), truth, "labels").item() == pytest.approx(expected, rel=1e-5)
    assert focal_loss(surely(0.9, 0.6), truth[:, 1:], "regions").item() == pytest.approx(expected, rel=1e-5)
    weighted = (0.25 * 0.01 * -math.log(0.9) + 0.75 * 0.36 * -math.log(0.4)) / 2
    found = focal_loss(surely(0.9, 0.6), truth[:, 1:], "regions", omega=0.25).item()
    assert found == pytest.approx(weighted, rel=1e-5)


def test_omega_of_one_counts_structures_alone() -> None:
    """The end of the range of Rahimpour et al., section 2.3: the background costs nothing."""
    truth = torch.tensor([[[False, True], [True, False]]])
    assert cross_entropy(two_heads(0.25, 0.5), truth, "labels", omega=1.0).item() == pytest.approx(math.log(4) / 2)


def test_alpha_weighs_dice_and_cross_entropy() -> None:
    """Rahimpour et al., eq. 6, at α = 0.5: half of each, not one of each."""
    logits, truth = surely(*SAID[:3]), torch.tensor([[[True, True, False]]])
    dice = 1 - 2 * 1.4 / 3.6
    entropy = -(math.log(0.8) + math.log(0.6) + math.log(0.8)) / 3
    loss = Loss(dice_weight=0.5, ce_weight=0.5, smooth=0)
    found = segmentation_loss(logits, truth, loss, "regions").item()
    assert found == pytest.approx((dice + entropy) / 2, rel=1e-5)


def test_sum_of_focal_as_tweedy_prints_it() -> None:
    """F = −Σ (1 − p)² ln p over the voxels of a sample; two samples and two structures are averaged."""
    truth = torch.tensor([[[True, False]]])
    one = 0.01 * -math.log(0.9) + 0.36 * -math.log(0.4)
    other = 0.25 * -math.log(0.5) * 2
    logits = torch.cat([surely(0.9, 0.6), surely(0.5, 0.5)])
    found = focal_loss(logits, truth.expand(2, 1, 2), "regions", reduction="sum").item()
    assert found == pytest.approx((one + other) / 2, rel=1e-5)
    both = torch.cat([logits[:1], logits[1:]], dim=1)
    found = focal_loss(both, truth.expand(1, 2, 2), "regions", reduction="sum").item()
    assert found == pytest.approx((one + other) / 2, rel=1e-5)
    only_first = torch.tensor([[[True, False]]])
    found = focal_loss(logits[:1], truth, "regions", only_first, reduction="sum").item()
    assert found == pytest.approx(0.01 * -math.log(0.9), rel=1e-5)


def test_sum_of_focal_is_exact_over_many_voxels() -> None:
    """In 32 bits, over 128³ voxels of probability ½: ¼·ln 2 each, also where the network works in 16 bits."""
    logits = torch.zeros(1, 1, 128, 128, 128, dtype=torch.bfloat16)
    truth = torch.zeros_like(logits, dtype=torch.bool)
    loss = Loss(dice_weight=0, ce_weight=0, focal_weight=1, focal_reduction="sum")
    found = segmentation_loss(logits, truth, loss, "regions").item()
    assert found == pytest.approx(128**3 * 0.25 * math.log(2), rel=1e-5)
    assert found > 1e5


def test_focal_in_the_paper() -> None:
    """Lin et al. 2017, section 3.2: with γ = 2 an example at 0.9 costs 100 times less than with cross-entropy."""
    truth = torch.ones(1, 1, 1, dtype=torch.bool)
    plain, focal = (focal_loss(surely(0.9), truth, "regions", gamma=gamma).item() for gamma in (0, 2))
    assert plain / focal == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("omega", [None, 0.2])
@pytest.mark.parametrize("target", [LABELS, REGIONS], ids=["labels", "regions"])
def test_focal_without_gamma_is_cross_entropy(target, omega: float | None) -> None:
    logits, label = random_case(target.heads)
    truth, _ = encode(label, target)
    assert torch.equal(
        focal_loss(logits, truth, target.kind, gamma=0, omega=omega),
        cross_entropy(logits, truth, target.kind, omega=omega),
    )


def test_topk_by_hand() -> None:
    """Four voxels cost log 2, log 4, log 8 and log 16: half of them are the last two, a tenth the last one."""
    logits, truth = surely(1 / 2, 1 / 4, 1 / 8, 1 / 16), torch.ones(1, 1, 4, dtype=torch.bool)
    assert topk_cross_entropy(logits, truth, "regions", share=0.5).item() == pytest.approx(3.5 * math.log(2))
    assert topk_cross_entropy(logits, truth, "regions", share=0.1).item() == pytest.approx(4 * math.log(2))
    # The hardest does not count: of three, two thirds are the second and the third.
    counts = torch.tensor([[[True, True, True, False]]])
    found = topk_cross_entropy(logits, truth, "regions", counts, share=2 / 3).item()
    assert found == pytest.approx(2.5 * math.log(2))
    # The hardest is background and weighs little.
    truth[..., 3] = False
    logits[..., 3] = torch.logit(torch.tensor(15 / 16))
    found = topk_cross_entropy(logits, truth, "regions", share=0.25, omega=0.9).item()
    assert found == pytest.approx(0.9 * 3 * math.log(2))


def test_topk_is_over_the_batch() -> None:
    """Both of the hardest voxels may be in one image."""
    logits = torch.cat([surely(1 / 2, 1 / 4), surely(1 / 8, 1 / 16)])
    truth = torch.ones(2, 1, 2, dtype=torch.bool)
    assert topk_cross_entropy(logits, truth, "regions", share=0.5).item() == pytest.approx(3.5 * math.log(2))


@pytest.mark.parametrize("target", [LABELS, IGNORING, REGIONS], ids=["labels", "ignoring", "regions"])
def test_topk_of_all_is_cross_entropy(target) -> None:
    logits, label = random_case(target.heads)
    label[:, 2] = 9
    truth, counts = encode(label, target)
    assert topk_cross_entropy(logits, truth, target.kind, counts, share=1).item() == pytest.approx(
        cross_entropy(logits, truth, target.kind, counts).item()
    )


# --- what a teacher says ---


def test_divergence_by_hand() -> None:
    """At T = 2 the teacher says 0.8 and 0.5, the student 0.5 and 0.9; times T² = 4, and the mean over two voxels."""
    teacher, student = 2 * two_heads(0.8, 0.5), 2 * two_heads(0.5, 0.9)
    first = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    second = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    wanted = pytest.approx(4 * (first + second) / 2)
    assert softened_divergence(student, teacher, "labels", 2.0).item() == wanted
    # One region is a label against the background; of two regions the mean is taken.
    assert softened_divergence(student[:, 1:], teacher[:, 1:], "regions", 2.0).item() == wanted
    both = softened_divergence(
        2 * surely(0.5, 0.9).repeat(1, 2, 1), 2 * surely(0.8, 0.5).repeat(1, 2, 1), "regions", 2.0
    )
    assert both.item() == wanted
    only_first = torch.tensor([[[True, False]]])
    assert softened_divergence(student, teacher, "labels", 2.0, only_first).item() == pytest.approx(4 * first)


@pytest.mark.parametrize("kind", ["labels", "regions"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_divergence_as_torch(kind: str, temperature: float) -> None:
    torch.manual_seed(1)
    student, teacher = (3 * torch.randn(2, 3, 4, 5, 6, dtype=torch.double) for _ in range(2))
    made = torch.distributions.Categorical if kind == "labels" else torch.distributions.Bernoulli
    logits = [(scores / temperature).movedim(1, -1) for scores in (teacher, student)]
    expected = torch.distributions.kl_divergence(*(made(logits=scores) for scores in logits)).mean()
    found = softened_divergence(student, teacher, kind, temperature)
    assert found.item() == pytest.approx(temperature**2 * expected.item(), rel=1e-5)
    if kind == "labels":  # log-probabilities do as well as logits
        again = softened_divergence(student, torch.log_softmax(teacher, dim=1), kind, temperature)
        assert again.item() == pytest.approx(found.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_gradient_of_divergence(kind: str) -> None:
    """By finite differences; and none where the student says the same."""
    torch.manual_seed(2)
    student, teacher = (torch.randn(1, 3, 2, 2, dtype=torch.double) for _ in range(2))
    counts = torch.tensor([[[[True, False], [True, True]]]])
    student.requires_grad_()
    torch.autograd.gradcheck(lambda logits: softened_divergence(logits, teacher, kind, 1.7, counts), (student,))
    same = teacher.clone().requires_grad_()
    value = softened_divergence(same, teacher, kind, 1.7)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-12


def test_gradient_does_not_shrink_with_temperature() -> None:
    """Hinton et al. 2015, equation 4: for a large T the gradient is the difference of centred logits over their number.

    There it is divided by T², which the factor takes off again.
    """
    torch.manual_seed(3)
    teacher = torch.randn(1, 4, 5, dtype=torch.double)
    for temperature in (100.0, 1000.0):
        student = torch.randn(1, 4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(4)).requires_grad_()
        softened_divergence(student, teacher, "labels", temperature).backward()
        difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
        assert student.grad is not None
        assert torch.allclose(student.grad, difference.detach() / 4 / 5, rtol=0.05, atol=5 / temperature / 20)


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_extreme_teachers_are_finite(kind: str) -> None:
    student = torch.tensor([[[1e4], [-1e4]]]).requires_grad_()
    softened_divergence(student, torch.tensor([[[-30.0], [30.0]]]), kind, 1.0).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
