"""TIFF: flat pictures, and stacks of slices, whose size of voxels a file beside them holds as nnU-Net has it."""

import math
import re
from dataclasses import replace
from pathlib import Path

from autoseg.data.formats.format import FORMATS, ImageFormat, UnusableImage
from autoseg.data.formats.simpleitk import read_header_with_sitk, read_with_sitk, write_with_sitk
from autoseg.data.geometry import Geometry, Header, Image
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, write_json

#: Millimetres that the size of a pixel may differ from what is taken without a word: what dots per inch are rounded to.
_SAME_SIZE = 1e-3

#: mm between two sizes of a voxel that are the same.
_ROUNDED = 1e-6

#: Key of the file beside a stack: mm along z, y and x.
_KEY = "spacing"


def spacing_file(path: Path) -> Path | None:
    """The file with the size of a stack's voxels, or None: ``CASE.json`` for ``CASE.tif`` and ``CASE_0000.tif``."""
    names = dict.fromkeys((path.stem, re.sub(r"_\d{4}$", "", path.stem)))
    for name in names:
        beside = path.with_name(f"{name}.json")
        if beside.is_file():
            told = read_json(beside)
            if isinstance(told, dict) and _KEY in told:
                return beside
    return None


def _spacing(path: Path) -> tuple[float, float, float] | None:
    beside = spacing_file(path)
    if beside is None:
        return None
    told = read_json(beside)[_KEY]
    try:
        z, y, x = (float(mm) for mm in told)
        if not all(math.isfinite(mm) and mm > 0 for mm in (z, y, x)):
            raise ValueError
    except (TypeError, ValueError):
        what = f'"{_KEY}" in {beside.name} is {told!r}, not the sizes of a voxel along z, y and x in mm'
        raise UnusableImage(path, what, f"Correct {beside.name}.") from None
    return z, y, x


def _placed(geometry: Geometry, path: Path) -> Geometry:
    """A stack's header has dots per inch at most, and no distance of slices: without the file, 1 mm as in nnU-Net."""
    if geometry.dimension != 3:
        return geometry
    z, y, x = _spacing(path) or (1.0, 1.0, 1.0)
    return replace(geometry, spacing=(x, y, z))


def _remarks(path: Path, taken: Geometry) -> list[str]:
    """Whether the header says another size of a stack's pixels than is taken for want of a file beside it."""
    if taken.dimension != 3 or spacing_file(path) is not None:
        return []
    x, y = read_header_with_sitk(path).geometry.spacing[:2]
    if max(abs(x - 1), abs(y - 1)) < _SAME_SIZE:
        return []
    told, beside = f"{y:.4g}×{x:.4g} mm", re.sub(r"_\d{4}$", "", path.stem)
    return [
        f"its header says {told} and nothing of slices; without {beside}.json beside it voxels are taken as 1×1×1 mm"
    ]


def _read_header(path: Path) -> Header:
    header = read_header_with_sitk(path)
    return header._replace(geometry=_placed(header.geometry, path))


def _read(path: Path) -> Image:
    image = read_with_sitk(path)
    geometry = _placed(image.geometry, path)
    if geometry == image.geometry:
        return image
    x, y, z = geometry.spacing
    return replace(image, geometry=geometry, spacing=(z, y, x))


def _write_spacing(path: Path, geometry: Geometry) -> None:
    """Write the size of a stack's voxels beside it, unless that is what a reader takes already; other keys stay.

    Raises:
        AutosegError: the file beside it holds something else.
    """
    if geometry.dimension != 3:
        return
    wanted = tuple(reversed(geometry.spacing))
    taken = _spacing(path) or (1.0, 1.0, 1.0)
    if max(abs(one - other) for one, other in zip(wanted, taken, strict=True)) <= _ROUNDED:
        return
    beside = path.with_suffix(".json")
    told = read_json(beside) if beside.is_file() else {}
    if not isinstance(told, dict):
        raise AutosegError(f"{beside} holds no table of keys that the size of voxels could be added to; move it.")
    write_json(beside, {**told, _KEY: list(wanted)})


FORMATS.register(
    "tiff",
    ImageFormat(
        (".tiff", ".tif"),
        _read_header,
        _read,
        write_with_sitk,
        flat=True,
        remarks=_remarks,
        beside=_write_spacing,
    ),
)
