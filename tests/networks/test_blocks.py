"""Pieces that networks are made of: convolutions of images that are smaller than the kernel."""

import pytest
import torch
from torch import nn

from autoseg.networks import build
from autoseg.networks.blocks import Convolution, pad_beforehand
from autoseg.plans.families import UNet

#: Kernel, stride, space.
SHORT = [
    ((3, 3, 3), 1, (2, 8, 8)),
    ((3, 3, 3), 2, (2, 2, 2)),
    ((3, 1, 1), 1, (2, 8, 8)),
    ((5, 3, 1), 1, (4, 2, 8)),
    ((1, 3, 3), 1, (1, 2, 8)),
]


@pytest.mark.parametrize(("kernel", "stride", "space"), SHORT)
def test_the_same_as_torch(kernel: tuple[int, int, int], stride: int, space: tuple[int, int, int]) -> None:
    """In 32 bits, result and gradients; in 16 bits the weights' gradient is that of 32 bits, give or take."""
    torch.manual_seed(0)
    plain = nn.Conv3d(16, 16, kernel, stride, tuple(side // 2 for side in kernel))
    ours = nn.Sequential(nn.Conv3d(16, 16, kernel, stride, tuple(side // 2 for side in kernel)))
    pad_beforehand(ours)
    assert isinstance(ours[0], Convolution)
    ours[0].load_state_dict(plain.state_dict())
    image = torch.rand(2, 16, *space)
    expected = plain(image)
    assert torch.allclose(ours(image), expected, atol=1e-5)
    expected.square().sum().backward()
    for enabled in (False, True):
        ours.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            result = ours(image)
        result.float().square().sum().backward()
        for own, reference in zip(ours.parameters(), plain.parameters(), strict=True):
            assert (own.grad - reference.grad).norm() < (0.03 if enabled else 1e-5) * reference.grad.norm()


@pytest.mark.parametrize("family", ["unet", "resenc"])
def test_a_u_net_whose_lowest_level_is_smaller_than_the_kernel_learns_in_sixteen_bits(family: str) -> None:
    """Its convolutions are another library's; gradients are those of 32 bits, give or take."""
    torch.manual_seed(0)
    topology = UNet.model_validate(
        {
            "family": family,
            "features": [16, 32],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "kernel_sizes": [[3, 3, 3]] * 2,
            "encoder_blocks": [1, 2],
            "decoder_convs": [1],
            "deep_supervision": False,
        }
    )
    module = build(topology, 1, 1)
    image = torch.rand(2, 1, 4, 8, 8)
    found = []
    for enabled in (False, True):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = module(image)
        logits.float().square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    assert (found[0] - found[1]).norm() < 0.2 * found[0].norm()
