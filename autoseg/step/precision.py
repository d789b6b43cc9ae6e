"""Precision of a step: 16-bit autocast, or 32 bits."""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.plans.recipe import Precision

#: A small convolution that takes so many times longer in bfloat16 than in float32 is emulated. On a CPU without such
#: instructions it was 25 to 120 times, with them between a half and twice.
EMULATED = 8.0

#: Voxels of an axis of that convolution's image, in slices and in volumes; some milliseconds of work where emulated.
_PROBE = {2: 32, 3: 12}


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The data type of autocast; float32 means none.

    For ``auto`` it is a guess, taken where nothing was measured (:mod:`autoseg.step.tune`): bfloat16 on a CPU with
    AVX512-BF16 or AMX and on GPUs from compute capability 8, float16 on older GPUs. On a Mac's GPU all is float32.
    For ``fp16``, which no CPU computes fast, a CPU takes bfloat16, and float32 where it has to emulate that.
    """
    if precision == "fp32" or device.type == "mps":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp16":
        if device.type != "cpu":
            return torch.float16
        return torch.float32 if emulates_bfloat16(3) else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if gpu_has_bfloat16(device) else torch.float16
    if device.type == "cpu" and has_fast_bfloat16():
        return torch.bfloat16
    return torch.float32


def gpu_has_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device multiplies bfloat16: NVIDIA's do from compute capability 8 on; AMD has other numbers."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


@lru_cache
def emulates_bfloat16(dimensions: int) -> bool:
    """Whether this CPU has to emulate convolutions in bfloat16, so that no step in it can be the fastest.

    Measured by one small convolution, in less than a tenth of a second, where the CPU does not say that it has the
    instructions: a training step that finds it out takes seconds.

    Args:
        dimensions: of the network, 2 or 3.
    """
    if has_fast_bfloat16():
        return False
    image = torch.zeros(2, 16, *(_PROBE[dimensions],) * dimensions)
    return _convolution_seconds(image.bfloat16()) > EMULATED * _convolution_seconds(image)


@torch.inference_mode()
def _convolution_seconds(image: Tensor) -> float:
    """The shortest of three convolutions, after one to warm up."""
    convolve = functional.conv3d if image.ndim == 5 else functional.conv2d
    weight = torch.zeros(16, 16, *(3,) * (image.ndim - 2), dtype=image.dtype)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        convolve(image, weight, padding=1)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to ``dtype`` on the device; nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
