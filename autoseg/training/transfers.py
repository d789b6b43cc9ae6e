"""Copies from host memory to a device that nothing waits for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


def to_device(array: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """An array on a device; a CUDA device fetches it from pinned memory in its own time.

    A plain copy would wait until the device has done all its work so far. Pinned blocks come from torch's cache and
    return to it once they are copied.

    Args:
        array: on the host, contiguous or not; a tensor is returned as it is.
        device: where to. On a CPU the tensor may share the array's memory.
    """
    if isinstance(array, torch.Tensor):
        return array
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if device.type != "cuda":
        return tensor.to(device)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor).to(device, non_blocking=True)


@dataclass(frozen=True)
class Fetched:
    """Tensors on their way to the host: a CUDA device sends them when it comes to it, and nothing waits until then.

    Attributes:
        tensor: on the host; None for nothing.
        sent: is recorded once it is there; None for a CPU.
    """

    tensor: torch.Tensor | None = None
    sent: torch.cuda.Event | None = None

    @classmethod
    def of(cls, tensors: Sequence[torch.Tensor]) -> "Fetched":
        """Begin to fetch tensors of one shape and device."""
        if not tensors:
            return cls()
        together = torch.stack(list(tensors))
        if together.device.type != "cuda":
            return cls(together)
        pinned = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
        pinned.copy_(together, non_blocking=True)
        sent = torch.cuda.Event()
        sent.record(torch.cuda.current_stream(together.device))
        return cls(pinned, sent)

    def values(self) -> list[Any]:
        """The tensors as lists of numbers; waits until they are there."""
        if self.sent is not None:
            self.sent.synchronize()
        return [] if self.tensor is None else self.tensor.tolist()
