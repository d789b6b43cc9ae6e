"""Precision of a step: 16-bit autocast, or 32 bits."""

from contextlib import AbstractContextManager, nullcontext

import torch

from autoseg.plans.recipe import Precision


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The data type of autocast; float32 means none.

    For ``auto`` it is a guess, taken where nothing was measured (:mod:`autoseg.step.tune`): bfloat16 on a CPU with
    AVX512-BF16 or AMX and on GPUs from compute capability 8, float16 on older GPUs.
    """
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp16":
        return torch.float16 if device.type != "cpu" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and has_fast_bfloat16():
        return torch.bfloat16
    return torch.float32


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to ``dtype`` on the device; nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
