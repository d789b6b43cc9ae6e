"""nnU-Net's ``plans.json`` and ``dataset.json`` → a plan of autoseg."""

import re

from pydantic import ValidationError

from autoseg import __version__
from autoseg.data.dataset import Dataset
from autoseg.data.layouts.common import by_number, inconsistencies_in, unique, whole
from autoseg.data.layouts.nnunet import parse_label_table
from autoseg.data.orientation import Orientation
from autoseg.interop.nnunet.architecture import network_of
from autoseg.interop.nnunet.checkpoint import Checkpoint
from autoseg.interop.nnunet.folder import IntensityProperties, ModelFolder, Settings
from autoseg.interop.nnunet.resampling import resampling_of
from autoseg.plans.configuration import Configuration
from autoseg.plans.files import say_invalid
from autoseg.plans.inference import Inference
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import BRIGHTEST, Channel, Normalization, Preprocessing, Resampling
from autoseg.plans.recipe import Augmentation, Loss, Optimizer, Recipe, Schedule
from autoseg.plans.target import Output, Target
from autoseg.utils.errors import AutosegError

#: nnU-Net's reader class → orientation of its images.
READERS: dict[str, Orientation] = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "NaturalImage2DIO": "stored",
    "Tiff3DIO": "stored",
    "NibabelIOWithReorient": "ras",
    "SimpleITKIOWithReorient": "ras",
}

#: nnU-Net's reader class for files of two axes, which takes every pixel for 1 × 1 mm.
PICTURES = "NaturalImage2DIO"

#: nnU-Net's normalization class that divides colours of 8 bits by 255, and stops at others.
COLOURS = "RGBTo01Normalization"

#: nnU-Net's number of epochs (Isensee et al. 2021), unless a trainer class changes it.
_EPOCHS = 1000

#: Thresholds of nnU-Net's augmentation: ratio of width to depth above which a patch is augmented slice by slice, and of
#: length to width above which a slice is rotated by small angles only.
_FLAT_PATCH, _LONG_SLICE = 3.0, 1.5


def dataset_of(folder: ModelFolder) -> Dataset:
    """The dataset that a model was trained on, without its cases.

    Raises:
        AutosegError: ``dataset.json`` is invalid.
    """
    described, file = folder.dataset, folder.dataset_file
    names = by_number(described.get("channel_names", described.get("modality")), "channel_names", file)
    channels = unique(names)
    labels, regions, ignore = parse_label_table(described.get("labels"), file)
    with inconsistencies_in(file):
        return Dataset(
            name=folder.plans.dataset_name,
            root=folder.path.absolute(),
            layout="nnunet",
            channels=tuple(channels),
            modalities=dict(zip(channels, names, strict=True)),
            labels=labels,
            regions=regions,
            ignore_label=ignore,
            cases=(),
            file_ending=str(described.get("file_ending", ".nii.gz")),
        )


def is_flat(folder: ModelFolder) -> bool:
    """Whether the model was trained on 2D images, not on volumes."""
    shape = folder.plans.original_median_shape_after_transp
    return folder.plans.image_reader_writer == PICTURES or shape[:1] == [1]


def plan_of(folder: ModelFolder, checkpoint: Checkpoint, name: str) -> Plan:
    """The plan of one trained configuration.

    Raises:
        AutosegError: autoseg lacks a feature of the model.
    """
    settings = folder.settings(name)
    where = f"{folder.plans_file}: configuration {name}"
    dataset = dataset_of(folder)
    _refuse(folder, settings, where)
    channels = _channels(folder, settings, dataset, where)
    try:
        return Plan(
            autoseg_version=__version__,
            planner="nnunet",
            dataset=dataset.name,
            channels=channels,
            target=_target(folder, dataset),
            preprocessing=_preprocessing(folder, channels),
            configurations={name: _configuration(folder, settings, checkpoint, name, where)},
            recommended=name,
            file_ending=dataset.file_ending,
        )
    except ValidationError as error:
        raise AutosegError(f"{where} can't be a plan of autoseg: {say_invalid(error)}.") from None


