"""A trained run → a model folder that nnU-Net v2 predicts with."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.data.file_names import is_picture
from autoseg.data.image import read_geometry
from autoseg.interop.nnunet.architecture import described
from autoseg.interop.nnunet.checkpoint import write_checkpoint
from autoseg.interop.nnunet.folder import BEST, FINAL
from autoseg.interop.nnunet.mirroring import mirrored, mirrored_architecture
from autoseg.interop.nnunet.resampling import described_resampling
from autoseg.interop.nnunet.translation import COLOURS, PICTURES, READERS
from autoseg.networks import resized
from autoseg.networks.weights import load_network
from autoseg.plans.families import UNet
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.postprocessing.steps import all_steps
from autoseg.preprocessing.resample import resampled_shape, target_spacing
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import refuse_unwritable_folder, write_json
from autoseg.utils.progress import say

#: Weights of a fold → their file name in nnU-Net.
_CHECKPOINTS = {"weights": FINAL, "best": BEST}

#: autoseg's normalization schemes → nnU-Net's classes.
_NORMALIZATIONS = {
    "zscore": "ZScoreNormalization",
    "ct": "CTNormalization",
    "minmax": "RescaleTo01Normalization",
    "none": "NoNormalization",
}

#: The image formats of nnU-Net's reader classes.
_SIMPLEITK = (".nii.gz", ".nrrd", ".mha", ".gipl")
_NIBABEL = (".nii.gz", ".nii")
_FLAT = (".png", ".bmp", ".tif")
_STACKS = (".tif", ".tiff")


def export_nnunet(
    run: str | Path, out: str | Path, configuration: str | None = None, folds: Sequence[int] | None = None
) -> Path:
    """Write a trained run as a model folder of nnU-Net v2.

    Args:
        run: run folder.
        out: model folder to make.
        configuration: name; the recommended one (or the only trained one) where None.
        folds: numbers; where None, what the run predicts with: all trained ones, or all folds of the source that it
            keeps, of which each of the run's own folds has one.

    Returns:
        The model folder.

    Raises:
        AutosegError: nnU-Net lacks a feature of the plan.
        UsageError: no such configuration or fold; ``out`` holds a model, a run or a dataset, or takes no file.
    """
    refuse_unwritable_folder(out)
    opened, out = Run.open(run), Path(out)
    plan = opened.plan
    stage = plan.stage(configuration or opened.usual_configuration())
    used = opened.used(stage)
    if (used.channel_names, used.target) != (stage.channel_names, stage.target):
        raise AutosegError(
            f"{run} keeps its source as it is, with channels or outputs that its own plan has not; export that source "
            "itself."
        )
    plan = plan.model_copy(update={"preprocessing": used.preprocessing})
    name = stage.name
    trained = opened.trained_folds(name)
    for fold in folds if folds is not None else trained:
        if fold not in trained:
            raise UsageError(f"fold {fold} of {name} is not trained in {run}.")
    if not trained:
        raise UsageError(f"{run} has no trained fold of {name}; {opened.how_to_train(name)}.")
    for taken in ("plans.json", "plan.json", "dataset.json"):
        if (out / taken).exists():
            raise UsageError(f"--out {out} holds a {taken} already; choose another folder for the model.")
    network = _refuse(plan, stage, str(run))
    steps = all_steps(opened.path, name, stage.result)
    flat = _have_two_axes(opened, stage)
    reader, ending = _reader(plan, flat)
    axes = [] if READERS[reader] == "stored" else _mirrored_axes(plan, network)
    spacing = _spacing(opened, stage, reader, flat)
    plans = _plans(plan, stage, mirrored_architecture(network, axes), reader, spacing, opened)
    dataset = _dataset(plan, stage, ending, len(opened.fingerprint.cases))
    kept = opened.kept_source(stage) if folds is None else []
    checkpoints = {fold: {"weights": file} for fold, file in enumerate(kept)}
    # The best weights of a tuning on harmonized images don't go with a source that is kept on images as they are.
    wanted = list(_CHECKPOINTS) if used is stage else ["weights"]
    for fold in () if kept else folds if folds is not None else trained:
        own = {ours: opened.fold(stage, fold).checkpoint(ours) for ours in wanted}
        checkpoints[fold] = {ours: file for ours, file in own.items() if file.exists()}
    for fold, files in checkpoints.items():
        for ours, file in files.items():
            module = load_network(file, stage, torch.device("cpu"))
            if axes:
                module = mirrored(module, network, stage.in_channels, stage.heads, axes)
            write_checkpoint(
                out / f"fold_{fold}" / _CHECKPOINTS[ours],
                module.state_dict(),
                name,
                fold,
                used.inference.mirror_axes,
                {"plans": plans, "dataset_json": dataset},
            )
    write_json(out / "dataset.json", dataset)
    write_json(out / "plans.json", plans)
    if stage.inference.average != "logits":
        say(
            f"{run} averages tiles, mirrored copies and folds as probabilities (inference.average); nnU-Net averages "
            "their logits, so that some voxels at borders differ."
        )
    if steps:
        whose = ", what belongs to the source that is kept included" if opened.kept_steps(stage) else ""
        say(
            f"A model folder of nnU-Net has no post-processing: that of {run} is left out "
            f"({'; '.join(map(str, steps))}{whose})."
        )
    if any(case.mask is not None for case in opened.dataset.cases):
        say(
            f"{run} learned inside brain masks, of which nnU-Net knows nothing: give it scans that are zero outside of "
            "them."
        )
    return out


def _refuse(plan: Plan, stage: Stage, run: str) -> UNet:
    """The network, if nnU-Net has all features of the plan.

    Raises:
        AutosegError: names the one that it lacks.
    """
    inference, network, target = stage.inference, stage.network, stage.target
    reasons = [
        (not isinstance(network, UNet), f"nnU-Net has no network of the family {network.family}"),
        (network.answers > 1, "nnU-Net has one decoder"),
        (getattr(network, "pooling", "") == "max", "nnU-Net pools by strides (network.pooling)"),
        (plan.preprocessing.outside_mask != "kept", "nnU-Net has no masks (preprocessing.outside_mask)"),
        (stage.before is not None, "it follows another stage"),
        (stage.result != plan.target, "another stage follows it"),
        (plan.preprocessing.box is not None, "nnU-Net can't cut to a box"),
        (plan.preprocessing.bias_correction != "none", "nnU-Net does not correct bias fields"),
        (bool(plan.preprocessing.harmonize), "nnU-Net does not harmonize intensities (preprocessing.harmonize)"),
        (plan.preprocessing.crop != "nonzero", "nnU-Net always crops to non-zero voxels"),
        *((True, reason) for channel in plan.channels if (reason := _unfit(channel.normalization, channel.name))),
        (inference.overlap != 0.5 or inference.step is not None, "nnU-Net's tiles overlap by half (inference.overlap)"),
        (inference.edges != "spread", "nnU-Net spreads its tiles evenly over an image (inference.edges)"),
        (inference.gaussian_sigma != 0.125, "nnU-Net weighs tiles with a Gaussian of 1/8 (inference.gaussian_sigma)"),
        (
            target.kind == "labels" and [o.paint for o in target.outputs] != list(range(1, len(target.outputs) + 1)),
            f"nnU-Net needs labels numbered 1, 2, 3, …, not {[output.paint for output in target.outputs]}",
        ),
        (any(output.name in ("background", "ignore") for output in target.outputs), "background is no output"),
    ]
    for unfit, reason in reasons:
        if unfit:
            raise AutosegError(f"{run}: {stage.name} can't become a model of nnU-Net: {reason}.")
    made = resized(network)
    assert isinstance(made, UNet)
    return made


def _unfit(normalization: Normalization, channel: str) -> str | None:
    if normalization.scheme not in _NORMALIZATIONS:
        return f"nnU-Net has no normalization {normalization.scheme} (channel {channel})"
    if normalization.masked and normalization.scheme in ("ct", "minmax"):
        return f"nnU-Net's normalization {normalization.scheme} knows no mask (channel {channel})"
    return None


def _normalization(normalization: Normalization) -> str:
    """nnU-Net's class for a normalization that is not :func:`_unfit`."""
    return COLOURS if normalization.of_colours else _NORMALIZATIONS[normalization.scheme]


