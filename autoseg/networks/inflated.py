"""2D image encoders for volumes: AlbuNet3D (Wacker et al. 2019, arXiv 1912.12452) with any of timm's encoders.

A convolution of 1×k×k over a volume is the k×k convolution of each of its slices. The same is true of every layer of a
2D encoder once slices count as further images of the batch, over which batch norm then averages as a 3D one does. So
the encoder stays timm's own, with its layers, names and weights; its input are slices, and its feature maps are stacked
to volumes again. The decoder works on volumes.
"""

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from autoseg.plans.architecture import scaled_kernels
from autoseg.plans.families import Inflated
from autoseg.utils.errors import AutosegError
from autoseg.utils.extras import how_to_install

#: Every second stage of the decoder is followed by a depth layer, and so is its last convolution (Wacker et al., with
#: five stages).
DEPTH_EVERY = 2

#: Channels of the four stages of timm's ResNets, before the factor of four of those with bottlenecks.
RESNET_CHANNELS = (64, 128, 256, 512)


def build_inflated(network: Inflated, in_channels: int, heads: int) -> nn.Module:
    """Build the encoder with timm's random weights and the decoder with He-initialised ones.

    Raises:
        AutosegError: timm is not installed, or has no such encoder, or it does not work on slices of any size.
    """
    return InflatedNet(network, in_channels, heads)


