"""The full-image U-Net: its number of parameters, and any size of image."""

import pytest
import torch
from torch import nn

from autoseg.networks import build, count_parameters
from autoseg.planning.verification import check_memory
from autoseg.plans.families import FullImageUNet
from tests.builders import step_setup
from tests.networks.overfit import dice_after

SMALL = FullImageUNet(features=[(2, 4), (4, 8), (8, 16)], fully_connected=[4, 4])


def test_about_as_many_parameters_as_the_paper() -> None:
    """Rahimpour et al.: 3,878,841; here with four sequences and one output."""
    with torch.device("meta"):
        trainable, with_statistics = count_parameters(build(FullImageUNet(), 4, 1))
    assert trainable == with_statistics == 3_884_261
    assert abs(trainable / 3_878_841 - 1) < 0.005


def test_parameters_by_hand() -> None:
    """Two levels 2-4 and 4-8, one channel, two outputs; two numbers a kernel for each normalization."""
    inwards = 27 * (1 * 2 + 2 * 4 + 4 * 4 + 4 * 8) + 2 * (2 + 4 + 4 + 8)
    outwards = 8 * 4 + 2 * 4 + 27 * ((4 + 4) * 2 + 2 * 2) + 2 * (2 + 2)
    end = 2 * 3 + 2 * 3 + 3 * 2 + 2
    topology = FullImageUNet(features=[(2, 4), (4, 8)], fully_connected=[3])
    assert count_parameters(build(topology, 1, 2))[0] == inwards + outwards + end


@pytest.mark.parametrize("size", [(16, 16, 16), (9, 14, 11), (5, 7, 3), (1, 2, 6)])
def test_any_size_comes_back(size: tuple[int, ...]) -> None:
    assert SMALL.fits(size) is None
    assert build(SMALL, 2, 3)(torch.rand(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("size", [(27, 27, 27), (10, 28, 11), (3, 2, 12)])
def test_pooling_by_three(size: tuple[int, ...]) -> None:
    """Rahimpour et al., section 2.2: maxima of 3×3×3, a third of the voxels along each axis, no parameter more."""
    topology = SMALL.model_copy(update={"factor": 3})
    assert topology.fits(size) is None
    module = build(topology, 2, 3).eval()
    sizes: list[tuple[int, ...]] = []
    for level in module.down:
        level.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[2:])))
    assert module(torch.rand(1, 2, *size)).shape == (1, 3, *size)
    third = tuple(-(-side // 3) for side in size)
    assert sizes == [size, third, tuple(-(-side // 3) for side in third)]
    assert count_parameters(module) == count_parameters(build(SMALL, 2, 3))
    assert "must be over 27" in (FullImageUNet(factor=3).fits([27, 20, 20]) or "")


def test_what_leaves_one_voxel_is_refused() -> None:
    assert "must be over 4" in (SMALL.fits([4, 4, 4]) or "")
    assert "must be over 8" in (FullImageUNet().fits([8, 4, 8]) or "")


def test_an_odd_axis_keeps_its_place() -> None:
    """Levels below see pairs of voxels; a pair must come back where it was, also in an image of 15.

    Only the way through the lower level is left open (the skipped features are shut off), so the result is made of
    blocks of two, the first of which are voxels 0 and 1.
    """
    torch.manual_seed(0)
    topology = FullImageUNet(features=[(2, 4), (4, 8)], fully_connected=[])
    module = build(topology, 1, 1).eval()
    with torch.no_grad():
        first = module.join[0][0][0].weight
        first[:, :4] = 0
        for layer in (module.join[0][0][0], module.join[0][1][0]):
            middle = layer.weight[:, :, 1, 1, 1].clone()
            layer.weight.zero_()
            layer.weight[:, :, 1, 1, 1] = middle
    result = module(torch.rand(1, 1, 15, 15, 15))[0, 0]
    for axis in range(3):
        line = result.movedim(axis, 0)
        assert torch.allclose(line[0:14:2], line[1:15:2], atol=1e-5)
        assert not torch.allclose(line[1:13:2], line[2:14:2], atol=1e-3)


def test_dropout_is_in_the_last_two_layers_only() -> None:
    rates = [module.p for module in build(FullImageUNet(), 1, 1).head.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.5, 0.5]
    assert sum(isinstance(module, nn.Dropout) for module in build(FullImageUNet(), 1, 1).modules()) == 2


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_bytes_are_measured_ones(norm: str, precision: str) -> None:
    topology = SMALL.model_copy(update={"norm": norm})
    found = check_memory(step_setup(topology, (2, 3, (9, 14, 12), 2), kind="regions"), precision, torch.device("cpu"))
    assert found.computed == found.measured


def test_learns() -> None:
    torch.manual_seed(0)
    assert dice_after(build(SMALL.model_copy(update={"dropout": 0.1}), 1, 1)) > 0.95
