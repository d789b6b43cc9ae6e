"""DICOM-SEG: the segments of a segmentation object as masks."""

import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.clinical.structure_names import distinct_names, structure_name
from autoseg.data.dicom import import_highdicom
from autoseg.utils.errors import AutosegError

if TYPE_CHECKING:
    import SimpleITK

#: A voxel of a fractional segment belongs to it from here on.
_HALF = 0.5


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
