"""Fingerprints made by hand."""

from collections.abc import Sequence

from autoseg.data.fingerprint import CaseFingerprint, Fingerprint, Intensity

STATISTICS = Intensity(mean=100.0, std=50.0, percentile_00_5=-20.0, percentile_50=90.0, percentile_99_5=300.0)


def fingerprint(
    shape: Sequence[int],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    cases: int = 100,
    channels: Sequence[str] = ("MRI",),
    labels: dict[str, int] | None = None,
    regions: dict[str, list[int]] | None = None,
    volumes: dict[int, int] | None = None,
    cropped: Sequence[int] | None = None,
    dimension: int = 3,
) -> Fingerprint:
    """A dataset of equal cases."""
    labels = labels or {"organ": 1}
    case = {
        "shape": tuple(shape),
        "spacing": tuple(spacing),
        "cropped_shape": tuple(cropped or shape),
        "intensities": dict.fromkeys(channels, STATISTICS),
        "label_voxels": volumes or dict.fromkeys(labels.values(), 1000),
    }
    return Fingerprint(
        dataset="made",
        dimension=dimension,
        channels=list(channels),
        labels=labels,
        regions=regions or {},
        cases=[CaseFingerprint.model_validate({"id": f"case_{i}", **case}) for i in range(cases)],
        intensities=dict.fromkeys(channels, STATISTICS),
    )


def hippocampus() -> Fingerprint:
    """Median shape and number of cases of the Medical Segmentation Decathlon's task 4 (the 200 of them used here)."""
    return fingerprint((36, 50, 35), cases=200, labels={"Anterior": 1, "Posterior": 2})


def brats() -> Fingerprint:
    """Like BraTS 2020: four sequences cropped to the brain, three nested regions."""
    return fingerprint(
        (155, 240, 240),
        cases=369,
        channels=("t1n", "t1c", "t2w", "t2f"),
        labels={"necrosis": 1, "edema": 2, "enhancing": 4},
        regions={"enhancing_tumor": [4], "whole_tumor": [1, 2, 4], "tumor_core": [1, 4]},
        volumes={1: 20_000, 2: 60_000, 4: 25_000},
        cropped=(138, 170, 138),
    )


def abdomen() -> Fingerprint:
    """An anisotropic CT."""
    return fingerprint((60, 512, 512), (5.0, 0.8, 0.8), cases=40, channels=("CT",))


def pictures() -> Fingerprint:
    """Two-dimensional images."""
    return fingerprint((1, 300, 400), cases=60, channels=("red", "green", "blue"), dimension=2)
