"""Evaluate label maps in files: every target of every case, several cases at a time."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy import ndimage

from autoseg.data.boxes import box_of_all
from autoseg.data.counts import value_counts
from autoseg.data.description import LabelSource
from autoseg.data.image import Image
from autoseg.data.label_maps import NotALabelMap, label_values
from autoseg.data.structure_masks import read_label_map
from autoseg.evaluation.lesions import LesionRules
from autoseg.evaluation.masks import measure
from autoseg.evaluation.protocol import WORKERS, EvaluationProtocol
from autoseg.evaluation.summary import Evaluation, Row
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.parallel import refuse_no_workers
from autoseg.utils.progress import say, track

#: What :meth:`autoseg.evaluation.summary.Evaluation.counts` needs: which masks are empty.
COUNTED = ("prediction_ml", "reference_ml")


#: Label values up to which a table of all of them is kept; larger ones, as an atlas has, are numbered first.
_LARGEST_TABLE = 1 << 16


class LabelGroup(Protocol):
    """Anything with a name and the label values it is made of: a plan's output, or a :class:`Structure`."""

    @property
    def name(self) -> str:
        """Of the structure."""

    @property
    def values(self) -> Sequence[int]:
        """Label values that count as foreground."""


@dataclass(frozen=True)
class Structure:
    """A label or region to evaluate."""

    name: str
    values: tuple[int, ...]


def read_labels(path: str | LabelSource) -> tuple[np.ndarray, Image]:
    """Read a label map (or unite one from masks) as int32, int64 for larger values, with the image it came from.

    It is ``(z, y, x)``.

    Raises:
        AutosegError: unreadable, with several channels, or with values that are not whole numbers.
    """
    image = read_label_map(path)
    if len(image.array) != 1:
        raise AutosegError(f"{path} has {len(image.array)} channels; a label map has one.")
    if image.non_finite:
        say(f"{path}: {image.non_finite} voxels are NaN or infinite; they are read as 0.")
    try:
        labels = label_values(image)
    except NotALabelMap:
        raise AutosegError(f"{path} has values that are not whole numbers; a label map holds label values.") from None
    return labels if labels.dtype == np.int64 else labels.astype(np.int32), image


def evaluate_arrays(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    targets: Sequence[LabelGroup],
    protocol: EvaluationProtocol = EvaluationProtocol(),
) -> dict[str, dict[str, float]]:
    """Measure each target of one case.

    Args:
        prediction: label values ``(z, y, x)``.
        reference: label values, of the same shape.
        spacing: mm ``(z, y, x)``.
        targets: what to measure.
        protocol: which metrics, and by which conventions. Ignored voxels are outside every mask, and not counted as
            background either.

    Returns:
        Target name → metric name → value.
    """
    voxels = reference.size
    if protocol.ignore is not None:
        ignored = reference == protocol.ignore
        voxels -= int(np.count_nonzero(ignored))
        prediction, reference = np.where(ignored, 0, prediction), np.where(ignored, 0, reference)
    several = [[value for value in target.values if value != protocol.ignore] for target in targets]
    if max(prediction.max(initial=0), reference.max(initial=0)) > _LARGEST_TABLE:
        known = sorted({value for values in several for value in values})
        prediction, reference = (_numbered(labels, known) for labels in (prediction, reference))
        several = [[known.index(value) + 1 for value in values] for values in several]
    # One pass finds every label's box, so that a target is looked for only where it is.
    boxes = [ndimage.find_objects(np.maximum(labels, 0)) for labels in (prediction, reference)]
    pair = prediction, reference
    found = {}
    for target, values in zip(targets, several, strict=True):
        rules = None if protocol.lesions is None else protocol.lesions.of(target.values, reference.shape)
        there = (b[value - 1] for b in boxes for value in values if 0 < value <= len(b))
        box = box_of_all([one for one in there if one is not None], reference.shape)
        found[target.name] = measure(
            np.isin(prediction[box], values),
            np.isin(reference[box], values),
            spacing,
            replace(protocol, lesions=rules),
            voxels=voxels,
            lesions=None if rules is None or not rules.through else _groups(pair, values, spacing, rules, box),
        )
    return found