def _refuse(folder: ModelFolder, settings: Settings, where: str) -> None:
    plans = folder.plans
    if settings.previous_stage is not None:
        raise AutosegError(
            f"{where} is the second stage of a cascade, after {settings.previous_stage}; only models that work alone "
            "can be imported."
        )
    if plans.image_reader_writer not in READERS:
        raise AutosegError(
            f"{folder.plans_file}: images are read by {plans.image_reader_writer}, which autoseg does not know; models "
            f"with {', '.join(READERS)} can be imported."
        )
    for what, actual, usual in (
        ("labels are handled by", plans.label_manager, "LabelManager"),
        ("images are preprocessed by", settings.preprocessor_name, "DefaultPreprocessor"),
    ):
        if actual != usual:
            raise AutosegError(f"{where}: {what} {actual}; only models with {usual} can be imported.")


def _channels(folder: ModelFolder, settings: Settings, dataset: Dataset, where: str) -> list[Channel]:
    schemes, masked = settings.normalization_schemes, settings.use_mask_for_norm
    if not len(schemes) == len(masked) == len(dataset.channels):
        raise AutosegError(
            f"{where} normalizes {len(schemes)} channels and {folder.dataset_file} names {len(dataset.channels)}; "
            "restore the files."
        )
    return [
        Channel(name=name, normalization=_normalization(scheme, mask, folder.plans.intensities.get(str(i)), where))
        for i, (name, scheme, mask) in enumerate(zip(dataset.channels, schemes, masked, strict=True))
    ]


def _normalization(scheme: str, masked: bool, known: IntensityProperties | None, where: str) -> Normalization:
    reasons = {"scheme": f"nnU-Net's {scheme}"}
    if scheme == "ZScoreNormalization":
        return Normalization(scheme="zscore", masked=masked, reasons=reasons)
    if scheme == "CTNormalization":
        if known is None:
            raise AutosegError(f"{where} needs intensity properties of every CT channel; restore the file.")
        return Normalization(
            scheme="ct",
            lower=known.percentile_00_5,
            upper=known.percentile_99_5,
            mean=known.mean,
            std=max(known.std, 1e-8),
            reasons=reasons,
        )
    if scheme == "RescaleTo01Normalization":
        return Normalization(scheme="minmax", reasons=reasons)
    if scheme == COLOURS:
        return Normalization(scheme="ct", lower=0, upper=BRIGHTEST, mean=0, std=BRIGHTEST, reasons=reasons)
    if scheme == "NoNormalization":
        return Normalization(scheme="none", reasons=reasons)
    raise AutosegError(f"{where} normalizes with {scheme}, which autoseg does not know; it can't be imported.")


def _target(folder: ModelFolder, dataset: Dataset) -> Target:
    file = folder.dataset_file
    if dataset.regions:
        order = folder.dataset.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(dataset.regions):
            raise AutosegError(f'{file} needs a "regions_class_order" with a value for each region; restore the file.')
        return Target(
            kind="regions",
            outputs=[
                Output(name=name, values=sorted(set(values)), paint=whole(paint, f'region "{name}"', file))
                for (name, values), paint in zip(dataset.regions.items(), order, strict=True)
            ],
            ignore=dataset.ignore_label,
        )
    outputs = [
        Output(name=name, values=[value], paint=value)
        for name, value in sorted(dataset.labels.items(), key=lambda item: item[1])
    ]
    if [output.paint for output in outputs] != list(range(1, len(outputs) + 1)):
        raise AutosegError(f"{file}: labels must be numbered 1, 2, 3, … without gaps, as nnU-Net demands; restore it.")
    return Target(kind="labels", outputs=outputs, ignore=dataset.ignore_label)


