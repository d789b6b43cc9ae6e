"""Where a network starts from: weights that an encoder learned on 2D pictures, from timm or from a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autoseg.networks.inflated import SliceEncoder, build_inflated, encoder_maps, import_timm
from autoseg.networks.weights import planned_weights
from autoseg.plans.families import Inflated
from autoseg.plans.recipe import Initialization
from autoseg.transfer.surgery import sides_of
from autoseg.utils.errors import AutosegError
from autoseg.utils.text import listed

#: Colours that encoders were trained with.
_COLOURS = 3

#: Under which of these a checkpoint file may keep its weights.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")

#: So many tensors that do not fit are named in an error.
_NAMED = 3

_Tensors = dict[str, torch.Tensor]


def read_weights(path: Path) -> _Tensors:
    """Read a model's weights from a ``.safetensors`` file, or from one that torch saved; no code in it is run.

    Raises:
        AutosegError: missing, unreadable, or no dictionary of tensors.
    """
    if not path.is_file():
        raise AutosegError(f"--weights {path} does not exist; give a file, imagenet or random.")
    try:
        found: Any = load_file(str(path)) if path.suffix == ".safetensors" else _load_torch(path)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise AutosegError(f"--weights {path} holds no readable weights ({_first_line(error)}).") from None
    weights = {
        str(name).removeprefix("module."): tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)
    }
    if not weights:
        raise AutosegError(f"--weights {path} holds no tensors under their names; save model.state_dict() to a file.")
    return weights


def _load_torch(path: Path) -> dict[Any, Any]:
    from pickle import UnpicklingError

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError("it holds more than tensors; save model.state_dict() only") from None
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    return dict(found) if isinstance(found, dict) else {}


def imagenet_weights(encoder: str) -> _Tensors:
    """The weights that timm has for a model; they are downloaded where this machine has not got them yet.

    Raises:
        AutosegError: timm is not installed or has none; or there is no network.
    """
    timm = import_timm()
    try:
        model: nn.Module = timm.create_model(encoder, pretrained=True)
    except Exception as error:  # whatever a download may raise
        raise AutosegError(
            f"the ImageNet weights of {encoder} can't be had from timm ({_first_line(error)}); where there is no "
            "network, plan with --weights FILE, or bring timm's cache (HF_HOME) from where there is one."
        ) from None
    return model.state_dict()


def fit_weights(
    own: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    channels: Literal["repeat", "mean"],
    others: frozenset[str] = frozenset(),
) -> tuple[_Tensors, list[str]]:
    """Match weights to a network's own tensors by their names.

    Args:
        own: the network's state dict; only shapes count. A name's first dot may be an underscore, as in timm's feature
            networks (``stages_0.downsample`` for ``stages.0.downsample``).
        weights: to be taken over; a convolution of three colours is adapted to the network's channels.
        channels: how, see :func:`adapt_channels`.
        others: names that weights may hold without belonging to the network: the classifier, say.

    Returns:
        The network's name → new tensor, and in words what does not fit.
    """
    named = {name if name in own else name.replace(".", "_", 1): name for name in weights}
    fitted: _Tensors = {}
    unfit = []
    for name, tensor in own.items():
        if name not in named:
            if not name.endswith("num_batches_tracked"):  # older files lack these counters; nothing depends on them
                unfit.append(f"{name} is missing")
            continue
        new = weights[named[name]]
        colours = new.ndim == 4 and new.shape[1] == _COLOURS and tensor.ndim == 4 and tensor.shape[1] != _COLOURS
        if colours and (*new.shape[:1], *new.shape[2:]) == (*tensor.shape[:1], *tensor.shape[2:]):
            new = adapt_channels(new, tensor.shape[1], channels)
        if new.shape != tensor.shape:
            unfit.append(f"{name} is {sides_of(new)} instead of {sides_of(tensor)}")
        else:
            fitted[name] = new
    unfit += [f"{old} is unknown" for name, old in named.items() if name not in own and old not in others]
    return fitted, unfit


def adapt_channels(weight: torch.Tensor, channels: int, how: Literal["repeat", "mean"]) -> torch.Tensor:
    """Make a convolution of so many channels of one of three colours; an image of equal channels gives the same result.

    ``repeat``: red, green, blue, red, … in turn, each divided by how often it comes; where there are fewer channels
    than colours, those left over are added to the channels in turn. ``mean``: each channel gets the colours' sum,
    divided by the number of channels.

    Args:
        weight: weights of the convolution, ``(out, colour, y, x)``.
        channels: number of input channels wanted.
        how: rule, ``repeat`` or ``mean``.
    """
    if how == "mean":
        return (weight.sum(1, keepdim=True) / channels).expand(-1, channels, -1, -1).contiguous()
    colours = weight.shape[1]
    share = torch.zeros(channels, colours, dtype=weight.dtype, device=weight.device)
    for turn in range(max(channels, colours)):
        share[turn % channels, turn % colours] = 1
    # Each colour is dealt out once in all, whether to several channels or together with others to one.
    return torch.einsum("oiyx,ci->ocyx", weight, share / share.sum(0, keepdim=True))


def load_encoder(network: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> str:
    """Put a 2D model's weights into a network's encoder.

    Args:
        network: of the family ``inflated``.
        weights: under timm's names (for ResNets torchvision's are the same).
        source: what to call them in messages.

    Returns:
        In words, what was loaded.

    Raises:
        AutosegError: not every tensor of the encoder gets its weights, or there are some that it does not know.
    """
    encoder = next(part for part in network.modules() if isinstance(part, SliceEncoder))
    own = encoder.model.state_dict()
    fitted, unfit = fit_weights(own, weights, encoder.channels, _names_of(encoder.name))
    if unfit:
        raise AutosegError(
            f"{source} does not fit the encoder {encoder.name}: {len(fitted)} of its {len(own)} tensors do, but "
            f"{listed(unfit, _NAMED)}; give the weights of a {encoder.name}, or another --encoder."
        )
    encoder.model.load_state_dict(fitted, strict=False)
    return f"{len(fitted)} of {len(own)} tensors of the encoder {encoder.name} start from {source}"


@torch.no_grad()
def check_fit(network: Inflated, in_channels: int, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse weights that do not fit a network.

    Raises:
        AutosegError: says which tensors.
    """
    with torch.device("meta"):
        module = build_inflated(network, in_channels, 1)
    load_encoder(module, {name: tensor.to("meta") for name, tensor in weights.items()}, source)


def load_pretrained(network: nn.Module, initialization: Initialization, folder: Path) -> str | None:
    """Give a freshly built network the weights that its training starts from.

    Args:
        network: is changed in place.
        initialization: from the recipe.
        folder: of the run, which holds the file.

    Returns:
        In words what was loaded; None for random weights, which it has already.

    Raises:
        AutosegError: they can't be had, or do not fit.
    """
    if initialization.source == "random":
        return None
    if initialization.source == "imagenet":
        encoder = next(part for part in network.modules() if isinstance(part, SliceEncoder))
        return load_encoder(network, imagenet_weights(encoder.name), "ImageNet (timm)")
    weights = planned_weights(initialization, folder, read_weights, "--weights FILE")
    return load_encoder(network, weights, initialization.file)


def _names_of(encoder: str) -> frozenset[str]:
    """Names of all tensors of a timm model, classifier and layers behind the last map among them."""
    encoder_maps(encoder)  # refuses what can't be used at all
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                model = import_timm().create_model(encoder, pretrained=False)
        except NotImplementedError:
            model = import_timm().create_model(encoder, pretrained=False)
    return frozenset(model.state_dict())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
