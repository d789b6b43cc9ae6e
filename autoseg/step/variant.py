"""Variant: how a device computes a network: precision, memory format, compiled or not."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from autoseg.plans.recipe import Recipe
from autoseg.step.precision import autocast, emulates_bfloat16, gpu_has_bfloat16, resolve_precision
from autoseg.utils.errors import AutosegError

#: Key of the variant in a saved state, and in the metadata of weights.
VARIANT = "variant"

_NAMES: dict[torch.dtype, Literal["fp32", "bf16", "fp16"]] = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}
_TYPES_OF = {name: dtype for dtype, name in _NAMES.items()}

#: Axes of an image ``(batch, channel, *space)`` → the format in which the channels of a voxel lie side by side.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Variant:
    """One way to compute a step; which one is fastest depends on the device, and is measured.

    Results differ between variants by rounding only, but they do differ: a fold keeps the one it began with.

    Attributes:
        dtype: of autocast; float32 for none.
        channels_last: whether images and weights lie with a voxel's channels side by side.
        compiled: whether the network is compiled (``torch.compile``).
        graphs: whether forward and backward pass are recorded as a CUDA graph; only on CUDA.
        fused: whether the optimizer's step is one kernel; always so on CUDA.
    """

    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    compiled: bool = False
    graphs: bool = False
    fused: bool = False

    @property
    def precision(self) -> Literal["fp32", "bf16", "fp16"]:
        """``fp32``, ``bf16`` or ``fp16``."""
        return _NAMES[self.dtype]

    def __str__(self) -> str:
        said = {"channels-last": self.channels_last, "compiled": self.compiled, "with CUDA graphs": self.graphs}
        words = [self.precision, *(word for word, is_so in said.items() if is_so)]
        return " ".join(words) + (", fused optimizer" if self.fused else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        values["dtype"] = self.precision
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Variant":
        """The variant of :meth:`to_json`; unknown keys, of later versions, are ignored.

        Raises:
            KeyError: ``dtype`` is absent or unknown.
        """
        known = {name: bool(values.get(name, False)) for name in ("channels_last", "compiled", "graphs", "fused")}
        return cls(_TYPES_OF[values["dtype"]], **known)

    @classmethod
    def untimed(cls, recipe: Recipe, device: torch.device) -> "Variant":
        """What the recipe pins, and a guess for the rest: what is taken where nothing was measured."""
        dtype = resolve_precision(recipe.precision, device)
        return cls(dtype, recipe.memory_format == "channels_last", recipe.compile == "always")

    def casts(self, device: torch.device) -> AbstractContextManager[object]:
        """Autocast of a forward pass on this device."""
        return autocast(device, self.dtype)

    def arrange(self, tensor: torch.Tensor) -> torch.Tensor:
        """An image or a weight in the variant's memory format; itself where it lies so already."""
        wanted = _CHANNELS_LAST.get(tensor.ndim)
        return in_format(tensor, wanted) if self.channels_last and wanted is not None else tensor

    def prepare(self, network: nn.Module) -> None:
        """Put the network's weights into the variant's memory format; the parameters stay the same objects."""
        if not self.channels_last:
            return
        for parameter in network.parameters():
            parameter.data = self.arrange(parameter.data)

    def run(self, network: nn.Module) -> Callable[[torch.Tensor], Any]:
        """The network as a function of an arranged image, compiled where the variant says so.

        Its weights, mode and attributes are the network's own, also when they change later.
        """
        if not self.compiled:
            return network
        function: Callable[[torch.Tensor], Any] = torch.compile(network, dynamic=False)
        return function


def record(variant: Variant, device: torch.device) -> str:
    """A variant and the kind of device that it was chosen for, as text to keep."""
    return json.dumps({"device": device.type, **variant.to_json()})


def recorded(text: str, device: torch.device) -> Variant | None:
    """The variant of :func:`record`; None for a device of another kind or without its precision, and for other text.

    A CPU that has to emulate a precision counts as one without it.
    """
    try:
        values = json.loads(text)
        variant = Variant.from_json(values) if values["device"] == device.type else None
    except (ValueError, TypeError, KeyError):
        return None
    return variant if variant is not None and _computes(device, variant.dtype) else None


def _computes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device has a precision that another one of its kind has."""
    if device.type == "mps":
        return dtype == torch.float32
    if dtype != torch.bfloat16:
        return True
    return gpu_has_bfloat16(device) if device.type == "cuda" else not emulates_bfloat16(3)


def runnable(variant: Variant, recipe: Recipe, device: torch.device) -> Variant:
    """A variant, not compiled where compiling fails on this machine.

    Raises:
        AutosegError: it fails, and the recipe insists on it.
    """
    error = compile_error(device) if variant.compiled else ""
    if not error:
        return variant
    if recipe.compile == "always":
        raise AutosegError(
            f"recipe.compile is always, and compiling for {device} fails on this machine ({error}); install a C++ "
            "compiler (on a GPU Triton, too), or plan with --set recipe.compile=never."
        )
    return replace(variant, compiled=False)


@cache
def compile_error(device: torch.device) -> str:
    """Why compiling fails on this machine, as where there is no C++ compiler; empty where it works.

    One small function tells, in some seconds, once a process.
    """
    try:
        torch.compile(lambda values: values.sin() + 1, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # a compiler or a driver that is absent shows itself in many kinds of exception
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ""


def in_format(tensor: torch.Tensor, wanted: torch.memory_format) -> torch.Tensor:
    """A tensor with the strides of a memory format, also where several formats fit.

    With a single channel or a kernel of one voxel, every format does, and torch's ``contiguous`` changes nothing; the
    convolution then can't tell that channels-last is meant, and answers in the other format.
    """
    strides = torch.empty(tensor.shape, device="meta", memory_format=wanted).stride()
    if tensor.stride() == strides:
        return tensor
    if tensor.is_contiguous(memory_format=wanted):
        return tensor.as_strided(tensor.shape, strides)
    return torch.empty_like(tensor, memory_format=wanted).copy_(tensor)
