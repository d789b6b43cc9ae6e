"""Small plans, datasets and runs for tests, made by hand so that no planner's choice decides what is tested."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from autoseg.data.dataset import Case, ChannelFile, Dataset, LoadedCase
from autoseg.data.fingerprint import CaseFingerprint, Fingerprint, Intensity
from autoseg.data.image import Geometry
from autoseg.plans.architecture import Architecture
from autoseg.plans.configuration import Configuration
from autoseg.plans.families import UNet
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import LANDMARKS, Channel, Normalization, Preprocessing
from autoseg.plans.recipe import Augmentation, Optimizer, Recipe
from autoseg.plans.stage import Stage
from autoseg.plans.target import Output, Target
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.store import StoredCase, save
from autoseg.runs.fold import Fold
from autoseg.runs.run import SOURCE_SHARE, Run
from autoseg.step.setup import StepSetup, stand_in
from autoseg.training.augmentation import augment_intensities, mirror
from autoseg.training.callback import Callback
from autoseg.training.callbacks import LoadWeights, Progress, SourceAverage
from autoseg.training.deformation import draw_deformations, resample_patch
from autoseg.training.loop import train_fold
from autoseg.training.state import State
from autoseg.training.training import Budget, Cases, TrainingSettings
from autoseg.utils import lock
from autoseg.utils.files import write_json

#: Nothing random happens to a batch: only the patch is cut from its middle.
STILL: dict[str, Any] = {
    "rotation_probability": 0.0,
    "scaling_probability": 0.0,
    "elastic_probability": 0.0,
    "mirror_axes": [],
    "noise_probability": 0.0,
    "blur_probability": 0.0,
    "brightness_probability": 0.0,
    "contrast_probability": 0.0,
    "low_resolution_probability": 0.0,
    "gamma_probability": 0.0,
    "gamma_invert_probability": 0.0,
}

LABELS = Target(
    kind="labels", outputs=[Output(name="outer", values=[1], paint=1), Output(name="inner", values=[2], paint=2)]
)
REGIONS = Target(
    kind="regions",
    outputs=[Output(name="whole", values=[1, 2], paint=1), Output(name="inner", values=[2], paint=2)],
)


def still(**changes: Any) -> Augmentation:
    """No augmentation but what is named."""
    return Augmentation(**{**STILL, **changes})


def make_network(dimensions: int = 3, width: int = 4, stages: int = 2, **changes: Any) -> UNet:
    fields: dict[str, Any] = {
        "features": [width * 2**stage for stage in range(stages)],
        "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        "kernel_sizes": [[3] * dimensions] * stages,
        "encoder_blocks": [1] * stages,
        "decoder_convs": [1] * (stages - 1),
    }
    return UNet(**{**fields, **changes})


def make_recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "epochs": 2,
        "iterations_per_epoch": 2,
        "augmentation": still(),
        "precision": "fp32",
        "validate_every": 1,
        "validate_cases": 1,
    }
    return Recipe(**{**fields, **changes})


def make_configuration(patch: Sequence[int] = (8, 8, 8), **changes: Any) -> Configuration:
    fields: dict[str, Any] = {
        "spacing": (1.0, 1.0, 1.0),
        "data": "fullres",
        "patch_size": list(patch),
        "batch_size": 2,
        "network": changes.pop("network", None) or make_network(len(patch)),
        "recipe": changes.pop("recipe", None) or make_recipe(augmentation=still()),
        "inference": {"mirror_axes": [], "overlap": 0.25},
    }
    return Configuration(**{**fields, **changes})


def make_plan(configuration: Configuration | None = None, channels: Sequence[str] = ("mr",), **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "planner": "by hand",
        "dataset": "blobs",
        "device": "cpu",
        "channels": [Channel(name=name, normalization=Normalization(scheme="none")) for name in channels],
        "target": LABELS,
        "configurations": {"small": configuration or make_configuration()},
        "recommended": "small",
    }
    return Plan(**{**fields, **changes})


def make_tuned_plan(**changes: Any) -> Plan:
    """A plan to fine-tune a source of two folds, for which it harmonizes images.

    Args:
        changes: of the initial weights (``start``, a mapping) and of the plan.
    """
    start = {"source": "model", "file": "s", "ensemble": ["a", "b"], "keep": "auto", **changes.pop("start", {})}
    harmonize = {"mr": [float(number) for number in range(LANDMARKS)]}
    configuration = make_configuration(recipe=make_recipe(initialization=start))
    return make_plan(configuration, **{"preprocessing": Preprocessing(harmonize=harmonize), **changes})


def keep_share(run: Run, share: float) -> None:
    """Say that held-out cases chose this share of a source, which has the weights of the run's own first two folds."""
    stage = run.plan.stage()
    for number in range(2):
        path = run.source_folder(stage) / f"{number}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(run.fold(stage, number).weights.read_bytes())
    write_json(run.path / stage.name / SOURCE_SHARE, {"share": share})


