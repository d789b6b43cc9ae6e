"""Fingerprint: the measured properties of a dataset, a planner's only knowledge of the data."""

import zlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from autoseg.data.boxes import cropping_box, foreground
from autoseg.data.counts import value_counts
from autoseg.data.dataset import Case, Dataset, LoadedCase, load_case
from autoseg.data.landmarks import landmarks
from autoseg.utils.errors import AutosegError
from autoseg.utils.parallel import each
from autoseg.utils.shell import quoted

#: Largest number of foreground voxels that a case and channel adds to the pooled statistics.
SAMPLE = 10_000


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Intensity(_Model):
    """Intensities of one channel inside the foreground: labelled voxels, or non-zero ones without any label."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_50: float
    percentile_99_5: float


class CaseFingerprint(_Model):
    """One case. Shapes are voxels and spacing mm, both ``(z, y, x)`` in canonical (LPS) order.

    Attributes:
        id: of the case.
        shape: before cropping.
        spacing: mm.
        cropped_shape: after cropping to the non-zero (or brain-mask) region.
        nonzero_share: share of the voxels inside the cropped box that are non-zero.
        intensities: channel name → statistics; channels that the case lacks are absent.
        label_voxels: label value → number of voxels.
    """

    id: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    cropped_shape: tuple[int, int, int]
    nonzero_share: float = 1.0
    intensities: dict[str, Intensity]
    label_voxels: dict[int, int]


class Fingerprint(_Model):
    """The whole dataset.

    Attributes:
        schema_version: of the file format.
        dataset: name.
        dimension: 2 for pictures, 3 for volumes.
        channels: names, in the dataset's order.
        modalities: channel name → modality, where the dataset has one.
        labels: label name → value, without background and ignore.
        regions: region name → values.
        ignore_label: label value whose voxels are not trained on or evaluated.
        file_ending: of the label files.
        cases: one entry for each labelled case.
        intensities: channel name → statistics of the labelled voxels of all cases together (for CT normalization); of
            the non-zero ones where no case has labelled voxels, and in what earlier versions took also of cases that
            have none.
        landmarks: channel name → mean over the cases of :func:`autoseg.data.landmarks.landmarks`; empty in those that
            earlier versions took.
    """

    schema_version: int = 1
    dataset: str
    dimension: int = 3
    channels: list[str]
    modalities: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, int]
    regions: dict[str, list[int]] = Field(default_factory=dict)
    ignore_label: int | None = None
    file_ending: str = ".nii.gz"
    cases: list[CaseFingerprint]
    intensities: dict[str, Intensity]
    landmarks: dict[str, list[float]] = Field(default_factory=dict)

    @classmethod
    def of(
        cls, dataset: Dataset, dimension: int, cases: list[CaseFingerprint], intensities: dict[str, Intensity]
    ) -> "Fingerprint":
        """Combine the dataset's description with the measurements."""
        return cls(
            dataset=dataset.name,
            dimension=dimension,
            channels=list(dataset.channels),
            modalities=dataset.modalities,
            labels=dataset.labels,
            regions={name: list(values) for name, values in dataset.regions.items()},
            ignore_label=dataset.ignore_label,
            file_ending=dataset.file_ending,
            cases=cases,
            intensities=intensities,
        )


class Measurement(NamedTuple):
    """The measurements of one case.

    Attributes:
        case: its entry.
        samples: channel name → voxels for the pooled statistics.
        landmarks: channel name → :func:`autoseg.data.landmarks.landmarks`.
        labelled: whether the samples are labelled voxels; of a case without any they are non-zero ones.
    """

    case: CaseFingerprint
    samples: dict[str, np.ndarray]
    landmarks: dict[str, list[float]]
    labelled: bool


def measure_case(case_id: str, loaded: LoadedCase, dataset: Dataset, seed: int = 0) -> Measurement:
    """Take the fingerprint of one case.

    Args:
        case_id: name of the case; the sample depends on it and the seed only.
        loaded: its voxels, with the dataset's channels in the dataset's order.
        dataset: names the channels and label values.
        seed: of the sample.
    """
    inside = foreground(loaded.image, loaded.mask)
    box = cropping_box(inside)
    labels = dict.fromkeys(sorted(dataset.labels.values()), 0)
    chosen, is_labelled = inside, False
    if loaded.label is not None:
        labels.update({value: count for value, count in value_counts(loaded.label).items() if value != 0})
        labelled = np.isin(loaded.label, list(dataset.labels.values()))
        is_labelled = bool(labelled.any())
        chosen = labelled if is_labelled else inside
    rng = np.random.default_rng([seed, zlib.crc32(case_id.encode())])
    intensities, samples = {}, {}
    for name, present, voxels in zip(dataset.channels, loaded.present, loaded.image, strict=True):
        if not present:
            continue
        found = voxels[chosen]
        found = found[np.isfinite(found)]
        if not len(found):
            found = np.zeros(1, np.float32)
        intensities[name] = _intensity(found)
        samples[name] = rng.choice(found, SAMPLE, replace=False) if len(found) > SAMPLE else found
    z, y, x = loaded.image.shape[1:]
    cropped = inside[box]
    entry = CaseFingerprint(
        id=case_id,
        shape=(z, y, x),
        spacing=loaded.spacing,
        cropped_shape=(cropped.shape[0], cropped.shape[1], cropped.shape[2]),
        nonzero_share=float(cropped.mean()),
        intensities=intensities,
        label_voxels=labels,
    )
    return Measurement(entry, samples, case_landmarks(loaded, dataset.channels, inside), is_labelled)


