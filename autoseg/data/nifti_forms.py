"""Where a NIfTI header says that voxels lie: three times (pixdim, qform, sform), and not always the same.

SimpleITK takes the sizes of voxels from pixdim, and the axes from the sform where that is at right angles and has
pixdim's sizes, else from the qform. Here the header is read itself, to say what it contradicts itself in, and to refuse
what SimpleITK replaces by 1 mm.
"""

import math
import struct
from typing import NamedTuple

import numpy as np

from autoseg.data.geometry import Geometry

#: Two descriptions differ where a corner of the image lies more than this many voxels apart.
_APART = 0.5

#: Largest cosine between two axes that are called perpendicular, and share by which two sizes of a voxel may differ:
#: what rounding to float32 and to three decimals leaves.
_PERPENDICULAR, _SAME_SIZE = 1e-3, 1e-3

#: From NIfTI's axes (to the right, to the front, up) to SimpleITK's (to the left, to the back, up).
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class NiftiForms(NamedTuple):
    """What a header says, for the axes x, y and z.

    Attributes:
        size: voxels.
        pixdim: mm.
        qform: from voxels to mm in SimpleITK's axes, 4×4; None where the header has none.
        sform: likewise.
    """

    size: tuple[int, ...]
    pixdim: tuple[float, ...]
    qform: np.ndarray | None
    sform: np.ndarray | None

    @property
    def unusable(self) -> str | None:
        """Why no geometry follows from it, or None."""
        for axis, size, mm in zip("xyz", self.size, self.pixdim, strict=False):
            if not (math.isfinite(mm) and (mm > 0 or (mm == 0 and size == 1))):
                return f"the size of its voxels along {axis} is {mm:g} mm"
        if self.sform is not None and not np.isfinite(self.sform).all():
            return "its sform is not finite"
        return None

    @property
    def sheared(self) -> bool:
        """Whether there is nothing but an sform whose axes are not at right angles."""
        return self.sform is not None and self.qform is None and _sheared(self.sform)

    def remarks(self, taken: Geometry) -> list[str]:
        """What the header contradicts itself in.

        Args:
            taken: the geometry that the file is read with.
        """
        if self.sform is None or not np.isfinite(self.sform).all() or len(self.size) < 3:
            return []
        found = []
        by_sform = self._apart(self.sform, _affine(taken)) <= _APART
        if _sheared(self.sform):
            if not by_sform:
                found.append("the axes of its sform are not at right angles; the qform is taken")
        else:
            sizes = np.linalg.norm(self.sform[:3, :3], axis=0)
            pixdim = np.asarray(self.pixdim)
            if (np.abs(sizes - pixdim) > _SAME_SIZE * pixdim)[np.asarray(self.size) > 1].any():
                found.append(f"voxels of {_mm(pixdim)} by pixdim, of {_mm(sizes)} by the sform; pixdim is taken")
            elif self.qform is not None and (apart := self._apart(self.qform, self.sform)) > _APART:
                signs = np.sign(np.einsum("ij,ij->j", self.qform[:3, :3], self.sform[:3, :3]))
                how = "mirrored against each other" if (signs < 0).any() else f"up to {apart:.3g} voxels apart"
                found.append(
                    f"by its qform and its sform, voxels lie {how}; the {'sform' if by_sform else 'qform'} is taken"
                )
        return found

    def _apart(self, one: np.ndarray, other: np.ndarray) -> float:
        """Largest distance between two positions of a corner, in voxels of the smallest side."""
        index = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)], float)
        index[:, :3] *= np.asarray(self.size) - 1
        distance = np.linalg.norm(index @ (one - other).T, axis=1).max()
        return float(distance / min(mm for mm in self.pixdim if mm > 0))


def nifti_forms(data: bytes) -> NiftiForms | None:
    """What the header of a NIfTI file says, from its :func:`~autoseg.data.nifti.first_bytes`; None for another file."""
    try:
        order = next((o for o in "<>" if struct.unpack_from(f"{o}i", data)[0] in (348, 540)), None)
        if order is None or (data[344:346] not in (b"n+", b"ni") and data[4:6] not in (b"n+", b"ni")):
            return None
        if struct.unpack_from(f"{order}i", data)[0] == 540:
            sizes, pixdim = struct.unpack_from(f"{order}8q", data, 16), struct.unpack_from(f"{order}8d", data, 104)
            codes = struct.unpack_from(f"{order}2i", data, 344)
            quaternion, rows = struct.unpack_from(f"{order}6d", data, 352), struct.unpack_from(f"{order}12d", data, 400)
        else:
            sizes, pixdim = struct.unpack_from(f"{order}8h", data, 40), struct.unpack_from(f"{order}8f", data, 76)
            codes = struct.unpack_from(f"{order}2h", data, 252)
            quaternion, rows = struct.unpack_from(f"{order}6f", data, 256), struct.unpack_from(f"{order}12f", data, 280)
    except struct.error:
        return None
    axes = min(max(sizes[0], 0), 3)
    own = pixdim[1 : 1 + axes]
    sform = _TO_LPS @ np.vstack([np.reshape(rows, (3, 4)), [0, 0, 0, 1]]) if codes[1] > 0 else None
    known = codes[0] > 0 and np.isfinite([*quaternion, *pixdim[:4]]).all()
    qform = _TO_LPS @ _of_quaternion(quaternion, pixdim) if known else None
    return NiftiForms(sizes[1 : 1 + axes], own, qform, sform)


def _of_quaternion(numbers: tuple[float, ...], pixdim: tuple[float, ...]) -> np.ndarray:
    """The qform as a matrix (nifti1.h, method 2)."""
    b, c, d, *offset = numbers
    a = math.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array([pixdim[1], pixdim[2], pixdim[3] * (-1 if pixdim[0] < 0 else 1)])
    affine[:3, 3] = offset
    return affine


def _affine(geometry: Geometry) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(geometry.direction).reshape(3, 3) * np.asarray(geometry.spacing)
    affine[:3, 3] = geometry.origin
    return affine


def _sheared(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.maximum(np.linalg.norm(affine[:3, :3], axis=0), 1e-12)
    cosines = np.abs(axes.T @ axes)[np.triu_indices(3, 1)]
    return bool((cosines > _PERPENDICULAR).any())


def _mm(values: np.ndarray) -> str:
    return "×".join(f"{value:.4g}" for value in values) + " mm"