def blob(shape: Sequence[int] = (10, 12, 14), shift: int = 0) -> np.ndarray:
    """Label 1 around label 2, off the middle and different along each axis, ``(z, y, x)``."""
    label = np.zeros(shape, np.int16)
    label[2:7, 3 + shift : 10 + shift, 2:9] = 1
    label[3:6, 5 + shift : 8 + shift, 4:8] = 2
    return label


def picture_of(label: np.ndarray, seed: int = 0) -> np.ndarray:
    """An image in which 100·label plus less than 1 of noise is seen, nowhere zero."""
    noise = np.random.default_rng(seed).uniform(0.1, 0.9, label.shape)
    return (100.0 * label + noise).astype(np.float32)


class Perfect(nn.Module):
    """Reads the label off :func:`picture_of`: logits of background, 1 and 2 (or of the regions ≥ 1 and ≥ 2)."""

    def __init__(self, target: Target = LABELS) -> None:
        super().__init__()
        self.kind = target.kind

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        level = image[:, :1] / 100
        if self.kind == "regions":
            return torch.cat([level - 0.5, level - 1.5], dim=1)
        return -((level - torch.arange(3.0).reshape(1, 3, *[1] * (image.ndim - 2))) ** 2)


def flat_geometry(shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Geometry:
    """Axis-aligned geometry of a ``(z, y, x)`` array."""
    return Geometry(
        size=tuple(reversed(tuple(shape))),
        spacing=tuple(reversed(tuple(spacing))),
        origin=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )


def loaded(
    image: np.ndarray,
    label: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    **changes: Any,
) -> LoadedCase:
    """A case in memory; ``image`` is (z, y, x) or (channel, z, y, x)."""
    channels = image[None] if image.ndim == 3 else image
    fields: dict[str, Any] = {
        "image": channels.astype(np.float32),
        "present": (True,) * len(channels),
        "spacing": spacing,
        "geometry": flat_geometry(channels.shape[1:], spacing),
        "label": label,
    }
    return LoadedCase(**{**fields, **changes})


def store(folder: Path, name: str, label: np.ndarray, image: np.ndarray | None = None) -> StoredCase:
    """Put a case into a folder of preprocessed data as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    case = loaded(picture_of(label) if image is None else image, label)
    plan = make_plan(channels=[f"c{i}" for i in range(len(case.image))])
    save(folder, name, preprocess_case(case, plan.stage("small")), "key")
    return StoredCase(folder, name)


def forget_places(path: Path) -> None:
    """Make the stored positions what earlier versions stored: those of label values only."""
    with np.load(path) as found:
        kept = {name: found[name] for name in found.files if name not in ("inside", "healthy")}
    np.savez_compressed(path, **kept)


def write(path: Path, array: np.ndarray, **geometry: Sequence[float]) -> Path:
    """Write (z, y, x) voxels with SimpleITK itself; spacing, origin, direction in its order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.get("spacing", (1.0,) * array.ndim))
    if "origin" in geometry:
        image.SetOrigin(geometry["origin"])
    if "direction" in geometry:
        image.SetDirection(geometry["direction"])
    sitk.WriteImage(image, str(path))
    return path


def make_dataset(root: Path, cases: int = 4, shape: Sequence[int] = (10, 12, 14)) -> Dataset:
    found = []
    for number in range(cases):
        label = blob(shape, number % 2)
        found.append(
            Case(
                id=f"case_{number}",
                channels={"mr": ChannelFile(path=write(root / "images" / f"{number}.nii.gz", picture_of(label)))},
                label=write(root / "labels" / f"{number}.nii.gz", label),
            )
        )
    return Dataset(
        name="blobs",
        root=root,
        layout="manifest",
        channels=("mr",),
        labels={"outer": 1, "inner": 2},
        cases=tuple(found),
    )


