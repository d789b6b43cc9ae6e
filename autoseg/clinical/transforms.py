"""The way from an exam's series to its prepared case and back, stored beside the case as ``transforms.json``."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoseg.data.geometry import Geometry
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import first_fault, read_json, write_json

#: File beside a prepared case.
TRANSFORMS_FILE = "transforms.json"

#: Points of space as 4×4 matrices, row by row.
_IDENTITY = tuple(float(value) for value in np.eye(4).ravel())

#: Interpolated weights of two label values that differ by less are equal: positions are rounded.
_EQUAL = 1e-3


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpatialGrid(_Model):
    """A grid in space, in SimpleITK's order x, y, z; mm."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...] = Field(min_length=9, max_length=9)

    @classmethod
    def of(cls, grid: Geometry | sitk.Image) -> "SpatialGrid":
        """The grid of an image or of a geometry."""
        if isinstance(grid, sitk.Image):
            found = grid.GetSize(), grid.GetSpacing(), grid.GetOrigin(), grid.GetDirection()
        else:
            found = grid.size, grid.spacing, grid.origin, grid.direction
        size, spacing, origin, direction = found
        return cls(size=size, spacing=spacing, origin=origin, direction=direction)

    @property
    def geometry(self) -> Geometry:
        """The same, as images have it."""
        return Geometry(self.size, self.spacing, self.origin, self.direction)

    def empty(self, pixel: int = sitk.sitkUInt8) -> sitk.Image:
        """An image of zeros on this grid."""
        image = sitk.Image(list(self.size), pixel)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


class StoredSeries(_Model):
    """One original series of a prepared case.

    Attributes:
        channel: that it became; None for one that is not used.
        grid: of the original files.
        to_output: 4×4 matrix, row by row, that takes a point of the scanner's space (LPS, mm) to the output space.
        measure: quality of the alignment and whether it was moved, for the quality page.
    """

    channel: str | None = None
    grid: SpatialGrid
    to_output: tuple[float, ...] = Field(_IDENTITY, min_length=16, max_length=16)
    measure: dict[str, Any] = Field(default_factory=dict)


class PreparedCase(_Model):
    """What is stored beside a prepared case.

    Attributes:
        case: its name.
        patient: pseudonym.
        day: days since the patient's first exam of the dataset; None where dates are unknown.
        reference: name of the series that defines the output space.
        output: grid of the prepared images.
        series: name → original series, those that became no channel, too.
        unplaced: name of a series whose way to the output space is unknown → why.
        filled: channel → the channel that it was copied from.
        flags: what is doubtful about the case, in sentences.
        source: fingerprint of the files and settings that it was made of, without their names.
        written: image of the case's folder → fingerprint of its content, as the preparation wrote it.
    """

    version: int = 1
    case: str
    patient: str = ""
    day: int | None = None
    reference: str
    output: SpatialGrid
    series: dict[str, StoredSeries]
    unplaced: dict[str, str] = Field(default_factory=dict)
    filled: dict[str, str] = Field(default_factory=dict)
    flags: tuple[str, ...] = ()
    source: str = ""
    written: dict[str, str] = Field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write it into a case's folder; return the file."""
        write_json(folder / TRANSFORMS_FILE, self.model_dump(mode="json"))
        return folder / TRANSFORMS_FILE

    @classmethod
    def read(cls, path: str | Path) -> "PreparedCase":
        """Read it from a case's folder, or its file.

        Raises:
            AutosegError: it is missing or damaged.
        """
        path = Path(path)
        path = path / TRANSFORMS_FILE if path.is_dir() else path
        if not path.is_file():
            raise AutosegError(f"{path} does not exist; prepare the exam with 'autoseg prepare' to have one.")
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise AutosegError(f"{path} is damaged ({first_fault(error)}); prepare the exam again.") from None

    def name_of(self, wanted: str) -> str:
        """The name of the series of this name or number, or of the one that became the channel of this name.

        Raises:
            UsageError: there is none; lists those that there are.
        """
        for name in (wanted, f"series {wanted}"):
            if name in self.series:
                return name
            if name in self.unplaced:
                raise UsageError(f"--to-native {wanted}: {self.case} has no way to {name}: {self.unplaced[name]}.")
        for name, stored in self.series.items():
            if stored.channel == self.filled.get(wanted, wanted):
                return name
        known = [name + (f" ({s.channel})" if s.channel else "") for name, s in self.series.items()]
        raise UsageError(f"--to-native {wanted}: {self.case} has no such series; it has {', '.join(known)}.")

    def find(self, wanted: str) -> StoredSeries:
        """The series of this name or number, or the one that became the channel of this name.

        Raises:
            UsageError: there is none; lists those that there are.
        """
        return self.series[self.name_of(wanted)]