def _groups(
    pair: tuple[np.ndarray, np.ndarray],
    values: Sequence[int],
    spacing: tuple[float, float, float],
    rules: LesionRules,
    box: tuple[slice, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Numbered lesions of a structure in a prediction and its reference, cut to a box."""
    prediction, reference = pair
    voxel = float(np.prod(spacing))
    return (
        rules.grouped(prediction, values, voxel, predicted=True)[box],
        rules.grouped(reference, values, voxel, predicted=False)[box],
    )


def evaluate_pairs(
    pairs: Iterable[tuple[str, Path, LabelSource]],
    targets: Sequence[LabelGroup],
    out: str | Path | None = None,
    protocol: EvaluationProtocol = EvaluationProtocol(),
    workers: int = WORKERS,
) -> Evaluation:
    """Evaluate predicted label maps against their references.

    Args:
        pairs: case name, predicted label map, reference label map.
        targets: what to measure in each case.
        out: folder for ``metrics.csv``, ``summary.csv`` and ``summary.json``; None to write nothing.
        protocol: which metrics, and by which conventions; the volumes of both masks are always measured.
        workers: cases at a time.

    Raises:
        AutosegError: no pairs, or a file that is unreadable or does not lie on its reference's grid.
        UsageError: wrong options.
    """
    pairs, targets = list(pairs), list(targets)
    protocol = protocol.with_metrics(*COUNTED)
    if not pairs:
        raise AutosegError("there are no predictions to evaluate.")
    if not targets:
        raise UsageError("there is nothing to evaluate: no labels or regions are named or found.")
    refuse_no_workers(workers)

    def one(pair: tuple[str, Path, LabelSource]) -> list[Row]:
        case, prediction_path, reference_path = pair
        prediction, predicted = read_labels(prediction_path)
        reference, real = read_labels(reference_path)
        difference = grid_difference(predicted, real)
        if difference is not None:
            raise AutosegError(
                f"case {case}: {prediction_path} does not lie on the grid of {reference_path} "
                f"({difference}); evaluate predictions in the geometry of their references."
            )
        for labels, path in ((prediction, prediction_path), (reference, reference_path)):
            _refuse_unknown(labels, f"case {case}: {path}", protocol)
        values = evaluate_arrays(prediction, reference, real.spacing, targets, protocol)
        return [Row(case, target, found) for target, found in values.items()]

    # Threads: reading, array operations and tree queries all leave the interpreter free.
    pool = ThreadPoolExecutor(workers)
    try:
        rows = [row for found in track(pool.map(one, pairs), "evaluating", len(pairs)) for row in found]
    finally:
        pool.shutdown(cancel_futures=True)
    names = tuple(target.name for target in targets)
    evaluation = Evaluation(tuple(rows), names, protocol.tolerance_mm, protocol.empty)
    if out is not None:
        evaluation.write(out)
    return evaluation


def _refuse_unknown(labels: np.ndarray, where: str, protocol: EvaluationProtocol) -> None:
    """Values of another edition of a challenge would silently be no structure at all."""
    if protocol.known is None:
        return
    unknown = sorted(set(value_counts(labels)) - {0, protocol.ignore, *protocol.known})
    if unknown:
        raise AutosegError(
            f"{where} has the label values {', '.join(map(str, unknown))}; those of the challenge are "
            f"{', '.join(map(str, protocol.known))}. Name the edition that the labels are of."
        )


def grid_difference(image: Image, other: Image) -> str | None:
    """How two images' grids differ, in words, or None; order and direction of the files' axes may differ."""
    difference = image.geometry.differs_from(other.geometry)
    # Axes at 45° may be taken for others in one of two files.
    same = image.array.shape == other.array.shape and image.geometry.same_voxels(other.geometry)
    return None if same else difference


def _numbered(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Labels by their number among ascending values, from 1; 0 for any other."""
    if not values:
        return np.zeros(labels.shape, np.int32)
    places = np.minimum(np.searchsorted(values, labels), len(values) - 1)
    return np.where(np.asarray(values)[places] == labels, places + 1, 0).astype(np.int32)