def _preprocessing(folder: ModelFolder, channels: list[Channel]) -> Preprocessing:
    reader = folder.plans.image_reader_writer
    z, y, x = folder.plans.transpose_forward
    masked = any(channel.normalization.masked for channel in channels)
    return Preprocessing(
        orientation=READERS[reader],
        transpose=(z, y, x),
        holes="inside" if masked else "outside",
        reasons={"orientation": f"nnU-Net's {reader}", **({"holes": "as nnU-Net"} if masked else {})},
    )


def _spacing(folder: ModelFolder, settings: Settings, where: str) -> tuple[float | None, float | None, float | None]:
    """Target spacing in mm; None where images keep their own."""
    if folder.plans.image_reader_writer == PICTURES:
        # Its images have the spacing (999, 1, 1), whatever their files say.
        if settings.spacing not in ([1, 1], [999, 1, 1]) or folder.plans.transpose_forward[0] != 0:
            raise AutosegError(
                f"{where} resamples to {settings.spacing} mm pictures that {PICTURES} reads as if every pixel were "
                "1 × 1 mm; only models that leave pictures as they are can be imported."
            )
        return None, None, None
    spacing: list[float | None] = [*[None] * (3 - len(settings.spacing)), *settings.spacing]
    return spacing[0], spacing[1], spacing[2]


def _configuration(
    folder: ModelFolder, settings: Settings, checkpoint: Checkpoint, name: str, where: str
) -> Configuration:
    resampling = resampling_of(settings, where)
    return Configuration(
        spacing=(None, None, None) if resampling is None else _spacing(folder, settings, where),
        data=name,
        resampling=resampling or Resampling(),
        patch_size=settings.patch_size,
        batch_size=settings.batch_size,
        network=network_of(settings, checkpoint, where),
        recipe=_recipe(settings, checkpoint),
        inference=Inference(
            mirror_axes=_axes(settings, checkpoint),
            tile_batch=min(settings.batch_size, 8),
            precision="fp32",
            manner="nnunet",
            reasons={
                "mirror_axes": "those that training mirrored",
                "precision": "nnU-Net's on a CPU; 16 bits would change a voxel here and there",
                "manner": "the same results as nnU-Net's",
            },
        ),
        reasons={"patch_size": "of the nnU-Net model", "spacing": "of the nnU-Net model"},
    )


def _axes(settings: Settings, checkpoint: Checkpoint) -> list[int]:
    if any(not 0 <= axis < len(settings.patch_size) for axis in checkpoint.mirror_axes):
        raise AutosegError(
            f"{checkpoint.path} mirrors the axes {checkpoint.mirror_axes}, and a patch has {len(settings.patch_size)}; "
            "it belongs to another plans.json."
        )
    return checkpoint.mirror_axes


def _recipe(settings: Settings, checkpoint: Checkpoint) -> Recipe:
    """nnU-Net's recipe of the model, as far as its folder has it."""
    named = re.search(r"_(\d+)ep(?:ochs?)?(?:_|$)", checkpoint.trainer)
    size = settings.patch_size
    flat = len(size) == 3 and max(size) > _FLAT_PATCH * size[0]
    in_plane = flat or len(size) == 2
    long = len(size) == 2 and max(size) > _LONG_SLICE * min(size)
    return Recipe(
        epochs=int(named[1]) if named else _EPOCHS,
        iterations_per_epoch=250,
        loss=Loss(batch_dice=settings.batch_dice),
        optimizer=Optimizer(name="sgd", learning_rate=1e-2, weight_decay=3e-5, momentum=0.99),
        schedule=Schedule(name="poly", warmup=0.0, power=0.9),
        augmentation=Augmentation(
            mirror_axes=_axes(settings, checkpoint),
            rotation_axes=[0] if in_plane else [0, 1, 2],
            rotation=15.0 if long else 180.0 if in_plane else 30.0,
        ),
        ema_decay=0.0,
    )