def _have_two_axes(run: Run, stage: Stage) -> bool:
    """Whether the run's images have two axes; a volume of a single slice has three, and its directions."""
    for file in (file for case in run.dataset.cases for file in case.channels.values() if file.path.exists()):
        with suppress(AutosegError):
            return read_geometry(file.path).geometry.dimension == 2
    folder = run.preprocessed(stage.configuration.data)
    for case in run.dataset.cases:
        if (folder / f"{case.id}.json").is_file():
            return StoredCase(folder, case.id).trace.geometry.dimension == 2
    return run.fingerprint.dimension == 2 and is_picture(run.plan.file_ending)


def _mirrored_axes(plan: Plan, network: UNet) -> list[int]:
    """Axes of the patch that run the other way in nnU-Net's RAS order than in canonical order."""
    if plan.preprocessing.orientation != "canonical":
        return []
    order = plan.preprocessing.transpose[3 - network.dimensions :]
    return [axis for axis, canonical in enumerate(order) if canonical in (1, 2)]


def _reader(plan: Plan, flat: bool) -> tuple[str, str]:
    """nnU-Net's reader class for the plan's orientation, and the ending of image files."""
    if flat:
        known = {PICTURES: _FLAT, "SimpleITKIO": _SIMPLEITK}
    elif plan.preprocessing.orientation == "stored":
        known = {"SimpleITKIO": _SIMPLEITK, "NibabelIO": _NIBABEL, "Tiff3DIO": _STACKS}
    else:
        known = {"NibabelIOWithReorient": _NIBABEL, "SimpleITKIOWithReorient": _SIMPLEITK}
        if plan.preprocessing.orientation == "canonical":  # as stored: TIFF has no directions
            known["Tiff3DIO"] = _STACKS
    fitting = [reader for reader, endings in known.items() if plan.file_ending in endings]
    if fitting:
        return fitting[0], plan.file_ending
    # Scans may have another format than the training labels; all orientations have a reader for this one.
    return next((reader for reader, endings in known.items() if ".nii.gz" in endings)), ".nii.gz"


