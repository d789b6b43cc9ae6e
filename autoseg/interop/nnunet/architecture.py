"""U-Net descriptions of nnU-Net and autoseg, translated; both build them with dynamic-network-architectures."""

from typing import Any

from pydantic import ValidationError

from autoseg.interop.nnunet.checkpoint import Checkpoint
from autoseg.interop.nnunet.folder import Settings
from autoseg.networks.unet import NEGATIVE_SLOPE
from autoseg.plans.families import UNet
from autoseg.plans.files import say_invalid
from autoseg.utils.errors import AutosegError

#: Class → family. Before nnU-Net 2.3 the name had no module.
_FAMILIES = {"PlainConvUNet": "unet", "ResidualEncoderUNet": "resenc"}

#: nnU-Net's key for the convolutions or blocks of each encoder stage.
_BLOCKS = {"unet": "n_conv_per_stage", "resenc": "n_blocks_per_stage"}

_NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch"}
_ACTIVATIONS = {"LeakyReLU": "leaky_relu", "ReLU": "relu"}

#: Epsilon of the normalization layers.
_EPS = 1e-5


def network_of(settings: Settings, checkpoint: Checkpoint, where: str) -> UNet:
    """The network of a configuration.

    Args:
        settings: of the configuration.
        checkpoint: its trainer class may switch deep supervision off or, as the weights show, replace instance by batch
            normalization.
        where: file and configuration, for messages.

    Raises:
        AutosegError: it is another architecture, or has a feature that autoseg's U-Nets lack.
    """
    if settings.architecture is None:
        class_name, given = _of_old_plans(settings, where)
    else:
        class_name, given = settings.architecture.network_class_name, settings.architecture.arch_kwargs
    family = _FAMILIES.get(class_name.rsplit(".", 1)[-1])
    if family is None:
        raise AutosegError(
            f"{where} is a {class_name.rsplit('.', 1)[-1]}; only {' and '.join(_FAMILIES)} can be imported."
        )
    dimensions = len(settings.patch_size)
    norm = _word(given.get("norm_op"), dimensions)
    activation = str(given.get("nonlin", "")).rsplit(".", 1)[-1]
    slope = (given.get("nonlin_kwargs") or {}).get("negative_slope", NEGATIVE_SLOPE)
    scale = given.get("norm_op_kwargs") or {}
    if norm == "InstanceNorm" and any(name.endswith(".running_mean") for name in checkpoint.weights):
        norm = "BatchNorm"
    for unusual, what in (
        (_word(given.get("conv_op"), dimensions) != "Conv", f"conv_op {given.get('conv_op')}"),
        (norm not in _NORMS, f"norm_op {given.get('norm_op')}"),
        (activation not in _ACTIVATIONS, f"nonlin {given.get('nonlin')}"),
        (slope != NEGATIVE_SLOPE, f"negative_slope {slope}"),
        (scale.get("affine") is not True or scale.get("eps", _EPS) != _EPS, f"norm_op_kwargs {scale}"),
        (given.get("conv_bias") is not True, f"conv_bias {given.get('conv_bias')}"),
        (bool(given.get("nonlin_first")), "nonlin_first"),
        (bool(given.get("stem_channels")), f"stem_channels {given.get('stem_channels')}"),
        (str(given.get("block", "BasicBlockD")).rsplit(".", 1)[-1] != "BasicBlockD", f"block {given.get('block')}"),
        (bool(given.get("squeeze_excitation")), "squeeze_excitation"),
    ):
        if unusual:
            raise AutosegError(f"{where} has {what}, which autoseg's U-Nets have not; it can't be imported.")
    try:
        stages = int(given["n_stages"])
        return UNet(
            family="resenc" if family == "resenc" else "unet",
            features=_each(given["features_per_stage"], stages),
            strides=_axes(given["strides"], stages, dimensions),
            kernel_sizes=_axes(given["kernel_sizes"], stages, dimensions),
            encoder_blocks=_each(given[_BLOCKS[family]], stages),
            decoder_convs=_each(given["n_conv_per_stage_decoder"], stages - 1),
            norm="batch" if norm == "BatchNorm" else "instance",
            activation="relu" if activation == "ReLU" else "leaky_relu",
            dropout=(given.get("dropout_op_kwargs") or {}).get("p", 0.0) if given.get("dropout_op") else 0.0,
            deep_supervision="NoDeepSupervision" not in checkpoint.trainer,
        )
    except ValidationError as error:
        raise AutosegError(f"{where} has a network that autoseg can't build: {say_invalid(error)}.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise AutosegError(f"{where}: arch_kwargs are damaged ({error}); restore the file.") from None


def _word(path: object, dimensions: int) -> str:
    """``torch.nn.modules.conv.Conv3d`` → ``Conv``; of another number of dimensions, as it is."""
    return str(path).rsplit(".", 1)[-1].removesuffix(f"{dimensions}d")


def _each(value: Any, count: int) -> list[int]:
    return [int(value)] * count if isinstance(value, int) else [int(n) for n in value]


def _axes(value: Any, stages: int, dimensions: int) -> list[list[int]]:
    rows = [value] * stages if isinstance(value, int) else list(value)
    return [_each(row, dimensions) for row in rows]


def _of_old_plans(settings: Settings, where: str) -> tuple[str, dict[str, Any]]:
    """Class name and ``arch_kwargs`` for plans from before nnU-Net 2.3, which only have a few numbers."""
    needed: dict[str, Any] = {
        name: getattr(settings, name)
        for name in (
            "UNet_class_name",
            "UNet_base_num_features",
            "unet_max_num_features",
            "n_conv_per_stage_encoder",
            "n_conv_per_stage_decoder",
            "pool_op_kernel_sizes",
            "conv_kernel_sizes",
        )
    }
    lacking = [name for name, value in needed.items() if value is None]
    if lacking:
        raise AutosegError(f"{where} has neither an architecture nor {lacking[0]}; restore the file.")
    class_name = str(needed["UNet_class_name"])
    stages = len(needed["n_conv_per_stage_encoder"])
    base, most = needed["UNet_base_num_features"], needed["unet_max_num_features"]
    return class_name, {
        **_constants(len(settings.patch_size)),
        "n_stages": stages,
        "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
        "kernel_sizes": needed["conv_kernel_sizes"],
        "strides": needed["pool_op_kernel_sizes"],
        _BLOCKS[_FAMILIES.get(class_name, "unet")]: needed["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": needed["n_conv_per_stage_decoder"],
    }


def _constants(dimensions: int, norm: str = "InstanceNorm", activation: str = "LeakyReLU") -> dict[str, Any]:
    module = "instancenorm" if norm == "InstanceNorm" else "batchnorm"
    return {
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.{module}.{norm}{dimensions}d",
        "norm_op_kwargs": {"eps": _EPS, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": f"torch.nn.{activation}",
        "nonlin_kwargs": {"inplace": True},
    }


def _back(table: dict[str, str], value: str) -> str:
    """The key of a value."""
    return next(key for key, entry in table.items() if entry == value)


def described(network: UNet) -> dict[str, Any]:
    """A network as the ``architecture`` of nnU-Net's plans."""
    dimensions = network.dimensions
    given = _constants(dimensions, _back(_NORMS, network.norm), _back(_ACTIVATIONS, network.activation))
    if network.dropout:
        given["dropout_op"] = f"torch.nn.modules.dropout.Dropout{dimensions}d"
        given["dropout_op_kwargs"] = {"p": network.dropout, "inplace": True}
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{_back(_FAMILIES, network.family)}",
        "arch_kwargs": {
            "n_stages": len(network.features),
            "features_per_stage": list(network.features),
            "kernel_sizes": [list(row) for row in network.kernel_sizes],
            "strides": [list(row) for row in network.strides],
            _BLOCKS[network.family]: list(network.encoder_blocks),
            "n_conv_per_stage_decoder": list(network.decoder_convs),
            **given,
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
