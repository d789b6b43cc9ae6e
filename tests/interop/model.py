"""A small model folder as nnU-Net v2 writes it, made without nnU-Net and without autoseg."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"

_RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
_SEEN = {
    "max": 200.0,
    "mean": 90.0,
    "median": 80.0,
    "min": 1.0,
    "percentile_00_5": 2.0,
    "percentile_99_5": 190.0,
    "std": 30.0,
}


def arch_kwargs(dimensions: int = 3, family: str = "unet") -> dict[str, Any]:
    """Three stages, the second pooled by (1,) 2, 2 and the third by 2."""
    first = [1] * (dimensions - 2)
    return {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[*first, 3, 3], [3] * dimensions, [3] * dimensions],
        "strides": [[1] * dimensions, [*first, 2, 2], [2] * dimensions],
        "n_conv_per_stage" if family == "unet" else "n_blocks_per_stage": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def network(channels: int, heads: int, seed: int, dimensions: int = 3, family: str = "unet") -> nn.Module:
    """The network that these words mean, with random weights; gives one tensor."""
    torch.manual_seed(seed)
    flat = dimensions == 2
    words = arch_kwargs(dimensions, family)
    words |= {
        "conv_op": nn.Conv2d if flat else nn.Conv3d,
        "norm_op": nn.InstanceNorm2d if flat else nn.InstanceNorm3d,
        "nonlin": nn.LeakyReLU,
    }
    kind = PlainConvUNet if family == "unet" else ResidualEncoderUNet
    made = kind(input_channels=channels, num_classes=heads, deep_supervision=False, **words)
    for part in made.modules():  # scales and shifts that differ, and logits far from zero
        if isinstance(part, nn.InstanceNorm2d | nn.InstanceNorm3d):
            nn.init.uniform_(part.weight, 0.5, 2.0)
            nn.init.normal_(part.bias)
    return made.eval()


def plans(dimensions: int = 3, family: str = "unet", channels: int = 1, patch: Sequence[int] = ()) -> dict[str, Any]:
    """``plans.json`` with one configuration, as nnU-Net 2.8 writes it."""
    name = "PlainConvUNet" if family == "unet" else "ResidualEncoderUNet"
    return {
        "dataset_name": "Dataset007_Blobs",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [8, 12, 16],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres" if dimensions == 3 else "2d": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch) or [8, 12, 16][3 - dimensions :],
                "median_image_size_in_voxels": [8.0, 12.0, 16.0][3 - dimensions :],
                "spacing": [1.0] * dimensions,
                "normalization_schemes": ["ZScoreNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": dict(_RESAMPLING),
                "resampling_fn_seg_kwargs": {**_RESAMPLING, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**_RESAMPLING, "order": 1},
                "architecture": {
                    "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
                    "arch_kwargs": arch_kwargs(dimensions, family),
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                "batch_dice": True,
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): dict(_SEEN) for i in range(channels)},
    }


def dataset(channels: Sequence[str] = ("MRI",), **changes: Any) -> dict[str, Any]:
    return {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, "outer": 1, "inner": 2},
        "numTraining": 30,
        "file_ending": ".nii.gz",
        **changes,
    }


def checkpoint(weights: dict[str, torch.Tensor], configuration: str = "3d_fullres", **changes: Any) -> dict[str, Any]:
    """What nnU-Net's trainer saves, numpy's scalars among it."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], 0.01, momentum=0.99)
    return {
        "network_weights": weights,
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {
            "train_losses": [np.float32(0.25), np.float64(0.5)],
            "dice_per_class_or_region": [[np.float32(0.1), np.float64(0.2)]],
            "epoch_start_timestamps": [1.5],
        },
        "_best_ema": np.float64(0.7),
        "current_epoch": 1000,
        "init_args": {
            "plans": {"plans_name": "nnUNetPlans"},
            "configuration": configuration,
            "fold": 0,
            "dataset_json": {},
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2)[: 2 if configuration == "2d" else 3],
        **changes,
    }


def write_model(
    folder: Path,
    planned: dict[str, Any] | None = None,
    described: dict[str, Any] | None = None,
    folds: Sequence[int | str] = (0,),
    heads: int = 3,
    files: Sequence[str] = ("checkpoint_final.pth",),
    **changes: Any,
) -> list[nn.Module]:
    """Write the folder; the networks of its folds."""
    planned, described = deepcopy(planned or plans()), deepcopy(described or dataset())
    configuration = list(planned["configurations"])[-1]
    first = next(iter(planned["configurations"].values()))
    family = "resenc" if "Residual" in first.get("architecture", {}).get("network_class_name", "") else "unet"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(planned))
    (folder / "dataset.json").write_text(json.dumps(described))
    made = []
    for number, fold in enumerate(folds):
        net = network(len(described["channel_names"]), heads, number, len(first["patch_size"]), family)
        where = folder / f"fold_{fold}"
        where.mkdir()
        for file in files:
            torch.save(checkpoint(net.state_dict(), configuration, **changes), where / file)
        made.append(net)
    return made


def scan(path: Path, shape: Sequence[int] = (8, 12, 16), seed: int = 0, **geometry: Sequence[float]) -> np.ndarray:
    """Write a random image as it is; its array ``(z, y, x)`` in the file's own order. No voxel is zero."""
    array = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    array[tuple(slice(n // 3, n // 2 + 1) for n in shape)] += 80
    image = sitk.GetImageFromArray(array)
    for name, values in geometry.items():
        getattr(image, f"Set{name.capitalize()}")(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return array


def zscore(array: np.ndarray) -> np.ndarray:
    return (array - array.mean()) / array.std()


@torch.inference_mode()
def logits(networks: Sequence[nn.Module], image: np.ndarray) -> np.ndarray:
    """Mean over networks of what they say of ``(channel, *space)``."""
    given = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
    return torch.stack([net(given)[0] for net in networks]).mean(0).numpy()


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def stirred(net: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight and statistic random, none symmetric; the heads differ enough for every label to be somewhere."""
    torch.manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if "seg_layers" in name and name.endswith("bias"):
            tensor.zero_()
        elif "running_var" in name or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        else:
            tensor.copy_(torch.randn_like(tensor) * 0.3)
    return net.eval()
