"""DICOM-SEG: the segments of a segmentation object as masks."""

import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.clinical.structure_names import distinct_names, structure_name
from autoseg.data.dicom import functional_group, import_highdicom
from autoseg.data.dicom_stacks import ONE_DIRECTION, SAME_PLACE, StackFault, normal_of
from autoseg.utils.errors import AutosegError

if TYPE_CHECKING:
    import SimpleITK

#: A voxel of a fractional segment belongs to it from here on.
_HALF = 0.5

#: Parts of a slice that slices may be off their places in a regular stack: what highdicom allows.
_REGULAR = 0.01


def series_of_segments(dataset: Any) -> tuple[str, ...]:
    """Series instance UIDs that a DICOM-SEG's data set refers to."""
    found = {
        str(series.SeriesInstanceUID)
        for series in dataset.get("ReferencedSeriesSequence") or ()
        if series.get("SeriesInstanceUID")
    }
    return tuple(sorted(found))


def segment_masks(
    dataset: Any, path: Path, grid: "SimpleITK.Image | None" = None, names: Collection[str] | None = None
) -> "dict[str, SimpleITK.Image]":
    """Masks (0, 1) of the segments of a DICOM-SEG: binary, fractional (from a half on) or a label map.

    Args:
        dataset: pydicom's, of the DICOM-SEG.
        path: of its file, for messages.
        grid: to lay the masks on (nearest voxel), for example of the series that was segmented; the frames' own where
            None, which ends where the segments do, as empty frames are usually left out.
        names: of the segments that are wanted; all where None.

    Raises:
        AutosegError: highdicom is not installed, or can't read it, or its frames are no volume.
    """
    import SimpleITK as sitk

    highdicom = import_highdicom()
    try:
        _say_spacing(dataset, path, grid)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            segmentation = highdicom.seg.Segmentation.from_dataset(dataset, copy=False)
            segments = {
                int(description.SegmentNumber): str(description.get("SegmentLabel", ""))
                for description in segmentation.SegmentSequence
                if int(description.SegmentNumber) > 0
            }
            called = distinct_names(structure_name(label, number) for number, label in segments.items())
            masks = {
                name: _mask(segmentation.get_volume(segment_numbers=[number]))
                for name, number in zip(called, segments, strict=True)
                if names is None or name in names
            }
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RuntimeError, NotImplementedError) as error:
        raise AutosegError(
            f"{path} can't be read as a DICOM-SEG of one volume ({_first_line(error)}); export it again, or as NIfTI."
        ) from None
    if not masks:
        raise AutosegError(f"{path} holds no segment; export the segmentation again.")
    if grid is None:
        return masks
    return {name: sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkNearestNeighbor) for name, mask in masks.items()}


def _say_spacing(dataset: Any, path: Path, grid: "SimpleITK.Image | None") -> None:
    """Let a DICOM-SEG that does not say it say how far its slices are apart.

    Where empty frames are left out, those that remain may all be two slices apart, and would seem to be twice as thick.

    Args:
        dataset: changed in place.
        path: of its file, for messages.
        grid: of the series that was segmented; None where unknown.

    Raises:
        AutosegError: it has one slice, and nothing says how thick that is.
    """
    numbers = range(int(dataset.get("NumberOfFrames") or 1))
    measures = [functional_group(dataset, number, "PixelMeasuresSequence") for number in numbers]
    axes = functional_group(dataset, 0, "PlaneOrientationSequence").get("ImageOrientationPatient")
    places = [functional_group(dataset, n, "PlanePositionSequence").get("ImagePositionPatient") for n in numbers]
    if any(not one or one.get("SpacingBetweenSlices") for one in measures) or not axes or not all(places):
        return
    normal = normal_of([float(value) for value in axes])
    if isinstance(normal, StackFault):
        return
    heights = np.sort(np.asarray(places, float) @ normal)
    heights = heights[np.diff(heights, prepend=-np.inf) > SAME_PLACE] - heights[0]
    spacing = None
    if grid is not None:
        along = np.asarray(grid.GetDirection()).reshape(3, 3)[:, 2]
        spacing = _spacing_like(heights, grid.GetSpacing()[2]) if abs(normal @ along) > 1 - ONE_DIRECTION else None
    elif len(heights) == 1:
        spacing = float(measures[0].get("SliceThickness") or 0)
        if not spacing:
            raise AutosegError(
                f"{path} has one slice and does not say how thick that is; export it again, or as NIfTI."
            )
    for one in measures if spacing else []:
        one.SpacingBetweenSlices = f"{spacing:.10g}"


def _spacing_like(heights: np.ndarray, known: float) -> float | None:
    """The spacing, close to a known one, of slices of which no two lie side by side; None where some do.

    Args:
        heights: of the slices above the first, mm.
        known: mm.
    """
    if len(heights) == 1:
        return known
    spacing = float(heights[-1]) / max(1, round(float(heights[-1]) / known))
    slices = heights / spacing
    regular = float(np.abs(slices - np.rint(slices)).max()) < _REGULAR
    return spacing if regular and float(np.diff(slices).min()) > 1.5 else None


def _mask(volume: Any) -> "SimpleITK.Image":
    """One segment as an image; highdicom's volume is ``(slice, row, column, 1)`` with an affine in LPS."""
    import SimpleITK as sitk

    array = np.asarray(volume.array)[..., 0]
    # Columns of the affine: the step from slice to slice, from row to row and from column to column.
    axes = np.asarray(volume.affine, float)[:3, 2::-1]
    spacing = np.linalg.norm(axes, axis=0)
    image = sitk.GetImageFromArray((array >= _HALF).astype(np.uint8))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((axes / spacing).reshape(-1).tolist())
    image.SetOrigin(np.asarray(volume.affine, float)[:3, 3].tolist())
    return image


def _first_line(error: Exception) -> str:
    """What the library says, without the values that it quotes, which may be a patient's."""
    lines = re.sub(r"'[^']*'|\"[^\"]*\"", "…", str(error).strip()).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
