"""RTSTRUCT: the contours of structures, filled on the grid of the series that they were drawn on."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autoseg.clinical.structure_names import distinct_names, structure_name
from autoseg.utils.errors import AutosegError
from autoseg.utils.progress import say

if TYPE_CHECKING:
    import SimpleITK

#: Contours that enclose an area (DICOM PS3.3 C.8.8.6.1).
_CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}

#: Slices that the points of one contour may be apart: coordinates are text of at most 16 characters, often rounded to
#: hundredths of a millimetre, and the normal of an oblique series is rounded, too.
_OUT_OF_PLANE = 0.2

#: Planes closer than this part of a slice are one.
_SAME_PLANE = 0.05


@dataclass(frozen=True)
class ContourOrigin:
    """What a structure says about the scan that it was drawn on.

    Attributes:
        series: instance UIDs of the series that it may be, those of its slices or else of its frame of reference; none
            where the file names no series.
        images: SOP instance UIDs of its contours' slices; none where it does not say.
        frame: UID of the frame of reference that its points lie in; "" where it does not say.
    """

    series: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    frame: str = ""


@dataclass(frozen=True)
class _Structure:
    """A structure's contours in millimetres, each ``(point, xyz)``."""

    name: str
    contours: list[np.ndarray]
    other: Counter[str]
    origin: ContourOrigin


class _ListedSeries(NamedTuple):
    """A series that an RTSTRUCT refers to, its frame of reference, and its slices where they are listed."""

    series: str
    frame: str
    images: set[str]


def series_of_contours(dataset: Any) -> tuple[str, ...]:
    """Series instance UIDs that an RTSTRUCT's data set refers to."""
    return tuple(sorted({one.series for one in _listed(dataset)}))


def origins_of_contours(dataset: Any, path: Path) -> dict[str, ContourOrigin]:
    """The scan of each structure that encloses something; the names are those of :func:`filled_contours`.

    Args:
        dataset: pydicom's, of the RTSTRUCT.
        path: of its file, for messages.
    """
    return {structure.name: structure.origin for structure in _structures(dataset, path) if structure.contours}


def _listed(dataset: Any) -> list[_ListedSeries]:
    return [
        _ListedSeries(
            str(series.SeriesInstanceUID),
            str(frame.get("FrameOfReferenceUID", "")),
            _uids(series.get("ContourImageSequence"), "ReferencedSOPInstanceUID"),
        )
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ()
        for study in frame.get("RTReferencedStudySequence") or ()
        for series in study.get("RTReferencedSeriesSequence") or ()
        if series.get("SeriesInstanceUID")
    ]


def _uids(items: Iterable[Any] | None, keyword: str) -> set[str]:
    return {str(uid) for item in items or () if (uid := item.get(keyword))}


def _origin(images: set[str], frame: str, listed: Sequence[_ListedSeries]) -> ContourOrigin:
    """Of contours on these slices, in this frame of reference."""
    found = [one for one in listed if one.images & images]
    found = found or [one for one in listed if frame and one.frame == frame] or list(listed)
    return ContourOrigin(frozenset(one.series for one in found), frozenset(images), frame)


def filled_contours(
    dataset: Any, path: Path, grid: "SimpleITK.Image", names: Collection[str] | None = None
) -> "dict[str, SimpleITK.Image]":
    """Masks (0, 1) of the structures of an RTSTRUCT on a grid whose slices the contours were drawn in.

    A voxel is inside where its centre is: of the contours of a structure in one plane, inside an odd number of them, so
    that an inner contour, or one that is led in and out over the same line, is a hole. Points and open lines enclose
    nothing; they are left out, which is said, and a structure of only these has no mask.

    Args:
        dataset: pydicom's, of the RTSTRUCT.
        path: of its file, for messages.
        grid: of the series; its third axis goes through the slices.
        names: of the structures to fill, those that were drawn on this series; all where None.

    Raises:
        AutosegError: a contour does not lie in a slice of the grid, or there is no contour.
    """
    masks = {}
    left_out: Counter[str] = Counter()
    for structure in _structures(dataset, path):
        if names is not None and structure.name not in names:
            continue
        left_out.update(structure.other)
        if structure.contours:
            masks[structure.name] = _mask(structure, path, grid)
    if left_out:
        kinds = ", ".join(f"{count} {kind.lower().replace('_', ' ')}" for kind, count in sorted(left_out.items()))
        say(f"{path}: contours that enclose nothing are left out ({kinds}).")
    if not masks:
        raise AutosegError(f"{path} holds no closed contour; export the structures with their contours.")
    return masks


