"""Instance norms that keep channels-last features channels-last, against torch's own."""

import pytest
import torch
from torch import nn

from autoseg.networks import build
from autoseg.networks.channels_last import keep_format
from autoseg.step.variant import Variant
from tests.builders import make_network

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def both(dimensions: int, channels: int = 5) -> tuple[nn.Module, nn.Module]:
    """torch's norm with random weights, and the same kept in format."""
    kind = nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm3d
    plain, own = kind(channels, affine=True), nn.Sequential(kind(channels, affine=True))
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    own[0].load_state_dict(plain.state_dict())
    keep_format(own)
    return plain, own[0]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("samples", [1, 3])
def test_agrees_with_torch(dimensions: int, samples: int) -> None:
    torch.manual_seed(0)
    plain, own = both(dimensions)
    features = 3 * torch.randn(samples, 5, 6, 7, 8)[(..., *[0] * (3 - dimensions))] + 2
    gradient = torch.randn_like(features)
    results = []
    for norm, format_ in ((plain, torch.contiguous_format), (own, FORMATS[dimensions])):
        given = features.clone(memory_format=format_).requires_grad_()
        answer = norm(given)
        assert answer.is_contiguous(memory_format=format_)
        answer.backward(gradient)
        assert given.grad is not None
        results.append((answer.detach(), given.grad, norm.weight.grad, norm.bias.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients() -> None:
    torch.manual_seed(0)
    own = both(3, 3)[1].double()

    def run(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        laid = features.contiguous(memory_format=torch.channels_last_3d)
        return torch.func.functional_call(own, {"weight": weight, "bias": bias}, (laid,))

    given = torch.randn(2, 3, 2, 3, 2, dtype=torch.double, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.double, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(run, (given, weight, bias))


def test_sixteen_bits() -> None:
    """Under autocast features have 16 bits, weights and statistics 32."""
    torch.manual_seed(0)
    plain, own = both(3)
    features = torch.randn(2, 5, 6, 7, 8).bfloat16()
    laid = features.clone(memory_format=torch.channels_last_3d).requires_grad_()
    found = own(laid)
    found.sum().backward()
    assert (found.dtype, laid.grad.dtype, own.weight.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    torch.testing.assert_close(found.float(), plain(features.float()), atol=0.03, rtol=0.01)


def test_the_other_format_is_left_to_torch() -> None:
    """Bit for bit, as before."""
    plain, own = both(3)
    features = torch.randn(2, 5, 4, 4, 4)
    assert torch.equal(own(features), plain(features))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_no_layer_breaks_the_format(dimensions: int) -> None:
    """From a channels-last image on, every layer of a U-Net answers channels-last.

    With one thread torch computes kernels of one voxel, those of the heads, in its own way, and answers contiguous.
    """
    network = build(make_network(dimensions), 2, 3)
    last = Variant(channels_last=True)
    last.prepare(network)
    wrong = []

    def check(name: str) -> None:
        def look(_: nn.Module, __: object, answer: torch.Tensor) -> None:
            if not answer.is_contiguous(memory_format=FORMATS[dimensions]):
                wrong.append(name)

        network.get_submodule(name).register_forward_hook(look)

    for name, part in network.named_modules():
        if not list(part.children()):
            check(name)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        network(last.arrange(torch.randn(2, 2, *[16] * dimensions)))
    finally:
        torch.set_num_threads(threads)
    assert wrong == []
