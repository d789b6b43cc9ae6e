"""Saved state that an interrupted training resumes from."""

from pathlib import Path
from typing import Any

import torch

from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state atomically."""
    with atomic(path, suffix=".pt") as temporary:
        torch.save(state, temporary)


def load_state(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Read a training state; only tensors and plain values are accepted.

    Args:
        path: of the file.
        mapped: read the bytes of a tensor when it is used, for a look at the plain values.

    Raises:
        AutosegError: the file is damaged or holds anything else.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise AutosegError(f"{path} can't be resumed from ({reason}); start over with --restart.") from None
    return state
