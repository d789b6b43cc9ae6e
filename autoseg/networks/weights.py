"""Weights on disk (safetensors), with the identity of the stage they were trained for."""

import hashlib
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from autoseg.networks import build, set_deep_supervision
from autoseg.plans.recipe import Initialization
from autoseg.plans.stage import Stage
from autoseg.runs.weight_files import is_of
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic


def save_weights(path: Path, weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict atomically.

    Args:
        path: of the safetensors file.
        weights: name → tensor.
        metadata: strings to store with them, such as :func:`identity_of`.
    """
    tensors = {}
    pointers: set[int] = set()
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory (nnU-Net's U-Nets list a convolution under two names).
        if tensor.numel() and tensor.data_ptr() in pointers:
            tensor = tensor.clone()
        pointers.add(tensor.data_ptr())
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


def content_of(weights: Mapping[str, torch.Tensor]) -> str:
    """Fingerprint of weights (names, shapes and values), 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def planned_weights(
    initialization: Initialization, folder: Path, read: Callable[[Path], dict[str, torch.Tensor]], option: str
) -> dict[str, torch.Tensor]:
    """Read the weights in a run folder that its training starts from.

    Args:
        initialization: names the file and the fingerprint of its content.
        folder: of the run.
        read: reads the file.
        option: that planned it, for messages.

    Raises:
        AutosegError: the file is gone, unreadable or another one.
    """
    path = folder / initialization.file
    if not path.is_file():
        raise AutosegError(f"{path}, which the training should start from, is gone; plan again with {option}.")
    weights = read(path)
    if initialization.content and content_of(weights) != initialization.content:
        raise AutosegError(f"{path} is not the file that was planned with; plan again with {option}.")
    return weights


def identity_of(stage: Stage) -> dict[str, str]:
    """Metadata for a stage's weights, so that they are not loaded under another plan."""
    return {"identity": stage.identity}


def load_network(path: Path, stage: Stage, device: torch.device) -> nn.Module:
    """A trained network of a stage, ready to predict.

    Raises:
        AutosegError: the weights are missing or fit another plan.
    """
    network = build(stage.network, stage.in_channels, stage.heads)
    weights = load_weights(path)
    if not is_of(stage, path):
        raise AutosegError(f"{path} was trained under another plan; put that plan back, or train the fold again.")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).splitlines()
        reason = textwrap.shorten(lines[1] if len(lines) > 1 else str(error), 120, placeholder=" …").rstrip(".")
        raise AutosegError(f"{path} does not fit the plan beside it ({reason}); train the fold again.") from None
    set_deep_supervision(network, False)
    return network.to(device).eval().requires_grad_(False)
