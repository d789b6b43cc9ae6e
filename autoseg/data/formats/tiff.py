"""TIFF: pictures, and stacks of them, whose spacing nnU-Net keeps in a file beside them."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.data.formats.format import FORMATS, ImageFormat
from autoseg.data.formats.simpleitk import read_header_with_sitk, read_with_sitk, write_with_sitk
from autoseg.data.geometry import Geometry, Header, Image
from autoseg.utils.files import read_json, write_json


def _read_header(path: Path) -> Header:
    header = read_header_with_sitk(path)
    return header._replace(geometry=_with_spacing(path, header.geometry))


def _read(path: Path) -> Image:
    image = read_with_sitk(path)
    geometry = _with_spacing(path, image.geometry)
    if geometry is image.geometry:
        return image
    z, y, x = reversed(geometry.spacing)
    return replace(image, geometry=geometry, spacing=(z, y, x))


def _with_spacing(path: Path, geometry: Geometry) -> Geometry:
    """The geometry with the spacing that ``CASE.json`` holds for a stack ``CASE.tif`` or ``CASE_0000.tif``.

    Its key ``spacing`` is in the order of the array, z first (nnU-Net's ``Tiff3DIO``).
    """
    if geometry.dimension != 3:
        return geometry
    stem = re.sub(r"\.tiff?$", "", path.name, flags=re.I)
    for name in dict.fromkeys((stem, re.sub(r"_\d{4}$", "", stem))):
        file = path.with_name(f"{name}.json")
        if file.is_file():
            content = read_json(file)
            spacing = content.get("spacing") if isinstance(content, dict) else None
            if spacing is None:
                continue  # a file of something else
            if not (isinstance(spacing, list) and len(spacing) == 3 and all(map(_is_size, spacing))):
                raise ValueError(f"{file} must hold a spacing of three numbers above 0, in mm, z first")
            return replace(geometry, spacing=tuple(float(mm) for mm in reversed(spacing)))
    return geometry


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _write_spacing(path: Path, geometry: Geometry) -> None:
    if geometry.dimension == 3 and not np.allclose(geometry.spacing, 1):
        stem = re.sub(r"\.tiff?$", "", path.name, flags=re.I)
        write_json(path.with_name(f"{stem}.json"), {"spacing": [float(mm) for mm in reversed(geometry.spacing)]})


FORMATS.register(
    "tiff",
    ImageFormat((".tiff", ".tif"), _read_header, _read, write_with_sitk, flat=True, write_beside=_write_spacing),
)
