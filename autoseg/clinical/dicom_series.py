"""DICOM files sorted into series: by series UID, echo, repetition and plane, then along the slice axis."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.clinical.headers import DicomHeader
from autoseg.clinical.multiframe import volumes_of_frames
from autoseg.clinical.series import Series
from autoseg.clinical.stacks import LEAST_SLICES, NO_GRID, grid_of

#: mm within which two slices lie at one position.
_SAME_PLACE = 1e-2


def sort_series(headers: Iterable[DicomHeader]) -> list[Series]:
    """The volumes that image files make, the unusable ones with the reason.

    Args:
        headers: of files that hold voxels.
    """
    groups: dict[str, list[DicomHeader]] = defaultdict(list)
    for header in headers:
        groups[header.text("SeriesInstanceUID") or str(header.path.parent)].append(header)
    series = [one for group in groups.values() for one in _of_group(group)]
    names = Counter(one.name for one in series)
    seen: Counter[str] = Counter()
    for index, one in enumerate(series):
        if names[one.name] > 1:
            seen[one.name] += 1
            series[index] = replace(one, name=f"{one.name}.{seen[one.name]}")
    return series


def _of_group(group: Sequence[DicomHeader]) -> list[Series]:
    several = [header for header in group if header.frames > 1]
    made = [volume for header in several for volume in volumes_of_frames(header, _name(header))]
    slices = [header for header in group if header.frames == 1]
    if not slices:
        return made
    parts: dict[tuple[object, ...], list[DicomHeader]] = defaultdict(list)
    for header in slices:
        parts[_part(header)].append(header)
    planes = len({key[2] for key in parts})
    for part in parts.values():
        one = _volume(part)
        made.append(replace(one, facts=replace(one.facts, planes=planes)) if planes > 1 else one)
    return made


def _part(header: DicomHeader) -> tuple[object, ...]:
    """What the slices of one volume have in common."""
    orientation = tuple(round(value, 2) + 0.0 for value in header.numbers("ImageOrientationPatient"))
    kinds = tuple(
        value for value in header.parts("ImageType")[2:] if value in ("M", "P", "R", "I", "PHASE", "MAGNITUDE")
    )
    echo = header.number("EchoTime") if header.text("EchoNumbers") not in ("", "1") else None
    time = header.text("TemporalPositionIdentifier")
    weighting = header.number("DiffusionBValue")
    return (
        header.text("Rows"),
        header.text("Columns"),
        orientation,
        header.text("EchoNumbers"),
        echo,
        time,
        weighting,
        kinds,
    )


def _name(header: DicomHeader) -> str:
    number = header.text("SeriesNumber")
    return f"series {number}" if number else "a series without number"


def _volume(slices: list[DicomHeader]) -> Series:
    first = slices[0]
    bare = Series(_name(first), tuple(h.path for h in slices), NO_GRID, first.facts, first.identity, dicom=True)
    cut = [header for header in slices if header.is_cut_off]
    if cut:
        which = ", ".join(header.text("InstanceNumber") or "?" for header in cut)
        return bare.unusable(f"the file of slice number {which} is cut off; copy it again from the archive")
    remarks = []
    unique = {header.text("SOPInstanceUID") or str(header.path): header for header in slices}
    if len(unique) < len(slices):
        remarks.append(f"{len(slices) - len(unique)} files are copies of others and are left out")
        slices = list(unique.values())
    orientation = first.numbers("ImageOrientationPatient")
    positions = [header.numbers("ImagePositionPatient") for header in slices]
    spacing = first.numbers("PixelSpacing")
    if len(orientation) != 6 or len(spacing) != 2 or any(len(position) != 3 for position in positions):
        return bare.unusable("its slices have no position in space; convert it with another tool and give that file")
    if len(slices) < LEAST_SLICES:
        return bare.unusable(f"it has {len(slices)} slices only")
    places = np.asarray(positions) @ np.cross(orientation[:3], orientation[3:])
    order = sorted(range(len(slices)), key=lambda index: (places[index], _when(slices[index])))
    repeated = _repetitions(places[order])
    if isinstance(repeated, str):
        return bare.unusable(repeated)
    if repeated > 1:
        remarks.append(f"it was measured {repeated} times; the first is taken")
        order = order[::repeated]
    files = tuple(slices[index].path for index in order)
    grid = grid_of(
        np.asarray([positions[index] for index in order]),
        np.asarray(orientation),
        (int(first.number("Columns") or 0), int(first.number("Rows") or 0)),
        (spacing[1], spacing[0]),
    )
    if isinstance(grid, str):
        return bare.unusable(grid)
    facts = replace(first.facts, repetitions=repeated)
    return replace(bare, files=files, grid=grid, facts=facts, remarks=tuple(remarks))


def _when(header: DicomHeader) -> tuple[float, float]:
    return header.number("AcquisitionNumber") or 0, header.number("InstanceNumber") or 0


def _repetitions(places: np.ndarray) -> int | str:
    """How often each position occurs; a fault where that differs between positions."""
    starts = np.flatnonzero(np.diff(places, prepend=-np.inf) > _SAME_PLACE)
    counts = np.diff([*starts, len(places)])
    if len(set(counts.tolist())) == 1:
        return int(counts[0])
    usual = int(np.median(counts))
    twice = int(np.sum(counts > usual))
    if usual == 1:
        return f"{twice} of its positions have more than one slice; take the duplicates out"
    return f"its positions were measured between {counts.min()} and {counts.max()} times; give one volume of it"


def unreadable_files(paths: Sequence[Path]) -> str:
    """The sentence about DICOM files whose header can't be read."""
    return f"{len(paths)} DICOM file{'s' if len(paths) > 1 else ''} can't be read (cut off or damaged); copy again"
