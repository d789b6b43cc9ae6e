"""Multi-frame and enhanced DICOM files: the volumes in them, and their voxels, through pydicom."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.clinical.headers import DicomHeader
from autoseg.clinical.series import Series
from autoseg.clinical.stacks import NO_GRID, grid_of
from autoseg.data.dicom import CLINICAL, functional_group, import_pydicom, planes_of
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
        normal = np.cross(orientation[:3], orientation[3:])
        places = {index: float(np.dot(frames[index]["position"], normal)) for index in members}
        order: list[int] = []
        for index in sorted(members, key=lambda member: (places[member], member)):
            if not order or places[index] - places[order[-1]] > 1e-2:
                order.append(index)
        remarks = () if len(order) == len(members) else ("several frames lie at one position; the first is taken",)
        spacing = frames[order[0]]["spacing"]
        grid = grid_of(
            np.asarray([frames[index]["position"] for index in order]),
            orientation,
            (int(header.number("Columns") or 0), int(header.number("Rows") or 0)),
            (spacing[1], spacing[0]),
        )
        if isinstance(grid, str):
            made.append(one.unusable(grid))
            continue
        made.append(replace(one, grid=grid, frames=tuple(order), remarks=remarks))
    return made


def voxels_with_pydicom(series: Series) -> np.ndarray:
    """The voxels of a series ``(z, y, x)``, float32, decompressed by pydicom's handlers and rescaled.

    Raises:
        AutosegError: pydicom or a handler is missing, or a file can't be decoded.
    """
    planes = []
    for path in series.files:
        try:
            planes += planes_of(path, series.frames)
        except AutosegError:
            raise
        except Exception as error:  # a handler's own error, or a damaged stream
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise AutosegError(f"{series.name} can't be decoded ({reason}); {CLINICAL}.") from None
    return np.stack(planes).astype(np.float32)


def _frames(path: Path) -> list[dict[str, Any]]:
    found = import_pydicom("a multi-frame DICOM file").dcmread(path, stop_before_pixels=True)
    frames = []
    for index in range(int(found.get("NumberOfFrames", 1))):
        position = functional_group(found, index, "PlanePositionSequence").get("ImagePositionPatient")
        orientation = functional_group(found, index, "PlaneOrientationSequence").get("ImageOrientationPatient")
        spacing = functional_group(found, index, "PixelMeasuresSequence").get("PixelSpacing")
        if position is None or orientation is None or spacing is None:
            return []
        echo = functional_group(found, index, "MREchoSequence").get("EffectiveEchoTime")
        weighting = functional_group(found, index, "MRDiffusionSequence").get("DiffusionBValue")
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