def import_timm() -> Any:
    """The library of encoders.

    Raises:
        AutosegError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # raised by timm's own imports; the user can't act on them
            import timm
    except ImportError:
        raise AutosegError(
            "a network of the family inflated takes its encoder from timm, which is not installed; install it with "
            f"{how_to_install('pretrained')}."
        ) from None
    return timm


@lru_cache(maxsize=64)
def encoder_maps(name: str, width: float = 1.0) -> dict[int, int]:
    """Feature maps of a timm encoder: reduction of the plane → channels, the highest resolution first.

    Where several maps have the same reduction, the last of them counts. ``width`` is a factor on the channels of a
    ResNet's stages.

    Raises:
        AutosegError: timm is not installed or has no such encoder, or the encoder is not convolutional (its maps do not
            halve the plane step by step, for any plane).
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = _create(name, 3, width).to("meta").eval()
        maps = dict(zip(model.feature_info.reduction(), model.feature_info.channels(), strict=True))
        reduction = max(maps)
        plane = (2 * reduction, 3 * reduction)
        try:
            shapes = [tuple(output.shape) for output in model(torch.empty(2, 3, *plane))]
        except Exception as error:  # any of a thousand models may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise AutosegError(
                f"{_refusal(name)} it takes no slices of {plane[0]}×{plane[1]} pixels ({reason})."
            ) from None
    expected = [
        (2, count, plane[0] // factor, plane[1] // factor)
        for factor, count in zip(model.feature_info.reduction(), model.feature_info.channels(), strict=True)
    ]
    if shapes != expected or any(factor & (factor - 1) for factor in maps):
        raise AutosegError(f"{_refusal(name)} its feature maps do not halve the plane step by step.")
    return maps


def _refusal(name: str) -> str:
    return f"{name} can't be inflated, choose a convolutional encoder such as resnet34 or convnext_nano:"


def _create(name: str, in_channels: int, width: float) -> Any:
    """A timm model that gives feature maps, with random weights, on torch's default device."""
    timm = import_timm()
    if not timm.is_model(name):
        raise AutosegError(
            f"timm {timm.__version__} has no model {name}; timm.list_models() in Python lists those there are, such as "
            "resnet34."
        )
    options: dict[str, Any] = {"features_only": True, "pretrained": False, "in_chans": in_channels}
    if width != 1:
        if not name.startswith("resnet"):
            raise AutosegError(f"{name} has one width; give a network of another size a ResNet, or another encoder.")
        options["channels"] = tuple(scaled_kernels(RESNET_CHANNELS, width))
    try:
        try:
            model = timm.create_model(name, **options)
        except NotImplementedError:  # an initialisation that the meta device does not support
            where = torch.get_default_device()
            with torch.device("cpu"):
                model = timm.create_model(name, **options).to(where)
    except Exception as error:  # any of a thousand models may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise AutosegError(f"{_refusal(name)} it gives no feature maps ({reason}).") from None
    return model


class SliceEncoder(nn.Module):
    """A 2D encoder applied to every slice of a volume; returns volumes of feature maps.

    Args:
        network: which encoder, and with which first pooling.
        in_channels: of the image.

    Attributes:
        name: of the timm model.
        channels: rule by which three colours' weights serve other channels.
        reductions: of the maps, in the order of the model's outputs.
    """

    def __init__(self, network: Inflated, in_channels: int) -> None:
        super().__init__()
        maps = encoder_maps(network.encoder, network.encoder_width)
        if max(maps) != network.reduction:
            raise AutosegError(
                f"network.reduction is {network.reduction}, but {network.encoder} reduces the plane by {max(maps)}."
            )
        self.name = network.encoder
        self.channels = network.channels
        self.model = _create(network.encoder, in_channels, network.encoder_width)
        self.reductions: list[int] = list(self.model.feature_info.reduction())
        if network.first_pool == "2x2":
            _pool_two_by_two(self.model, network.encoder)

    def forward(self, image: torch.Tensor) -> dict[int, torch.Tensor]:
        """Reduction of the plane → maps ``(batch, channel, z, y', x')`` of an image ``(batch, channel, z, y, x)``."""
        batch, _, depth = image.shape[:3]
        slices = image.transpose(1, 2).flatten(0, 1)
        maps = [values.unflatten(0, (batch, depth)).transpose(1, 2) for values in self.model(slices)]
        return dict(zip(self.reductions, maps, strict=True))


def _pool_two_by_two(model: nn.Module, name: str) -> None:
    for parent in model.modules():
        for child, module in parent.named_children():
            if type(module) is nn.MaxPool2d:
                setattr(parent, child, nn.MaxPool2d(2, 2))
                return
    raise AutosegError(f"network.first_pool is 2x2, but {name} has no maximum pooling; set it to encoder.")


class InflatedNet(nn.Module):
    """Slice encoder, depth layers, and a decoder with skip connections (Shvets et al. 2018, Wacker et al. 2019).

    Args:
        network: encoder, channels of the decoder, and whether slices are joined.
        in_channels: of the image.
        heads: of the result.
    """

    def __init__(self, network: Inflated, in_channels: int, heads: int) -> None:
        super().__init__()
        self.encoder = SliceEncoder(network, in_channels)
        maps = encoder_maps(network.encoder, network.encoder_width)
        skips = list(maps) if network.skips is None else network.skips
        unknown = [str(factor) for factor in skips if factor not in maps]
        if unknown:
            raise AutosegError(
                f"network.skips names {', '.join(unknown)}, but {network.encoder} has maps reduced by "
                f"{', '.join(map(str, maps))}."
            )
        given = {factor: count for factor, count in maps.items() if factor in skips}
        self.skips = sorted(given)
        lowest = network.reduction
        self.levels = [lowest >> stage for stage in range(len(network.decoder_features))]
        self.bottom = _depth_layer(maps[lowest], network.depth_layers)
        channels = network.decoder_features[0]
        self.centre = _in_plane(maps[lowest], channels)
        self.stages, self.depths = nn.ModuleList(), nn.ModuleList()
        for stage, (level, width, features) in enumerate(
            zip(self.levels, network.decoder_widths, network.decoder_features, strict=True), start=1
        ):
            self.stages.append(_upwards(channels + given.get(level, 0), width, features))
            self.depths.append(_depth_layer(features, network.depth_layers and stage % DEPTH_EVERY == 0))
            channels = features
        self.last = nn.Sequential(
            _in_plane(channels + given.get(1, 0), channels), _depth_layer(channels, network.depth_layers)
        )
        self.head = nn.Conv3d(channels, heads, 1)
        for part in (self.bottom, self.centre, self.stages, self.depths, self.last, self.head):
            part.apply(_initialise)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, heads, z, y, x)``."""
        maps = self.encoder(image)
        maps[self.levels[0]] = self.bottom(maps[self.levels[0]])
        values = self.centre(maps[self.levels[0]])
        for level, stage, depth in zip(self.levels, self.stages, self.depths, strict=True):
            values = depth(stage(self._with_skip(values, maps, level)))
        logits: torch.Tensor = self.head(self.last(self._with_skip(values, maps, 1)))
        return logits

    def _with_skip(self, values: torch.Tensor, maps: dict[int, torch.Tensor], level: int) -> torch.Tensor:
        return torch.cat([values, maps[level]], dim=1) if level in self.skips else values


def _in_plane(inputs: int, outputs: int) -> nn.Sequential:
    # No bias: the batch norm that follows would cancel it.
    convolution = nn.Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1), bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))


def _upwards(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """A convolution, and a transposed one that doubles the plane (4×4: all output pixels sum equally many terms)."""
    doubling = nn.ConvTranspose3d(width, outputs, (1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1))
    return nn.Sequential(*_in_plane(inputs, width), doubling, nn.ReLU(inplace=True))


def _depth_layer(channels: int, enabled: bool) -> nn.Module:
    """A convolution along z, or nothing."""
    if not enabled:
        return nn.Identity()
    convolution = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0), bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(channels), nn.ReLU(inplace=True))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
