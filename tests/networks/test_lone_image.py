"""Convolution of a batch of one on a CPU: torch's result and gradients, by another kernel."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile

from autoseg.networks import build
from autoseg.networks.blocks import pad_beforehand
from autoseg.networks.lone_image import convolve, is_left_aside
from tests.builders import make_network

Convolve = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")

#: Kernel, stride, padding, dilation.
GEOMETRIES = [
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1)),
    ((3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1)),
    ((3, 3, 3), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    ((3, 3, 3), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
]


def _found(function: Convolve, given: list[torch.Tensor | None]) -> list[torch.Tensor]:
    """Result and gradients, of a gradient of ones that rise."""
    own = [None if tensor is None else tensor.clone().requires_grad_() for tensor in given]
    result = function(*own)  # type: ignore[arg-type]
    result.backward(torch.arange(result.numel(), dtype=result.dtype).reshape(result.shape) / result.numel())
    return [result.detach(), *(tensor.grad for tensor in own if tensor is not None and tensor.grad is not None)]


@needs_onednn
@settings(max_examples=40, deadline=None)
@given(
    geometry=st.sampled_from(GEOMETRIES),
    space=st.tuples(*[st.integers(3, 9)] * 3),
    biased=st.booleans(),
    channels_last=st.booleans(),
)
def test_the_same_as_torch(geometry: tuple, space: tuple[int, int, int], biased: bool, channels_last: bool) -> None:
    """In 64 bits, where torch has its own kernel only."""
    kernel, stride, padding, dilation = geometry
    if dilation != (1, 1, 1):
        space = tuple(side + 2 for side in space)  # type: ignore[assignment]
    random = torch.Generator().manual_seed(0)
    image, weight = torch.randn(1, 4, *space, generator=random), torch.randn(6, 4, *kernel, generator=random)
    bias = torch.randn(6, generator=random) if biased else None
    if channels_last:
        image, weight = (tensor.to(memory_format=torch.channels_last_3d) for tensor in (image, weight))
    doubled = [None if tensor is None else tensor.double() for tensor in (image, weight, bias)]
    expected = _found(lambda x, w, b: F.conv3d(x, w, b, stride, padding, dilation), doubled)
    found = _found(lambda x, w, b: convolve(x, w, b, stride, padding, dilation), [image, weight, bias])
    assert len(found) == len(expected) == 3 + biased
    for own, reference in zip(found, expected, strict=True):
        assert torch.allclose(own.double(), reference, atol=1e-4)


@needs_onednn
def test_what_is_frozen_gets_no_gradient() -> None:
    image, weight = torch.randn(1, 2, 4, 4, 4), torch.randn(3, 2, 3, 3, 3, requires_grad=True)
    convolve(image, weight, None, [1] * 3, [1] * 3, [1] * 3).sum().backward()
    assert weight.grad is not None
    assert image.grad is None
    image.requires_grad_()
    convolve(image, weight.detach(), None, [1] * 3, [1] * 3, [1] * 3).sum().backward()
    assert image.grad is not None


@needs_onednn
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("channels", [1, 8, 9, 64])
@pytest.mark.parametrize("space", [(40, 56, 40), (64, 40, 8), (5, 7, 5)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (5, 5, 5)])
def test_what_torch_leaves_aside(
    batch: int, channels: int, space: tuple[int, int, int], kernel: tuple[int, int, int]
) -> None:
    """By torch's own choice."""
    image, weight = torch.empty(batch, channels, *space), torch.empty(8, channels, *kernel)
    padding = [side // 2 for side in kernel]
    chosen = torch._C._select_conv_backend(image, weight, None, [1] * 3, padding, [1] * 3, False, [0] * 3, 1)
    assert is_left_aside(image, weight, 1) == ("Mkldnn" not in str(chosen))


def test_what_is_left_to_torch() -> None:
    image, weight = torch.empty(1, 8, 8, 8, 8), torch.empty(8, 8, 3, 3, 3)
    assert not is_left_aside(image.double(), weight.double(), 1)
    assert not is_left_aside(image.to("meta"), weight, 1)
    assert not is_left_aside(image, torch.empty(8, 8, 1, 1, 1), 1)
    assert not is_left_aside(image, torch.empty(8, 4, 3, 3, 3), 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_left_aside(image, weight, 1)


@needs_onednn
def test_a_network_of_one_image_is_convolved_by_onednn() -> None:
    network = build(make_network(3), 1, 2)
    with profile(activities=[ProfilerActivity.CPU]) as profiled, torch.inference_mode():
        one = network(torch.ones(1, 1, 16, 16, 16))
    times = {event.key: event.count for event in profiled.key_averages()}
    kernels = [max(part.kernel_size) for part in network.modules() if isinstance(part, nn.Conv3d)]
    assert times["aten::mkldnn_convolution"] >= len([side for side in kernels if side > 1]) > 0
    assert times.get("aten::slow_conv3d_forward", 0) <= kernels.count(1)
    with torch.inference_mode():
        both = network(torch.ones(2, 1, 16, 16, 16))
    for own, pair in zip(one, both, strict=True):
        assert torch.allclose(own[0], pair[0], atol=1e-4)


@pytest.mark.parametrize("padding", [{"padding": "same"}, {"padding": 1, "padding_mode": "replicate"}])
def test_padding_by_name(padding: dict) -> None:
    torch.manual_seed(0)
    plain = nn.Conv3d(2, 2, 3, **padding)
    ours = nn.Sequential(nn.Conv3d(2, 2, 3, **padding))
    pad_beforehand(ours)
    ours[0].load_state_dict(plain.state_dict())
    for space in ((2, 4, 4), (5, 4, 4)):
        image = torch.rand(1, 2, *space)
        assert torch.allclose(ours(image), plain(image), atol=1e-5)
