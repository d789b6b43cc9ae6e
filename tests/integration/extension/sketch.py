"""One of everything that plugs in, in one file of a package that is not autoseg; its entry points name this module."""

import io
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from autoseg.data.fingerprint import Fingerprint
from autoseg.data.formats.format import FORMATS, ImageFormat
from autoseg.data.geometry import Geometry, Header, Image
from autoseg.evaluation.metric import METRICS, MaskPair, Metric
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.prediction import Prediction
from autoseg.inference.results.writer import RESULTS, ResultWriter
from autoseg.networks import BUILDERS
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.architecture import FAMILIES, Architecture
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import NORMALIZATIONS, Channel, Normalization
from autoseg.plans.recipe import (
    LOSS_TERMS,
    SCHEDULES,
    TRANSFORMS,
    Augmentation,
    Loss,
    LossTerm,
    Recipe,
    Schedule,
    Transform,
)
from autoseg.plans.target import Output, Target
from autoseg.preprocessing.normalize import NORMALIZERS
from autoseg.step.lr_schedule import RATE_FACTORS
from autoseg.step.terms import TERMS, Scored
from autoseg.training.augmentation import TRANSFORMERS

# --- a network family: two convolutions ---


@FAMILIES.register("sketch")
class Sketch(Architecture):
    family: Literal["sketch"] = "sketch"
    width: int = 4

    @property
    def summary(self) -> str:
        return str(self.width)


@BUILDERS.register("sketch")
def build_sketch(network: Sketch, in_channels: int, heads: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(in_channels, network.width, 3, padding=1), nn.ReLU(), nn.Conv3d(network.width, heads, 1)
    )


# --- a normalization: the logarithm ---


@NORMALIZATIONS.register("log")
class Logarithm(Normalization):
    scheme: Literal["log"] = "log"
    offset: float = 1.0


@NORMALIZERS.register("log")
def logarithm(channel: np.ndarray, values: np.ndarray, normalization: Logarithm) -> np.ndarray:
    return np.log(np.maximum(channel, 0) + normalization.offset)


# --- a term of the loss: the mean squared error of probabilities ---


@LOSS_TERMS.register("brier")
class Brier(LossTerm):
    power: float = 2.0


@TERMS.register("brier")
def brier(scored: Scored, term: Brier) -> torch.Tensor:
    return (scored.probabilities - scored.structures.float()).abs().pow(term.power).mean()


# --- a learning-rate schedule: down in stairs ---


@SCHEDULES.register("stairs")
class Stairs(Schedule):
    name: Literal["stairs"] = "stairs"
    steps: int = 3


@RATE_FACTORS.register("stairs")
def stairs(schedule: Stairs, progress: float, losses: Any) -> float:
    return 1 - int(progress * schedule.steps) / schedule.steps


# --- an augmentation: intensities upside down ---


@TRANSFORMS.register("inverted")
class Inverted(Transform):
    around: float = 0.0


@TRANSFORMERS.register("inverted")
def inverted(image: torch.Tensor, transform: Inverted, rng: np.random.Generator) -> torch.Tensor:
    return 2 * transform.around - image


# --- a metric: how much too large ---


def _excess(masks: MaskPair) -> float:
    return masks.ratio(masks.predicted, masks.real)


METRICS.register("excess", Metric(_excess, "Excess", kind="other", better="neither"))


# --- an image format: voxels in a zip archive ---


def _read(path: Path) -> Image:
    with np.load(path) as file:
        voxels, spacing = file["voxels"], tuple(float(mm) for mm in file["spacing"])
    z, y, x = voxels.shape[1:]
    geometry = Geometry((x, y, z), spacing[::-1], (0.0,) * 3, (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    return Image(voxels, (spacing[0], spacing[1], spacing[2]), geometry)


def _read_header(path: Path) -> Header:
    image = _read(path)
    return Header(image.geometry, len(image.array), str(image.array.dtype))


def _write(path: Path, voxels: np.ndarray, geometry: Geometry) -> None:
    data = io.BytesIO()
    np.savez(data, voxels=voxels if voxels.ndim == 4 else voxels[None], spacing=geometry.spacing[::-1])
    path.write_bytes(data.getvalue())
    assert zipfile.is_zipfile(path)


FORMATS.register("sketch", ImageFormat((".vox",), _read_header, _read, _write))


# --- a kind of result: where nothing was found ---


class Nothing(ResultWriter):
    def names(self, ensemble: Ensemble) -> list[str]:
        return ["nothing"]

    def volumes(self, prediction: Prediction) -> dict[str, np.ndarray]:
        return {"nothing": (prediction.label == 0).astype(np.uint8)}


RESULTS.register("nothing", Nothing())


# --- a planner that plans with all of them ---


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    outputs = [Output(name=name, values=[value], paint=value) for name, value in fingerprint.labels.items()]
    recipe = Recipe(
        epochs=1,
        iterations_per_epoch=3,
        loss=Loss(dice_weight=0, terms={"brier": {"weight": 2.0, "power": 2.0}}),  # type: ignore[arg-type]
        schedule=Stairs(),
        augmentation=Augmentation(transforms={"inverted": {"probability": 1.0}}),  # type: ignore[arg-type]
        precision="fp32",
    )
    configuration = Configuration(
        spacing=(1.0, 1.0, 1.0), data="sketch", patch_size=[8, 8, 8], batch_size=2, network=Sketch(), recipe=recipe
    )
    return Plan(
        planner="sketch",
        dataset=fingerprint.dataset,
        device=request.device,  # type: ignore[arg-type]
        channels=[Channel(name=name, normalization=Logarithm()) for name in fingerprint.channels],
        target=Target(kind="labels", outputs=outputs),
        configurations={"sketch": configuration},
        recommended="sketch",
        file_ending=fingerprint.file_ending,
    )