def _structures(dataset: Any, path: Path) -> Iterator[_Structure]:
    given: dict[int, Any] = {int(roi.ROINumber): roi for roi in dataset.get("StructureSetROISequence") or ()}
    listed = _listed(dataset)
    frames = _uids(dataset.get("ReferencedFrameOfReferenceSequence"), "FrameOfReferenceUID")
    only = next(iter(frames)) if len(frames) == 1 else ""
    items = list(dataset.get("ROIContourSequence") or ())
    numbers = [int(item.ReferencedROINumber) for item in items]
    names = distinct_names(structure_name(given.get(number, {}).get("ROIName", ""), number) for number in numbers)
    for name, number, item in zip(names, numbers, items, strict=True):
        contours: dict[bytes, np.ndarray] = {}
        other = Counter[str]()
        images: set[str] = set()
        for contour in item.get("ContourSequence") or ():
            points = _points(contour, name, path)
            kind = str(contour.get("ContourGeometricType", "CLOSED_PLANAR"))
            if kind in _CLOSED and len(points) > 2:
                # By its points: a contour that is exported twice would be a hole in itself.
                contours[points.tobytes()] = points
                images |= _uids(contour.get("ContourImageSequence"), "ReferencedSOPInstanceUID")
            else:
                other[kind] += 1
        frame = str(given.get(number, {}).get("ReferencedFrameOfReferenceUID", "")) or only
        yield _Structure(name, list(contours.values()), other, _origin(images, frame, listed))


def _points(contour: Any, name: str, path: Path) -> np.ndarray:
    values = contour.get("ContourData")
    data = np.atleast_1d(np.array([] if values is None else values, float))
    if data.size % 3 or not np.isfinite(data).all():
        raise AutosegError(
            f"{path}: a contour of {name} holds {data.size} numbers, which are no points of three coordinates; "
            "export the structures again."
        )
    return data.reshape(-1, 3)


def _mask(structure: _Structure, path: Path, grid: "SimpleITK.Image") -> "SimpleITK.Image":
    import SimpleITK as sitk

    width, height, depth = grid.GetSize()
    mask = np.zeros((depth, height, width), np.uint8)
    nearest: dict[int, float] = {}
    for plane, polygons in _planes(structure, path, grid):
        slice_ = int(np.floor(plane + 0.5))
        if not 0 <= slice_ < depth:
            raise AutosegError(
                f"{path}: a contour of {structure.name} lies {_beyond(plane, depth):.1f} slices outside the series; "
                "give the series that the structures were drawn on."
            )
        # Contours of a finer series: the plane closest to the slice's middle is the slice's.
        distance = abs(plane - slice_)
        if distance < nearest.get(slice_, np.inf):
            nearest[slice_] = distance
            mask[slice_] = even_odd(polygons, (height, width))
    image = sitk.GetImageFromArray(mask)
    image.CopyInformation(grid)
    return image


def _beyond(plane: float, depth: int) -> float:
    return max(-plane, plane - (depth - 1))


def _planes(structure: _Structure, path: Path, grid: "SimpleITK.Image") -> Iterator[tuple[float, list[np.ndarray]]]:
    """The planes of a structure, in slices of the grid, with the polygons in each as ``(point, xy)`` in pixels."""
    placed: list[tuple[float, np.ndarray]] = []
    for points in structure.contours:
        indices = _indices(points, grid)
        heights = indices[:, 2]
        if np.ptp(heights) > _OUT_OF_PLANE:
            raise AutosegError(
                f"{path}: a contour of {structure.name} crosses {np.ptp(heights):.1f} slices of the series; "
                "give the series that the structures were drawn on."
            )
        placed.append((float(heights.mean()), indices[:, :2]))
    placed.sort(key=lambda one: one[0])
    means = np.array([mean for mean, _ in placed])
    for plane in np.split(np.arange(len(placed)), np.flatnonzero(np.diff(means) > _SAME_PLANE) + 1):
        yield float(means[plane].mean()), [placed[index][1] for index in plane]


def _indices(points: np.ndarray, grid: "SimpleITK.Image") -> np.ndarray:
    """Points in millimetres ``(point, xyz)`` as continuous indices of a grid."""
    axes = np.asarray(grid.GetDirection()).reshape(3, 3) * np.asarray(grid.GetSpacing())
    found: np.ndarray = np.linalg.solve(axes, (points - grid.GetOrigin()).T).T
    return found


def even_odd(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie inside an odd number of polygons.

    A centre on a left or upper edge is inside, on a right or lower edge outside, so that polygons side by side share
    no pixel.

    Args:
        polygons: each ``(point, xy)`` in pixels, the centre of the first pixel at 0; closed by itself.
        shape: rows and columns.

    Returns:
        bool ``(y, x)``.
    """
    height, width = shape
    # At every crossing of a row with an edge, all pixels to the right of it change sides.
    changes = np.zeros((height, width + 1), np.int32)
    for polygon in polygons:
        starts, ends = polygon, np.roll(polygon, -1, axis=0)
        for (x0, y0), (x1, y1) in zip(starts, ends, strict=True):
            if y0 > y1:
                x0, y0, x1, y1 = x1, y1, x0, y0
            rows = np.arange(max(int(np.ceil(y0)), 0), min(int(np.ceil(y1)), height))
            if rows.size:
                crossings = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
                np.add.at(changes, (rows, np.clip(np.ceil(crossings), 0, width).astype(int)), 1)
    inside: np.ndarray = changes.cumsum(axis=1)[:, :width] % 2 == 1
    return inside