def make_fingerprint(dataset: Dataset, shape: tuple[int, int, int] = (10, 12, 14)) -> Fingerprint:
    seen = Intensity(mean=100, std=50, percentile_00_5=0, percentile_50=100, percentile_99_5=200)
    return Fingerprint(
        dataset=dataset.name,
        channels=list(dataset.channels),
        labels=dataset.labels,
        cases=[
            CaseFingerprint(
                id=case.id,
                shape=shape,
                spacing=(1.0, 1.0, 1.0),
                cropped_shape=shape,
                intensities=dict.fromkeys(dataset.channels, seen),
                label_voxels={1: 100, 2: 30},
            )
            for case in dataset.cases
        ],
        intensities=dict.fromkeys(dataset.channels, seen),
    )


def make_run(root: Path, plan: Plan | None = None, cases: int = 4, folds: int = 2) -> Run:
    """A planned run of ``cases`` blobs in ``root``, dealt to folds in turn."""
    dataset = make_dataset(root / "data", cases)
    names = [case.id for case in dataset.cases]
    splits = [
        {"train": [n for n in names if n not in names[fold::folds]], "validation": names[fold::folds]}
        for fold in range(folds)
    ]
    return Run.create(root / "run", plan or make_plan(), make_fingerprint(dataset), dataset, splits)


def step_setup(
    network: Architecture,
    sizes: tuple[int, int, Sequence[int], int],
    optimizer: str = "adamw",
    kind: str = "labels",
    **recipe: Any,
) -> StepSetup:
    """A step of a network with ``(channels, heads, patch, batch)``; without an average of the weights unless asked."""
    channels, heads, patch, batch = sizes
    chosen = Recipe(optimizer=Optimizer(name=optimizer), **{"ema_decay": 0.0, **recipe})
    return StepSetup(network, channels, stand_in(kind, heads), patch, batch, chosen)


@dataclass(frozen=True)
class FoldIn(Fold):
    """A fold whose files lie in any folder, without a run around it."""

    at: Path = Path()

    @property
    def folder(self) -> Path:
        return self.at


def train_in(
    folder: Path,
    stage: Stage,
    training: Sequence[StoredCase],
    validation: Sequence[StoredCase],
    budget: Budget,
    **more: Any,
) -> State:
    """Train a stage on cases, with its files in a folder, on the CPU.

    ``report`` and ``load`` (of the initial weights) become callbacks; the rest are settings.
    """
    report, load = more.pop("report", None), more.pop("load", None)
    keep = stage.recipe.initialization.keep
    callbacks: list[Callback] = [] if load is None else [LoadWeights(load, always=bool(keep))]
    callbacks += [SourceAverage(keep)] if keep else []
    callbacks += [] if report is None else [Progress(report)]
    fold = FoldIn(Run(folder), stage, 0, folder)
    settings = TrainingSettings(more.pop("device", torch.device("cpu")), **more)
    return train_fold(fold, Cases(training, validation), budget, settings, callbacks)


def augment_maps(
    image: torch.Tensor,
    maps: torch.Tensor,
    patch: Sequence[int],
    augmentation: Augmentation,
    rng: np.random.Generator,
    fields: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment images ``(batch, channel, *loaded)`` with label maps ``(batch, map, *loaded)``, the patch in the middle.

    The last ``fields`` channels are no intensities.
    """
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    drawn = draw_deformations(len(image), patch, augmentation, rng)
    first = [-((n - p) // 2) for n, p in zip(image.shape[2:], patch, strict=True)]
    pairs = []
    for one, labels, deformation in zip(image, maps, drawn, strict=True):
        if deformation.matrix is None:  # a loaded box is then the patch itself
            box = (slice(None), *(slice(-f, p - f) for f, p in zip(first, patch, strict=True)))
            pairs.append((one[box], labels[box]))
        else:
            pairs.append(resample_patch(one, labels, first, deformation))
    moved, moved_maps = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    augment_intensities(moved[:, : moved.shape[1] - fields], augmentation, rng, noise)
    mirror([moved, moved_maps], augmentation.mirror_axes, rng, augmentation.mirror_probability)
    return moved, moved_maps


def augment(
    image: torch.Tensor, label: torch.Tensor, patch: Sequence[int], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment images ``(batch, channel, *loaded)`` with one label map ``(batch, *loaded)`` each."""
    image, maps = augment_maps(image, label[:, None], patch, augmentation, rng)
    return image, maps[:, 0]


def done_by_another(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Let another process do some work while this one waits for it (:func:`autoseg.utils.lock.waited_for`)."""

    @contextmanager
    def waited_for(folder: Path, what: str) -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(lock, "waited_for", lambda *_: nullcontext())
            work()
        yield

    monkeypatch.setattr(lock, "waited_for", waited_for)
