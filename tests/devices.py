"""Devices that tests run on, and what waits for them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

#: The CPU in the ordinary suite, CUDA with ``pytest -m gpu`` where there is one.
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]

#: Parts of the names of calls whose result the CPU needs to know, or that copy without pinned memory.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "aten.equal.", "_unique", "_eigh")


class Calls(TorchDispatchMode):
    """Notes the names of all calls that compute something; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.counts(func, args, kwargs or {}):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))

    def counts(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether a call is noted."""
        results = [result.alias_info for result in func._schema.returns]
        return all(alias is None or alias.is_write for alias in results)


class Waits(Calls):
    """Notes what would wait for a CUDA device, or copy to it without pinned memory."""

    def counts(self, func: Any, args: Any, kwargs: Any) -> bool:
        name = str(func)
        by_mask = name.startswith("aten.index") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in (args[1] if len(args) > 1 else ())
        )
        to_host = name.startswith("aten._to_copy") and kwargs.get("device") == torch.device("cpu")
        return by_mask or to_host or any(part in name for part in WAITING)


@contextmanager
def waits_noted(device: str) -> Iterator[list[str]]:
    """What waits for the device, complete at the end: on CUDA by torch's own account, elsewhere by :class:`Waits`."""
    if device != "cuda":
        with Waits() as waits:
            yield waits.found
        return
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += [str(one.message) for one in told if "called a synchronizing" in str(one.message)]
