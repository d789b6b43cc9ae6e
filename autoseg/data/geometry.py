"""Geometry: where the voxels of a file lie; Image: voxels with their geometry.

Arrays are ``(channel, z, y, x)`` in the closest axis-aligned LPS orientation, whatever the file's own order of axes,
so that a network never sees one case flipped against another. Two-dimensional images keep their orientation and get
``z = 1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

#: Voxels by which directions of two files may bring a corner apart: a tenth shows in no result, and is what the
#: rounding of angles to three decimals does to a small image.
CORNER = 0.1


@dataclass(frozen=True)
class Geometry:
    """Position of a file's voxels in space, as in its header (SimpleITK's x, y, z order; mm)."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def dimension(self) -> int:
        """2 for a flat image, 3 for a volume."""
        return len(self.size)

    @property
    def orientation(self) -> str:
        """The closest axis-aligned orientation as three letters (``LPS``), or ``""`` for a flat image."""
        if self.dimension != 3:
            return ""
        import SimpleITK as sitk

        return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.direction))

    def to_json(self) -> dict[str, list[float]]:
        """Plain lists, for a JSON file."""
        return {
            "size": list(self.size),
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": list(self.direction),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Geometry":
        """The inverse of :meth:`to_json`."""
        return cls(
            tuple(int(n) for n in data["size"]),
            tuple(data["spacing"]),
            tuple(data["origin"]),
            tuple(data["direction"]),
        )

    def differs_from(self, other: "Geometry", tolerance: float = 1e-3) -> str | None:
        """The difference of two geometries as a message, or None if they agree within ``tolerance`` voxels.

        Sizes must be equal, spacings within a thousandth, and origins within a hundredth of the largest voxel side or
        ``tolerance`` of it, whichever is more. Directions agree within a thousandth of a cosine, or where they bring no
        corner of the image further than :data:`CORNER` voxels away.
        """
        if self.size != other.size:
            return f"size {'×'.join(map(str, self.size))} instead of {'×'.join(map(str, other.size))}"
        if not np.allclose(self.spacing, other.spacing, rtol=1e-3, atol=0):
            return f"spacing {_mm(self.spacing)} instead of {_mm(other.spacing)}"
        if (
            not np.allclose(self.direction, other.direction, atol=max(tolerance, 1e-3))
            and self._turned_corners(other) > CORNER
        ):
            return "another orientation of the axes"
        distance = np.abs(np.subtract(self.origin, other.origin)).max()
        if distance > max(tolerance, 1e-2) * max(self.spacing):
            return f"origin {distance:.3g} mm away"
        return None

    def same_voxels(self, other: "Geometry") -> bool:
        """Whether both have the same voxels, whatever the order and direction of their axes.

        Corners may lie a hundredth of the largest voxel side apart where the axes differ, and spacings a thousandth.
        """
        if self.differs_from(other) is None:
            return True
        if self.dimension != other.dimension:
            return False
        along = np.abs(self._axes.T @ other._axes).argmax(axis=1)  # the other's axis along each of these
        if sorted(along) != list(range(self.dimension)) or tuple(np.take(other.size, along)) != self.size:
            return False
        if not np.allclose(self.spacing, np.take(other.spacing, along), rtol=1e-3):
            return False
        distances = np.linalg.norm(self._corners[:, None] - other._corners[None], axis=-1)
        return bool((distances.min(axis=1) < 0.01 * max(other.spacing)).all())

    @property
    def _axes(self) -> np.ndarray:
        """Directions of the axes, in columns."""
        return np.asarray(self.direction).reshape(self.dimension, self.dimension)

    @property
    def _corners(self) -> np.ndarray:
        """Positions in mm of the centres of the outermost voxels."""
        index = np.array(list(np.ndindex(*(2,) * self.dimension))) * (np.array(self.size) - 1)
        found: np.ndarray = np.asarray(self.origin) + (index * self.spacing) @ self._axes.T
        return found

    def _turned_corners(self, other: "Geometry") -> float:
        """How far apart the directions of the axes bring the corners of the image, in voxels of the smallest side."""
        reach = (np.asarray(self.size) - 1) * np.asarray(self.spacing)
        corners = np.array(list(np.ndindex(*(2,) * self.dimension))) * reach
        turned = np.subtract(self.direction, other.direction).reshape(self.dimension, -1)
        return float(np.linalg.norm(corners @ turned.T, axis=1).max() / min(self.spacing))


@dataclass(frozen=True)
class Image:
    """Voxels in canonical (LPS) order and the geometry of the file they came from.

    Attributes:
        array: ``(channel, z, y, x)``.
        spacing: mm per voxel in array order ``(z, y, x)``.
        geometry: the file's own geometry, needed to write a result beside it.
        non_finite: voxels that are NaN or infinite in the file, and 0 here.
        slope: that the file's integers were multiplied by.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    geometry: Geometry
    non_finite: int = 0
    slope: float = 1.0


class Header(NamedTuple):
    """A file's header.

    Attributes:
        geometry: 2D or 3D.
        components: channels in the file, along a 4D file's last axis or of each voxel.
        voxel_type: in words (``"32-bit float"``).
    """

    geometry: Geometry
    components: int
    voxel_type: str


def _mm(values: Sequence[float]) -> str:
    return "×".join(f"{v:.4g}" for v in values) + " mm"