def affine_of(transform: sitk.Transform) -> tuple[float, ...]:
    """The 4×4 matrix of a rigid or affine transform, row by row."""
    origin = np.asarray(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis in range(3):
        point = [0.0, 0.0, 0.0]
        point[axis] = 1.0
        matrix[:3, axis] = np.asarray(transform.TransformPoint(point)) - origin
    matrix[:3, 3] = origin
    return tuple(float(value) for value in matrix.ravel())


def transform_of(matrix: tuple[float, ...] | np.ndarray) -> sitk.AffineTransform:
    """The transform of a 4×4 matrix."""
    square = np.asarray(matrix, float).reshape(4, 4)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(square[:3, :3].ravel().tolist())
    transform.SetTranslation(square[:3, 3].tolist())
    return transform


def inverse_of(matrix: tuple[float, ...] | np.ndarray) -> tuple[float, ...]:
    """The inverse of a 4×4 matrix, row by row."""
    return tuple(float(v) for v in np.linalg.inv(np.asarray(matrix, float).reshape(4, 4)).ravel())


def resample_labels(labels: sitk.Image, grid: SpatialGrid, to_labels: sitk.Transform) -> sitk.Image:
    """A label map on another grid: the value whose mask, interpolated linearly, is largest there.

    Where two are equal, as midway between two voxels (a grid of twice the spacing lies so), the nearest voxel decides:
    to give all of these places to the background made a sphere of 20 mm 2.5 % smaller from 0.5 to 1 mm.

    Args:
        labels: integers.
        grid: to sample on.
        to_labels: takes a point of ``grid``'s space to that of ``labels``.

    Returns:
        An image of the labels' pixel type; 0 outside of the label map.
    """
    values = np.unique(sitk.GetArrayViewFromImage(labels))
    target = grid.empty(labels.GetPixelID())
    if len(values) == 0 or (len(values) == 1 and values[0] == 0):
        return target
    shape = tuple(reversed(grid.size))
    best, chosen = np.zeros(shape, np.float32), np.zeros(shape, values.dtype)
    second, inside = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for value in values[values != 0]:
        mask = sitk.Cast(labels == int(value), sitk.sitkFloat32)
        weight = sitk.GetArrayFromImage(sitk.Resample(mask, target, to_labels, sitk.sitkLinear, 0.0))
        inside += weight
        second = np.maximum(second, np.minimum(best, weight))
        better = weight > best
        best[better], chosen[better] = weight[better], value
    # What is left of one is the background's weight.
    chosen[best <= 1 - inside] = 0
    equal = np.maximum(best, 1 - inside) - np.maximum(second, np.minimum(best, 1 - inside)) < _EQUAL
    nearest = sitk.Resample(labels, target, to_labels, sitk.sitkNearestNeighbor, 0)
    chosen[equal] = sitk.GetArrayViewFromImage(nearest)[equal]
    result = sitk.GetImageFromArray(chosen)
    result.CopyInformation(target)
    return sitk.Cast(result, labels.GetPixelID())


def to_native(labels: sitk.Image, case: PreparedCase, series: str) -> sitk.Image:
    """A label map of a prepared case in the geometry of one of its original series.

    Args:
        labels: on the case's output grid, or any other in the output space.
        case: how the case was made.
        series: name of the series, or of the channel that it became.

    Raises:
        UsageError: the case has no such series.
    """
    stored = case.find(series)
    return resample_labels(labels, stored.grid, transform_of(stored.to_output))
