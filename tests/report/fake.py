"""A run folder as training leaves it, with cuboids for structures; for the tests of the report and the commands."""

import csv
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.data.fingerprint import CaseFingerprint, Fingerprint, Intensity
from autoseg.evaluation.cases import evaluate_pairs
from autoseg.evaluation.folders import plan_structures
from autoseg.evaluation.summary import Evaluation
from autoseg.plans.configuration import Configuration
from autoseg.plans.families import UNet
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Channel
from autoseg.plans.target import Output, Target
from autoseg.runs.run import Run

CASES = ("case_1", "case_2", "case_3", "case_4")
SPACING = (3.0, 1.0, 1.0)


def labels(shift: int = 0) -> np.ndarray:
    """Label 1 with label 2 inside, ``(z, y, x)``."""
    array = np.zeros((10, 24, 28), np.uint8)
    array[2:8, 4:18, 4 + shift : 20 + shift] = 1
    array[4:6, 8:14, 8 + shift : 14 + shift] = 2
    return array


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(path))
    return path


def make_dataset(root: Path) -> Dataset:
    random = np.random.default_rng(0)
    cases = []
    for case in CASES:
        image = labels() * 100.0 + random.normal(50, 10, labels().shape)
        cases.append(
            Case(
                id=case,
                channels={"flair": ChannelFile(path=save(root / "images" / f"{case}.nii.gz", image))},
                label=save(root / "labels" / f"{case}.nii.gz", labels()),
            )
        )
    return Dataset(
        name="cuboids <3>",
        root=root,
        layout="manifest",
        channels=("flair",),
        labels={"outer": 1, "inner": 2},
        cases=tuple(cases),
    )


def make_plan(**changes: object) -> Plan:
    network = UNet(
        features=[8, 16],
        strides=[[1, 1, 1], [1, 2, 2]],
        kernel_sizes=[[1, 3, 3], [3, 3, 3]],
        encoder_blocks=[2, 2],
        decoder_convs=[2],
    )
    configuration = Configuration(
        spacing=SPACING,
        data="fullres",
        patch_size=[8, 16, 16],
        batch_size=2,
        network=network,
        parameters=12345,
        reasons={"patch_size": "covers <most> of the median image", "batch_size": "fits 7.4 of 8.0 GB"},
    )
    fields: dict = {
        "planner": "unet",
        "dataset": "cuboids <3>",
        "channels": [Channel(name="flair")],
        "target": Target(
            kind="labels",
            outputs=[Output(name="outer", values=[1], paint=1), Output(name="inner", values=[2], paint=2)],
        ),
        "configurations": {"3d_fullres": configuration},
        "recommended": "3d_fullres",
    }
    return Plan(**(fields | changes))


def make_run(folder: Path, folds: tuple[int, ...] = (0, 1)) -> Run:
    """A planned run with these folds trained, out of two, and its data in ``folder/data``."""
    dataset = make_dataset(folder / "data")
    shape = labels().shape
    flair = Intensity(mean=100, std=20, percentile_00_5=40, percentile_50=100, percentile_99_5=200)
    fingerprint = Fingerprint(
        dataset=dataset.name,
        channels=["flair"],
        labels=dataset.labels,
        cases=[
            CaseFingerprint(
                id=case,
                shape=shape,
                spacing=SPACING,
                cropped_shape=shape,
                intensities={"flair": flair},
                label_voxels={1: 1200, 2: 72},
            )
            for case in CASES
        ],
        intensities={"flair": flair},
    )
    splits = [
        {"train": list(CASES[2:]), "validation": list(CASES[:2])},
        {"train": list(CASES[:2]), "validation": list(CASES[2:])},
    ]
    run = Run.create(folder / "run", make_plan(), fingerprint, dataset, splits)
    parts = [train_fold(run, fold) for fold in folds]
    if parts:
        Evaluation.merge(parts).write(run.path / "3d_fullres" / "crossval")
    return run


def train_fold(run: Run, fold: int) -> Evaluation:
    """What training leaves in a fold's folder: a curve, predictions that are a little off, their evaluation."""
    folder = run.fold("3d_fullres", fold).folder
    pairs = []
    for index, case in enumerate(run.split(fold)["validation"]):
        path = save(folder / "validation" / f"{case}.nii.gz", labels(shift=2 * fold + index))
        reference = run.dataset.case(case).label
        assert reference is not None
        pairs.append((case, path, reference))
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "iteration", "seconds", "learning_rate", "loss", "validation_dice"])
        for epoch in range(1, 21):
            value = f"{0.9 - 0.8 / epoch:.4f}" if epoch % 4 == 0 else ""
            writer.writerow([epoch, epoch * 10, epoch * 3.5, 0.001, f"{1 / epoch:.4f}", value])
    (folder / "weights.safetensors").touch()
    return evaluate_pairs(pairs, plan_structures(run.plan, run.dataset), folder / "validation")
