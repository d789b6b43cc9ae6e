"""V-Net: parameters by hand, the residual of an image, sizes."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from autoseg.networks import build, count_parameters
from autoseg.networks.vnet import Block
from autoseg.planning.verification import check_memory
from autoseg.plans.families import VNet
from tests.builders import step_setup
from tests.networks.overfit import dice_after

SMALL = VNet(features=[4, 8, 16], convolutions=[1, 2, 2], kernel_size=3)


def test_parameters_by_hand() -> None:
    """Two levels of 2 and 4 channels, one and two 5×5×5 convolutions, two image channels, three outputs, no norm.

    Each convolution has a bias and each rectifier a slope a channel.
    """
    level = (125 * 2 * 2 + 2 + 2) + 2 * (125 * 4 * 4 + 4 + 4)
    down = 8 * 2 * 4 + 4 + 4
    up = 8 * 4 * 2 + 2 + 2
    out = 125 * 4 * 4 + 4 + 4
    end = 4 * 3 + 3
    topology = VNet(features=[2, 4], convolutions=[1, 2], norm="none")
    assert count_parameters(build(topology, 2, 3)) == (level + down + up + out + end,) * 2


def test_batch_norm_takes_the_place_of_the_biases() -> None:
    """A scale and a shift where a bias was; as many statistics again."""
    none, _ = count_parameters(build(VNet(features=[2, 4], convolutions=[1, 2], norm="none"), 1, 1))
    plain, with_statistics = count_parameters(build(VNet(features=[2, 4], convolutions=[1, 2]), 1, 1))
    normalized = 2 + 4 + 4 + 4 + 2 + 4
    assert plain == none + normalized
    assert with_statistics == plain + 2 * normalized


def test_convolutions_of_the_paper() -> None:
    """1, 2, 3, 3, 3 on the way in, 3, 3, 2, 1 on the way out, all 5×5×5; nothing pools."""
    with torch.device("meta"):
        module = build(VNet(), 1, 2)
    enter = [len(block.convolutions) for block in module.enter]
    leave = [len(block.convolutions) for block in module.leave]
    assert (enter, leave) == ([1, 2, 3, 3, 3], [3, 3, 2, 1])
    kernels = [part.kernel_size for part in module.modules() if isinstance(part, nn.Conv3d)]
    assert kernels.count((5, 5, 5)) == 21
    assert kernels.count((2, 2, 2)) == 4
    assert [block.channels for block in module.leave] == [256, 128, 64, 32]
    assert not any("Pool" in type(part).__name__ for part in module.modules())


def test_the_image_is_added_its_channels_in_turn() -> None:
    """Where the convolution gives nothing, a block gives its input; two channels fill five as a, b, a, b, a."""
    block = Block(2, 5, 1, VNet(features=[5, 10], convolutions=[1, 1], norm="none"))
    for parameter in block.convolutions.parameters():
        nn.init.zeros_(parameter)
    image = torch.rand(1, 2, 4, 4, 4)
    assert torch.equal(block(image), image[:, [0, 1, 0, 1, 0]])


def test_below_zero_a_rectifier_has_its_own_slope() -> None:
    block = Block(1, 1, 1, VNet(features=[1, 2], convolutions=[1, 1], norm="none"))
    for parameter in block.convolutions.parameters():
        nn.init.zeros_(parameter)
    assert block(torch.full((1, 1, 2, 2, 2), -4.0)).unique().tolist() == [-1.0]


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_logits_at_the_size_of_the_image(norm: str) -> None:
    topology = SMALL.model_copy(update={"norm": norm, "dropout": 0.1})
    assert topology.divisor == [4, 4, 4]
    assert build(topology, 3, 2)(torch.rand(2, 3, 8, 12, 16)).shape == (2, 2, 8, 12, 16)


def test_sizes_and_lengths_are_checked() -> None:
    assert "multiple of 16" in (VNet().fits([64, 120, 128]) or "")
    with pytest.raises(ValidationError, match="convolutions has 2 entries; features has 3"):
        VNet(features=[4, 8, 16], convolutions=[1, 2])


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_bytes_are_measured_ones(norm: str, precision: str) -> None:
    topology = SMALL.model_copy(update={"norm": norm})
    found = check_memory(step_setup(topology, (3, 2, (8, 12, 16), 2)), precision, torch.device("cpu"))
    assert found.computed == found.measured


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_learns(norm: str) -> None:
    torch.manual_seed(0)
    assert dice_after(build(SMALL.model_copy(update={"norm": norm}), 1, 1)) > 0.95


def test_gradients_in_sixteen_bits_where_the_image_is_smaller_than_the_kernel() -> None:
    """Two voxels at the lowest level, five in a kernel: as in 32 bits, give or take."""
    torch.manual_seed(0)
    module = build(VNet(features=[16, 32], convolutions=[1, 2], norm="none"), 1, 1)
    image = torch.rand(2, 1, 4, 4, 4)
    found = []
    for enabled in (False, True):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = module(image)
        logits.float().sum().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]))
    assert (found[0] - found[1]).norm() < 0.1 * found[0].norm()
