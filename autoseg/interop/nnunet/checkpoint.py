"""nnU-Net's checkpoints: pickled files, of which only tensors, numbers and text are read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic

#: Function that unpickles a numpy scalar; nnU-Net's log of losses has such scalars.
_SCALAR = np.float64(0).__reduce__()[0]

#: Allowed in addition to torch's own safe types: numpy's numbers, none of which runs code from the file.
_HARMLESS: list[Any] = [
    np.dtype,
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"),
]

#: First torch release with names in this list.
_TORCH = (2, 6)


@dataclass(frozen=True)
class Checkpoint:
    """The used part of a checkpoint.

    Attributes:
        path: of the file.
        weights: the network's state dict.
        trainer: name of the trainer class.
        configuration: name, or None where the file has none.
        mirror_axes: of the patch, for test-time augmentation.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    trainer: str
    configuration: str | None
    mirror_axes: list[int]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running code from it.

    Raises:
        AutosegError: it is damaged, holds other objects than tensors, numbers and text, or lacks a needed entry.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _TORCH:
        raise AutosegError(f"{path} can't be read safely with torch {torch.__version__}; update torch to 2.6 or newer.")
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise AutosegError(f"{path} does not exist.") from None
    except Exception as error:  # a manipulated file can fail in any way
        raise _unreadable(path, error) from None
    if not isinstance(content, dict) or not _is_state(content.get("network_weights")):
        raise AutosegError(f'{path} has no "network_weights"; give a checkpoint that nnU-Net v2 has written.')
    arguments = content.get("init_args")
    name = arguments.get("configuration") if isinstance(arguments, dict) else None
    axes = content.get("inference_allowed_mirroring_axes")
    if axes is not None and not (isinstance(axes, Sequence) and all(isinstance(axis, int) for axis in axes)):
        raise AutosegError(f'{path}: "inference_allowed_mirroring_axes" must be numbers of axes, not {axes!r}.')
    return Checkpoint(
        path,
        _undistributed(content["network_weights"]),
        str(content.get("trainer_name") or "nnUNetTrainer"),
        name if isinstance(name, str) else None,
        sorted(set(axes or ())),
    )


def _unreadable(path: Path, error: Exception) -> AutosegError:
    stranger = re.search(r"GLOBAL\s+([\w.]+)", str(error))
    if stranger is not None:
        return AutosegError(
            f"{path} holds {stranger[1]}, and reading that could run somebody's code; only checkpoints of tensors, "
            "numbers and text, as nnU-Net writes them, are imported."
        )
    return AutosegError(f"{path} is no readable checkpoint of nnU-Net ({type(error).__name__}); copy it again.")


def _is_state(weights: Any) -> bool:
    return (
        isinstance(weights, Mapping)
        and len(weights) > 0
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in weights.items())
    )


def _undistributed(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights without the prefixes of names that training on several GPUs or compiling adds."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return dict(weights)


def write_checkpoint(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    configuration: str,
    fold: int,
    mirror_axes: Sequence[int],
    described: Mapping[str, Any],
) -> None:
    """Write a checkpoint with what nnU-Net's predictor reads, atomically.

    Args:
        path: of the file.
        weights: state dict of nnU-Net's network.
        configuration: name in ``plans.json``.
        fold: number.
        mirror_axes: of the patch.
        described: ``plans`` and ``dataset_json``, kept with the weights as nnU-Net does.
    """
    content = {
        "network_weights": {name: tensor.detach().cpu().clone() for name, tensor in weights.items()},
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": configuration, "fold": fold, **described},
        "inference_allowed_mirroring_axes": tuple(mirror_axes) or None,
    }
    with atomic(path, suffix=".pth") as temporary:
        torch.save(content, temporary)
