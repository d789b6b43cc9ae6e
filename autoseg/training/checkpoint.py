"""What a training leaves on disk: weights as safetensors, and the state it can be taken up from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from autoseg.errors import AutosegError
from autoseg.files import atomic


def save_weights(path: Path, weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict atomically."""
    tensors = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory (nnU-Net's U-Nets list a convolution under two names).
        if tensor.numel() and tensor.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        tensors[name] = tensor
    with atomic(path, suffix=".safetensors") as temporary:
        save_file(tensors, str(temporary), metadata=dict(metadata or {}))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict to the CPU.

    Raises:
        AutosegError: missing or damaged.
    """
    try:
        return load_file(str(path))
    except FileNotFoundError:
        raise AutosegError(f"{path} does not exist; train this fold first.") from None
    except (SafetensorError, OSError) as error:
        raise AutosegError(f"{path} holds no readable weights ({error}); train this fold again.") from None


def read_metadata(path: Path) -> dict[str, str]:
    """What was noted with the weights; empty where they are unreadable."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state atomically."""
    with atomic(path, suffix=".pt") as temporary:
        torch.save(state, temporary)


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state; only tensors and plain values are accepted.

    Raises:
        AutosegError: damaged, or holding anything else.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise AutosegError(f"{path} can't be resumed from ({reason}); start over with --restart.") from None
    return state