def _spacing(run: Run, stage: Stage, reader: str, flat: bool) -> list[float]:
    """Target spacing: two numbers where images keep their own across the slices, as all pictures do; else three.

    Raises:
        AutosegError: nnU-Net can't resample so.
    """
    across, *within = stage.configuration.spacing
    unfit = f"{run.path}: {stage.name} can't become a model of nnU-Net: "
    if reader == PICTURES:
        if not _never_resampled(run, stage):
            raise AutosegError(
                f"{unfit}it resamples pictures to {'×'.join(f'{mm:g}' for mm in within if mm)} mm, and nnU-Net takes "
                "every pixel for 1 × 1 mm (spacing)."
            )
        return [1.0, 1.0]
    if across is None and within == [None, None]:
        return [1.0] * stage.network.dimensions  # of no account where nothing is resampled
    wanted = [mm for mm in within if mm is not None]
    if len(wanted) < 2:
        raise AutosegError(
            f"{unfit}nnU-Net can't keep an image's own spacing but across the slices, or along all axes (spacing "
            f"{list(stage.configuration.spacing)})."
        )
    return wanted if flat or across is None else [across, *wanted]


def _never_resampled(run: Run, stage: Stage) -> bool:
    """Whether the run saw all its pictures at their own size; without any, whether it takes a pixel for 1 × 1 mm."""
    wanted, order = stage.configuration.spacing, stage.preprocessing.transpose
    if not run.fingerprint.cases:
        return set(wanted[1:]) <= {None, 1.0}
    for case in run.fingerprint.cases:
        spacing, shape = [case.spacing[axis] for axis in order], [case.cropped_shape[axis] for axis in order]
        if resampled_shape(shape, spacing, target_spacing(spacing, wanted)) != tuple(shape):
            return False
    return True


