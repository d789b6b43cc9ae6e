"""What the papers say of their networks' layers, counted in the networks that are built from the plans."""

from collections import Counter

import pytest
import torch
from torch import nn

from autoseg.networks import build
from autoseg.plans.plan import Plan
from tests.planners.papers.test_claims import planned


def built(plan: Plan) -> nn.Module:
    """The network of the recommended stage, without memory."""
    stage = plan.stage()
    with torch.device("meta"):
        return build(stage.network, stage.in_channels, stage.heads)


def kernels(network: nn.Module, kind: type[nn.Module] = nn.Conv3d) -> Counter[tuple[int, ...]]:
    """Sizes of the kernels of one kind of layers, and how many there are of each."""
    return Counter(tuple(layer.kernel_size) for layer in network.modules() if isinstance(layer, kind))


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(layer, kind) for layer in network.modules())


def dropouts(network: nn.Module) -> Counter[float]:
    return Counter(layer.p for layer in network.modules() if isinstance(layer, nn.Dropout))


def test_deepmedic() -> None:
    """Rahimpour et al., section 2.2: 8 convolutions in each of two pathways, 2 fully connected and 1 classification."""
    network = built(planned("deepmedic"))
    assert kernels(network) == {(3, 3, 3): 2 * 8, (1, 1, 1): 2 + 1}
    # Batch normalization and ReLU of every layer but the classification.
    assert count(network, nn.BatchNorm3d) == count(network, nn.ReLU) == 2 * 8 + 2
    assert dropouts(network) == {0.02: 2 * 8, 0.5: 2}
    assert planned("deepmedic").target.heads == 1


def test_fullimage_unet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 2.2: four levels of two convolutions, the same in the decoder, three poolings by three, two of 1×1×1."""
    plan = planned("fullimage_unet")
    network = built(plan)
    # 1×1×1: three that halve the channels on the way up, two fully connected ones, the classification.
    assert kernels(network) == {(3, 3, 3): 2 * 4 + 2 * 3, (1, 1, 1): 3 + 2 + 1}
    assert count(network, nn.InstanceNorm3d) == count(network, nn.ReLU) == 2 * 7 + 3 + 2
    assert dropouts(network) == {0.5: 2}
    assert plan.target.heads == 2  # a softmax over healthy and tumour
    pooled = []
    real = torch.nn.functional.max_pool3d

    def pool(image: torch.Tensor, size: int, **options: bool) -> torch.Tensor:
        pooled.append(size)
        return real(image, size, **options)

    monkeypatch.setattr(torch.nn.functional, "max_pool3d", pool)
    shape = network(torch.empty(2, 4, 144, 196, 143, device="meta")).shape
    assert (pooled, shape) == ([3, 3, 3], (2, 2, 144, 196, 143))


@pytest.mark.parametrize("planner", ["deepmedic", "fullimage_unet"])
def test_weights_are_he_normal(planner: str) -> None:
    """Rahimpour et al., section 2.2: N(0, √(2/n)) with n the number of weights to a neuron."""
    stage = planned(planner).stage()
    torch.manual_seed(0)
    for layer in build(stage.network, stage.in_channels, stage.heads).modules():
        if isinstance(layer, nn.Conv3d) and layer.weight.numel() > 10_000:
            weight, inputs = layer.weight.detach(), layer.weight[0].numel()
            assert weight.mean().item() == pytest.approx(0, abs=0.05 * (2 / inputs) ** 0.5)
            assert weight.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.05)


def test_albunets() -> None:
    """Wacker et al., figure 2 and section III-A: ResNet34's 33 convolutions, 3×1×1 layers in the 3D network alone."""
    flat, deep = built(planned("albunet2d")), built(planned("albunet3d"))
    for network in (flat, deep):
        # And three of 1×1 where a stage of a ResNet34 changes its channels.
        assert kernels(network, nn.Conv2d) == {(7, 7): 1, (3, 3): 32, (1, 1): 3}
        pools = [layer for layer in network.modules() if isinstance(layer, nn.MaxPool2d)]
        assert [layer.kernel_size for layer in pools] == [2]
        assert count(network, nn.ConvTranspose3d) == 5
        assert count(network, nn.Linear) == 0
    assert (3, 1, 1) not in kernels(flat)
    assert kernels(deep) - kernels(flat) == {(3, 1, 1): 4}
    # Fewer convolutions up than down.
    assert sum(kernels(flat).values()) + 5 < 33


def test_region_unet() -> None:
    """Tweedy, Model class: n = 16."""
    plan = planned("region_unet")
    first = next(layer for layer in built(plan).modules() if isinstance(layer, nn.Conv3d))
    assert (first.in_channels, first.out_channels, plan.target.heads) == (3, 16, 3)


def test_region_cascade() -> None:
    """Wacker et al., section V-A: one network for each region, with PReLU and dilated convolutions."""
    plan = planned("region_cascade")
    for name, configuration in plan.configurations.items():
        with torch.device("meta"):
            network = build(configuration.network, 4, 1)
        convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv3d)]
        assert any(max(layer.dilation) > 1 for layer in convolutions), name
        slopes = [weight for weight in network.state_dict() if weight.endswith("slope")]
        assert slopes, name
    assert list(plan.configurations) == ["whole_tumor", "tumor_core", "enhancing_tumor"]


def test_cropped_unet() -> None:
    """Yıldız et al., section 2.4: two convolutions a level, four poolings by two, four transposed convolutions."""
    plan = planned("cropped_unet")
    network = built(plan)
    # A classification for each level of the decoder; only the highest is used, without deep supervision.
    assert kernels(network) == {(3, 3, 3): 2 * 5 + 2 * 4, (1, 1, 1): 4}
    assert kernels(network, nn.ConvTranspose3d) == {(2, 2, 2): 4}
    pools = [layer for layer in network.modules() if isinstance(layer, nn.MaxPool3d)]
    assert [(layer.kernel_size, layer.stride) for layer in pools] == [([2, 2, 2], [2, 2, 2])] * 4
    # Section 2.4.1: batch normalization, of every convolution 3×3×3.
    assert (count(network, nn.BatchNorm3d), count(network, nn.InstanceNorm3d)) == (2 * 5 + 2 * 4, 0)
    for layer in network.modules():
        if isinstance(layer, nn.ConvTranspose3d):
            assert layer.out_channels == layer.in_channels // 2
    assert plan.target.heads == 4


def test_vnet() -> None:
    """Milletari et al., section 2 and figure 2: 5×5×5, and 2×2×2 of stride 2 instead of pooling."""
    plan = planned("vnet")
    network = built(plan)
    assert kernels(network) == {(5, 5, 5): 1 + 2 + 3 + 3 + 3 + 3 + 3 + 2 + 1, (2, 2, 2): 4, (1, 1, 1): 1}
    assert kernels(network, nn.ConvTranspose3d) == {(2, 2, 2): 4}
    strided = [layer for layer in network.modules() if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] == 2]
    assert all(layer.stride == (2, 2, 2) and layer.out_channels == 2 * layer.in_channels for layer in strided)
    assert count(network, nn.MaxPool3d) == 0
    assert plan.target.heads == 2
