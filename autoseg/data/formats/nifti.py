"""NIfTI: geometry as SimpleITK reads it, voxels decoded once (:mod:`autoseg.data.nifti`)."""

from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np

from autoseg.data.formats.format import FORMATS, ImageFormat, UnusableImage
from autoseg.data.formats.simpleitk import FLAT_SPACING, read_header_with_sitk, read_with_sitk, write_with_sitk
from autoseg.data.geometry import Geometry, Header, Image
from autoseg.data.nifti import PlainHeader, first_bytes, plain_header, stored_voxels
from autoseg.data.nifti_forms import nifti_forms
from autoseg.data.orientation import axes_in

#: SimpleITK's words for a voxel type → numpy's, in which its arrays are.
_TYPES = {
    "8-bit unsigned integer": "u1",
    "8-bit signed integer": "i1",
    "16-bit unsigned integer": "u2",
    "16-bit signed integer": "i2",
    "32-bit unsigned integer": "u4",
    "32-bit signed integer": "i4",
    "64-bit unsigned integer": "u8",
    "64-bit signed integer": "i8",
    "32-bit float": "f4",
    "64-bit float": "f8",
}

_WORDS = {kind: words for words, kind in _TYPES.items()}


def _read_header(path: Path) -> Header:
    start = first_bytes(path)
    forms = nifti_forms(start)
    if forms is not None and forms.unusable is not None:
        raise UnusableImage(path, forms.unusable, "Correct its header, or convert the original again.")
    plain = plain_header(start)
    try:
        if plain is None:
            return read_header_with_sitk(path)
        geometry, components = _geometry_in(path, plain)
    except RuntimeError:
        if forms is not None and forms.sheared:
            what = "its axes are not at right angles (a sheared sform), and it has no qform"
            raise UnusableImage(path, what, "Resample it onto a grid of right angles.") from None
        return read_header_with_sitk(path)  # whose error names the file
    return Header(geometry, components, _WORDS[plain.voxel_type])


def _geometry_in(path: Path, plain: PlainHeader) -> tuple[Geometry, int]:
    """Geometry and channels of a file with a plain header."""
    try:
        return _geometry(plain.geometry)
    except OSError:  # no room in the temporary folder, or no right to write there: that is no fault of the file
        return read_header_with_sitk(path)[:2]


@lru_cache(maxsize=64)
def _geometry(header: bytes) -> tuple[Geometry, int]:
    """Geometry and channels, as SimpleITK reads them from a file of nothing but the header.

    It takes 1 ms for that and up to 4 ms for a compressed file; channels and label map of a case share a geometry.

    Raises:
        OSError: the temporary folder takes no file.
    """
    with NamedTemporaryFile(suffix=".nii") as file:
        file.write(header)
        file.flush()
        return read_header_with_sitk(Path(file.name))[:2]


def _read(path: Path) -> Image:
    """Read all channels, in canonical orientation: what SimpleITK reads, in a third of its time for a small file."""
    header = _read_header(path)
    stored = stored_voxels(path)
    geometry, kind = header.geometry, _TYPES.get(header.voxel_type)
    shape = (header.components, *reversed(geometry.size))
    if stored.array is None or kind is None or stored.array.size != np.prod(shape):
        return read_with_sitk(path)
    array = stored.array.reshape(shape)
    slope = stored.scaling.slope if array.dtype.kind in "ui" and not stored.scaling.intercept else 1.0
    if stored.scaling.changes:
        array = array.astype(kind) * np.float64(stored.scaling.slope) + np.float64(stored.scaling.intercept)
    if geometry.dimension == 2:
        y, x = reversed(geometry.spacing)
        return Image(_copied(array[:, None], kind), (FLAT_SPACING, y, x), geometry, stored.non_finite, slope)
    axes = axes_in("stored", geometry)
    own = tuple(reversed(geometry.spacing))
    z, y, x = (own[int(axis)] for axis in np.argsort(axes.order))
    return Image(_copied(axes.turn_back(array), kind), (z, y, x), geometry, stored.non_finite, slope)


def _remarks(path: Path, taken: Geometry) -> list[str]:
    forms = nifti_forms(first_bytes(path))
    return [] if forms is None else forms.remarks(taken)


def _copied(array: np.ndarray, kind: str) -> np.ndarray:
    return np.array(array, kind, order="C")


FORMATS.register("nifti", ImageFormat((".nii.gz", ".nii"), _read_header, _read, write_with_sitk, remarks=_remarks))