def case_landmarks(loaded: LoadedCase, channels: Sequence[str], inside: np.ndarray) -> dict[str, list[float]]:
    """Channel name → :func:`~autoseg.data.landmarks.landmarks` of the channels that a case has.

    Args:
        loaded: the case.
        channels: names of its channels, in order.
        inside: bool ``(z, y, x)``, its foreground.
    """
    return {
        name: found
        for name, present, voxels in zip(channels, loaded.present, loaded.image, strict=True)
        if present and (found := landmarks(voxels[inside]))
    }


def pool(dataset: Dataset, measurements: Iterable[Measurement]) -> Fingerprint:
    """Combine the measurements of all cases.

    A case without labelled voxels adds none to a channel's pooled intensities, as long as another case has some: its
    non-zero voxels, air and all in CT, would outnumber small structures.

    Raises:
        AutosegError: there are no cases.
    """
    entries: list[CaseFingerprint] = []
    labelled: dict[str, list[np.ndarray]] = {name: [] for name in dataset.channels}
    others: dict[str, list[np.ndarray]] = {name: [] for name in dataset.channels}
    of_cases: list[dict[str, list[float]]] = []
    for measurement in measurements:
        entries.append(measurement.case)
        of_cases.append(measurement.landmarks)
        for name, values in measurement.samples.items():
            (labelled if measurement.labelled else others)[name].append(values)
    if not entries:
        raise AutosegError(f"{dataset.root} has no labelled case to learn from.")
    dimension = 2 if all(entry.shape[0] == 1 for entry in entries) else 3
    samples = {name: labelled[name] or others[name] for name in dataset.channels}
    pooled = {name: _intensity(np.concatenate(values)) for name, values in samples.items() if values}
    return Fingerprint.of(dataset, dimension, entries, pooled).model_copy(
        update={"landmarks": mean_landmarks(of_cases)}
    )


def mean_landmarks(of_cases: Iterable[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Channel name → the mean of the cases' landmarks."""
    found: dict[str, list[list[float]]] = {}
    for case in of_cases:
        for name, values in case.items():
            found.setdefault(name, []).append(values)
    return {name: [float(value) for value in np.mean(values, axis=0)] for name, values in found.items()}


def fingerprint(dataset: Dataset, workers: int | None = None, seed: int = 0) -> Fingerprint:
    """Take the fingerprint of a dataset's labelled cases.

    Args:
        dataset: as :meth:`autoseg.Dataset.open` returns it.
        workers: processes, each with one case in memory at a time; None for one a core.
        seed: of the sample of voxels behind the pooled intensities.

    Raises:
        AutosegError: cases can't be read (all of them named), or there are none.
    """
    dataset.refuse_question()
    results = list(
        each(
            partial(_measure_file, dataset=without_cases(dataset), seed=seed),
            dataset.cases,
            workers,
            "Fingerprint",
        )
    )
    failures = [result for result in results if isinstance(result, str)]
    if failures:
        raise AutosegError(
            f"{len(failures)} of {len(results)} cases can't be used: {' '.join(failures)} "
            f"'autoseg inspect {quoted(dataset.root)}' lists every problem."
        )
    return pool(dataset, [result for result in results if not isinstance(result, str)])


def without_cases(dataset: Dataset) -> Dataset:
    """Names and values only: what a worker needs, without the list of all cases."""
    return dataset.model_copy(update={"cases": (), "unlabelled": ()})


def _measure_file(case: Case, dataset: Dataset, seed: int) -> Measurement | str:
    try:
        return measure_case(case.id, load_case(case, dataset.channels), dataset, seed)
    except AutosegError as error:
        return str(error)


def _intensity(values: np.ndarray) -> Intensity:
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    return Intensity(
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        percentile_00_5=float(low),
        percentile_50=float(median),
        percentile_99_5=float(high),
    )
