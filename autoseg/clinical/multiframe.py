"""Multi-frame and enhanced DICOM files: the volumes in them, and their voxels, through pydicom."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.clinical.headers import DicomHeader
from autoseg.clinical.series import Series
from autoseg.clinical.stacks import LEAST_SLICES, NO_GRID, sheared, uneven
from autoseg.data.geometry import Geometry
from autoseg.utils.errors import AutosegError


def volumes_of_frames(header: DicomHeader, name: str) -> list[Series]:
    """The volumes of a multi-frame file, one an echo, b-value and plane.

    Args:
        header: of the file.
        name: of the series, to be shown.
    """
    bare = Series(name, (header.path,), NO_GRID, header.facts, header.identity, dicom=True)
    if header.is_cut_off:
        return [bare.unusable("its file is cut off; copy it again from the archive")]
    try:
        frames = _frames(header.path)
    except AutosegError as error:
        return [bare.unusable(str(error).rstrip("."))]
    if not frames:
        return [bare.unusable("its frames have no position in space; convert it with another tool and give that file")]
    parts: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        parts[tuple(np.round(frame["orientation"], 2).tolist()), frame["echo"], frame["weighting"]].append(index)
    planes = len({key[0] for key in parts})
    made = []
    for number, ((_, echo, weighting), members) in enumerate(parts.items(), start=1):
        one = bare if len(parts) == 1 else replace(bare, name=f"{name}, part {number}")
        facts = replace(one.facts, planes=planes, diffusion_weighting=weighting or one.facts.diffusion_weighting)
        one = replace(one, facts=facts if echo is None else replace(facts, echo_time=echo))
        orientation = np.asarray(frames[members[0]]["orientation"])
        row, column = orientation[:3], orientation[3:]
        normal = np.cross(row, column)
        places = {index: float(np.dot(frames[index]["position"], normal)) for index in members}
        order: list[int] = []
        for index in sorted(members, key=lambda member: (places[member], member)):
            if not order or places[index] - places[order[-1]] > 1e-2:
                order.append(index)
        remarks = () if len(order) == len(members) else ("several frames lie at one position; the first is taken",)
        stack = np.asarray([frames[index]["position"] for index in order])
        if len(order) < LEAST_SLICES:
            made.append(one.unusable(f"it has {len(order)} slices only"))
            continue
        if fault := uneven(np.asarray([places[index] for index in order])) or sheared(stack, normal):
            made.append(one.unusable(fault))
            continue
        spacing = frames[order[0]]["spacing"]
        distance = (places[order[-1]] - places[order[0]]) / (len(order) - 1)
        grid = Geometry(
            (int(header.number("Columns") or 0), int(header.number("Rows") or 0), len(order)),
            (spacing[1], spacing[0], distance),
            tuple(float(value) for value in stack[0]),
            tuple(float(value) for value in np.column_stack([row, column, normal]).ravel()),
        )
        made.append(replace(one, grid=grid, frames=tuple(order), remarks=remarks))
    return made


def pydicom_or_refuse(why: str) -> Any:
    """The module pydicom.

    Raises:
        AutosegError: it is not installed; says what it is needed for and how to get it.
    """
    try:
        import pydicom
    except ImportError:
        raise AutosegError(f"{why} needs pydicom: pip install 'autoseg[clinical]'.") from None
    return pydicom


def voxels_with_pydicom(series: Series) -> np.ndarray:
    """The voxels of a series ``(z, y, x)``, float32, decompressed by pydicom's handlers and rescaled.

    Raises:
        AutosegError: pydicom or a handler is missing, or a file can't be decoded.
    """
    pydicom = pydicom_or_refuse("a compressed or multi-frame DICOM file")
    slices = []
    for path in series.files:
        found = pydicom.dcmread(path)
        try:
            stored = np.asarray(found.pixel_array, np.float32)
        except Exception as error:  # a handler's own error, or a damaged stream
            reason = str(error).splitlines()[0]
            raise AutosegError(f"{series.name} can't be decoded ({reason}); pip install 'autoseg[clinical]'.") from None
        if series.frames is None:
            slices.append(stored * float(found.get("RescaleSlope", 1)) + float(found.get("RescaleIntercept", 0)))
            continue
        for index in series.frames:
            slope, intercept = _rescaling(found, index)
            slices.append(stored[index] * slope + intercept)
    return np.stack(slices).astype(np.float32)


def _frames(path: Path) -> list[dict[str, Any]]:
    pydicom = pydicom_or_refuse("a multi-frame DICOM file")
    found = pydicom.dcmread(path, stop_before_pixels=True)
    frames = []
    for index in range(int(found.get("NumberOfFrames", 1))):
        position = _of_frame(found, index, "PlanePositionSequence", "ImagePositionPatient")
        orientation = _of_frame(found, index, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacing = _of_frame(found, index, "PixelMeasuresSequence", "PixelSpacing")
        if position is None or orientation is None or spacing is None:
            return []
        echo = _of_frame(found, index, "MREchoSequence", "EffectiveEchoTime")
        weighting = _of_frame(found, index, "MRDiffusionSequence", "DiffusionBValue")
        frames.append(
            {
                "position": np.asarray(position, float),
                "orientation": np.asarray(orientation, float),
                "spacing": (float(spacing[0]), float(spacing[1])),
                "echo": None if echo is None else float(echo),
                "weighting": None if weighting is None else float(weighting),
            }
        )
    return frames


def _of_frame(found: Any, index: int, sequence: str, keyword: str) -> Any:
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = found.get(name)
        if groups:
            group = groups[index] if name.startswith("PerFrame") else groups[0]
            if inner := group.get(sequence):
                return inner[0].get(keyword)
    return None


def _rescaling(found: Any, index: int) -> tuple[float, float]:
    slope = _of_frame(found, index, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _of_frame(found, index, "PixelValueTransformationSequence", "RescaleIntercept")
    return float(found.get("RescaleSlope", 1) if slope is None else slope), float(
        found.get("RescaleIntercept", 0) if intercept is None else intercept
    )