def _dataset(plan: Plan, stage: Stage, ending: str, cases: int) -> dict[str, Any]:
    target = stage.target
    labels: dict[str, Any] = {"background": 0}
    content: dict[str, Any] = {
        "channel_names": {str(number): name for number, name in enumerate(plan.channel_names)},
        "labels": labels,
        "numTraining": cases,
        "file_ending": ending,
        "name": plan.dataset,
    }
    if target.kind == "labels":
        labels.update({output.name: output.paint for output in target.outputs})
        return {**content, "labels": _with_ignore(labels, target)}
    # nnU-Net detects regions by a list of several values; where no region has two, each value is written twice.
    single = all(len(output.values) == 1 for output in target.outputs)
    for output in target.outputs:
        alone = output.values[0] if len(output.values) == 1 else list(output.values)
        labels[output.name] = output.values * 2 if single else alone
    order = [output.paint for output in target.outputs]
    return {**content, "labels": _with_ignore(labels, target), "regions_class_order": order}


def _with_ignore(labels: dict[str, Any], target: Target) -> dict[str, Any]:
    """The labels with the ignore label as the next number, as nnU-Net requires; its predictor does not use it."""
    if target.ignore is None:
        return labels
    values = [v for value in labels.values() for v in (value if isinstance(value, list) else [value])]
    return {**labels, "ignore": max(values) + 1}


def _plans(plan: Plan, stage: Stage, network: UNet, reader: str, spacing: list[float], run: Run) -> dict[str, Any]:
    name, configuration = stage.name, stage.configuration
    transpose = list(plan.preprocessing.transpose)
    patch = list(configuration.inference.patch_size or configuration.patch_size)
    resampled = reader == PICTURES or set(configuration.spacing) != {None}
    return {
        "dataset_name": plan.dataset,
        "plans_name": "autosegPlans",
        "original_median_spacing_after_transp": [mm or 1.0 for mm in configuration.spacing],
        "original_median_shape_after_transp": _median_shape(run, transpose, patch),
        "image_reader_writer": reader,
        "transpose_forward": transpose,
        "transpose_backward": [transpose.index(axis) for axis in range(3)],
        "configurations": {
            name: {
                "data_identifier": f"autosegPlans_{name}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": configuration.batch_size,
                "patch_size": patch,
                "median_image_size_in_voxels": patch,
                "spacing": spacing,
                "normalization_schemes": [_normalization(c.normalization) for c in plan.channels],
                "use_mask_for_norm": [c.normalization.masked for c in plan.channels],
                **described_resampling(configuration.resampling if resampled else None),
                "architecture": described(network),
                "batch_dice": configuration.recipe.loss.batch_dice,
            }
        },
        "experiment_planner_used": "autoseg",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": _intensities(plan, run),
    }


def _median_shape(run: Run, transpose: Sequence[int], patch: Sequence[int]) -> list[int]:
    """Median shape of the training images, in the network's order of axes; the patch where the run has none of them.

    Only for single slices is the first number 1, by which import tells them from volumes.
    """
    if cases := run.fingerprint.cases:
        median = np.median([case.cropped_shape for case in cases], axis=0)
        across, *within = (round(float(median[axis])) for axis in transpose)
    else:
        across, within = patch[0], list(patch[-2:])
    return [1 if run.fingerprint.dimension == 2 else max(2, across), *within]


def _intensities(plan: Plan, run: Run) -> dict[str, dict[str, float]]:
    """Intensity properties of each channel: for CT those of the plan's normalization, else the fingerprint's."""
    known = run.fingerprint.intensities
    properties = {}
    for number, channel in enumerate(plan.channels):
        scheme, measured = channel.normalization, known.get(channel.name)
        values = {} if measured is None else {**measured.model_dump(), "median": measured.percentile_50}
        if scheme.scheme == "ct":
            values |= {
                "mean": scheme.mean,
                "std": scheme.std,
                "percentile_00_5": scheme.lower,
                "percentile_99_5": scheme.upper,
            }
        values.pop("percentile_50", None)
        values.setdefault("median", values.get("mean", 0.0))
        low, high = values.get("percentile_00_5", 0.0), values.get("percentile_99_5", 0.0)
        properties[str(number)] = {"min": low, "max": high, **values}
    return properties
