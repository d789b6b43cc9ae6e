"""Views along several axes, and what they say together."""

import pytest
import torch

from autoseg.networks import build, count_parameters, set_deep_supervision
from autoseg.networks.multiview import fuse
from autoseg.plans.families import MultiView
from autoseg.plans.target import Output, Target
from autoseg.utils.errors import AutosegError
from tests.builders import LABELS, REGIONS, make_configuration, make_plan
from tests.devices import Waits


def test_shapes_and_modes() -> None:
    network = build(MultiView(features=[4, 6, 8], fusion="sigmoid"), 2, 3)
    image = torch.randn(2, 2, 8, 12, 16)
    said = network(image)
    assert [view.shape for view in said] == [(2, 3, 8, 12, 16)] * 3
    set_deep_supervision(network, False)
    assert network(image).shape == (2, 3, 8, 12, 16)
    set_deep_supervision(network, True)
    assert network.eval()(image).shape == (2, 3, 8, 12, 16)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_view_is_the_first_one_on_turned_images(axis: int) -> None:
    torch.manual_seed(0)
    flat = build(MultiView(views=[0], features=[4, 4]), 1, 2).eval()
    turned = build(MultiView(views=[axis], features=[4, 4]), 1, 2).eval()
    turned.load_state_dict(flat.state_dict())
    image = torch.randn(1, 1, 6, 8, 10)
    order = [axis, *(other for other in range(3) if other != axis)]
    back = [order.index(a) for a in range(3)]
    with torch.no_grad():
        expected = flat(image.permute(0, 1, *(a + 2 for a in order))).permute(0, 1, *(a + 2 for a in back))
        assert torch.allclose(turned(image), expected, atol=1e-6)


def test_fusion_is_the_mean_of_probabilities() -> None:
    views = [4 * torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    softmax = torch.stack([torch.softmax(view, 1) for view in views]).mean(0)
    assert torch.allclose(torch.softmax(fuse(views, "softmax"), 1), softmax, atol=1e-6)
    sigmoid = torch.stack([torch.sigmoid(view) for view in views]).mean(0)
    assert torch.allclose(torch.sigmoid(fuse(views, "sigmoid")), sigmoid, atol=1e-6)
    # Two views that say no with 0.4 outvote one that says yes with all but certainty; their logits would not.
    sure = [torch.tensor([[9.0]]), torch.tensor([[-1.5]]), torch.tensor([[-1.5]])]
    assert float(fuse(sure, "sigmoid")) < 0 < float(sum(sure))
    assert torch.isfinite(fuse([torch.full((1, 2), 500.0), torch.full((1, 2), -500.0)], "sigmoid")).all()


@pytest.mark.parametrize("views", [1, 3, 7])
def test_fusion_does_not_wait_for_the_device(views: int) -> None:
    """The number of views is no tensor; the result is the same to within its last bit."""
    given = [torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(views)]
    with Waits() as waits:
        found = fuse(given, "softmax")
    assert waits.found == []
    summed = torch.logsumexp(torch.log_softmax(torch.stack(given), dim=2), dim=0)
    torch.testing.assert_close(found, summed - torch.log(torch.tensor(float(views))), rtol=0, atol=5e-7)


def test_the_fusion_of_a_network_is_that_of_its_views() -> None:
    torch.manual_seed(1)
    network = build(MultiView(features=[3, 3], norm="instance"), 1, 2)
    image = torch.randn(1, 1, 4, 6, 8)
    with torch.no_grad():
        said = network(image)
        assert torch.allclose(network.eval()(image), fuse(said, "softmax"), atol=1e-6)


def test_parameters_by_hand() -> None:
    """One view, one channel in, one head, widths 2 and 3.

    Layer (a → b, k weights a kernel): a·b·k + 2b of the normalization + b of the PReLU.
    """

    def layer(a: int, b: int, k: int) -> int:
        return a * b * k + 3 * b

    first = layer(1, 2, 9) + layer(2, 2, 9) + 1 * 2 + 2 * layer(2, 2, 9) + layer(2, 2, 3)  # 1 → 2 by a shortcut
    second = 4 * layer(2, 2, 9) + layer(2, 2, 3)
    third = layer(2, 3, 9) + 6 * layer(3, 3, 9) + layer(3, 3, 3)  # halved on the way in
    fourth = 6 * layer(3, 3, 9) + layer(3, 3, 3)
    # Scores: 1×3×3 with an offset, at half resolution also 1×2×2 upwards; three depths joined by 1×3×3.
    scores = (2 * 9 + 1) + 2 * (3 * 9 + 1 + 4 + 1)
    join = 3 * 9 + 1
    network = build(MultiView(views=[0], features=[2, 3], fusion="sigmoid"), 1, 1)
    assert count_parameters(network)[0] == first + second + third + fourth + scores + join
    three = build(MultiView(features=[2, 3], fusion="sigmoid"), 1, 1)
    assert count_parameters(three)[0] == 3 * count_parameters(network)[0]


@pytest.mark.parametrize(("features", "reach"), [([2, 2, 2], 223), ([2, 2], 115)])
def test_receptive_field_is_wide_in_the_plane_and_nine_across(features: list[int], reach: int) -> None:
    """The paper counts 217×217×9 and 113×113×9, without the convolutions that halve the plane (6, or 2, more)."""
    torch.manual_seed(0)
    (view,) = build(MultiView(views=[0], features=features), 1, 2).eval().views
    last = len(view.groups) - 1
    size = 256
    # Dirac-free: with positive weights and no thresholds nothing can cancel out.
    for module in view.modules():
        if isinstance(module, torch.nn.Conv3d):
            torch.nn.init.constant_(module.weight, 1e-2)
    image = torch.ones(1, 1, 13, size, 1, requires_grad=True)
    deep = image
    for group in view.groups[: last + 1]:
        deep = group(deep)
    deep[0, :, 6, deep.shape[3] // 2, 0].sum().backward()
    assert image.grad is not None
    seen = image.grad[0, 0, :, :, 0] != 0
    assert int(seen.any(1).sum()) == 9
    assert int(seen.any(0).sum()) == reach


def test_what_does_not_fit() -> None:
    assert MultiView().divisor == [4, 4, 4]
    assert MultiView(views=[1]).divisor == [4, 1, 4]
    with pytest.raises(ValueError, match="names an axis twice"):
        MultiView(views=[0, 0])
    with pytest.raises(AutosegError, match="two heads"):
        build(MultiView(), 1, 1)
    for target, fusion in ((LABELS, "sigmoid"), (REGIONS, "softmax")):
        with pytest.raises(ValueError, match=r"small\.network\.fusion is"):
            make_plan(make_configuration(network=MultiView(fusion=fusion)), target=target)
    one = Target(kind="regions", outputs=[Output(name="a", values=[1], paint=1)])
    make_plan(make_configuration(network=MultiView(fusion="sigmoid")), target=one)
