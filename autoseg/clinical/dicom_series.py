"""DICOM files sorted into volumes: by series UID, plane, echo and kind, then along the slice axis."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoseg.clinical.headers import acquisition_of, patient_of_header
from autoseg.clinical.series import LEAST_SLICES, NO_GRID, Series
from autoseg.data.dicom_headers import DicomHeader, headers_of_frames
from autoseg.data.dicom_stacks import ONE_DIRECTION, PlacedSlices, StackFault, grid_of, normal_of, placed_along
from autoseg.data.formats.format import forbidden
from autoseg.utils.errors import AutosegError

#: Elements that tell two volumes of one series apart that lie at one place: Dixon's images, echoes, inversions, …
_APART = ("ImageType", "EchoTime", "InversionTime", "FlipAngle")

#: Slices by the kind of image.
_Kinds = list[list[DicomHeader]]

_UNPLACED = "its slices have no position in space; convert it with another tool and give that file"


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


def unreadable_files(paths: Sequence[Path]) -> str:
    """The sentence about DICOM files whose header can't be read."""
    locked = sum(forbidden(path) is not None for path in paths)
    if locked:
        return f"you may not read {locked} DICOM file{'s' if locked > 1 else ''}; ask for the right to"
    return f"{len(paths)} DICOM file{'s' if len(paths) > 1 else ''} can't be read (cut off or damaged); copy again"


def _of_group(group: Sequence[DicomHeader]) -> list[Series]:
    """The volumes of one series."""
    made = []
    several = [header for header in group if header.frames > 1]
    for header in several:
        if header.is_cut_off:
            made.append(_bare([header]).unusable("its file is cut off; copy it again from the archive"))
            continue
        try:
            made += _volumes(headers_of_frames(header))
        except AutosegError as error:
            made.append(_bare([header]).unusable(str(error).rstrip(".")))
    slices = [header for header in group if header.frames == 1]
    return [*made, *(_volumes(slices) if slices else [])]


def _volumes(slices: Sequence[DicomHeader]) -> list[Series]:
    """The volumes that slices or frames make: one a size, plane, echo number and b-value, at least."""
    planes: list[tuple[float, ...]] = []
    parts: dict[tuple[object, ...], list[DicomHeader]] = defaultdict(list)
    for header in slices:
        plane = _plane(header.numbers("ImageOrientationPatient"), planes)
        parts[header.size, plane, header.text("EchoNumbers"), header.number("DiffusionBValue")].append(header)
    made = [one for part in parts.values() for one in _volumes_in_plane(part)]
    return [replace(one, facts=replace(one.facts, planes=len(planes))) for one in made]


def _plane(axes: tuple[float, ...], planes: list[tuple[float, ...]]) -> int:
    """Number of the plane of a slice among those known; a new one is added."""
    for number, known in enumerate(planes):
        if len(known) == len(axes) and np.allclose(known, axes, rtol=0, atol=ONE_DIRECTION):
            return number
    planes.append(axes)
    return len(planes) - 1


def _volumes_in_plane(slices: list[DicomHeader]) -> list[Series]:
    bare = _bare(slices)
    if any((header.number("SamplesPerPixel") or 1) > 1 for header in slices):
        return [bare.unusable("it holds colours; it is a picture and no scan")]
    if cut := [header for header in slices if header.is_cut_off]:
        which = ", ".join(header.text("InstanceNumber") or "?" for header in cut)
        return [bare.unusable(f"the file of slice number {which} is cut off; copy it again from the archive")]
    if "MOSAIC" in bare.facts.image_type:
        return [bare.unusable("it is a mosaic, whose tiles are its slices; unpack it with dcm2niix and give that file")]
    unique = {_identity(header): header for header in slices}
    copies = len(slices) - len(unique)
    slices = list(unique.values())
    axes = slices[0].numbers("ImageOrientationPatient")
    positions = [header.numbers("ImagePositionPatient") for header in slices]
    if len(axes) != 6 or any(len(position) != 3 for position in positions):
        return [bare.unusable(_UNPLACED)]
    if len({header.pixel_spacing for header in slices}) > 1 or slices[0].pixel_spacing is None:
        return [bare.unusable("its header gives its pixels no size, or several; convert it and give that file")]
    normal = normal_of(axes)
    if isinstance(normal, StackFault):
        return [bare.unusable(str(normal))]
    placed = placed_along(np.asarray(positions), normal, [_when(header) for header in slices])
    if (places := len(placed.counts)) < LEAST_SLICES:
        return [bare.unusable(f"it has {places} slices only")]
    if placed.counts.max() > 1:
        whole, incomplete = _apart(slices, placed)
        if whole:
            made = [one for kind in whole for one in _volumes_in_plane(kind)]
            return [*made, *(_bare(kind).unusable(_lacking(kind, places)) for kind in incomplete)]
    remarks = (f"{copies} files are copies of others and are left out",) if copies else ()
    return [_volume(_Measured(slices, placed, remarks), bare)]


@dataclass(frozen=True)
class _Measured:
    """Slices of one kind and plane, in order, each place once or several times."""

    slices: list[DicomHeader]
    placed: PlacedSlices
    remarks: tuple[str, ...]

    def firsts(self, members: Iterable[int]) -> list[DicomHeader]:
        """The first slice of each place, of those with these numbers in order."""
        found: dict[int, DicomHeader] = {}
        for at in members:
            found.setdefault(int(self.placed.places[at]), self.slices[self.placed.order[at]])
        return list(found.values())


def _volume(measured: _Measured, bare: Series) -> Series:
    counts, remarks = measured.placed.counts, measured.remarks
    firsts = measured.firsts(range(len(measured.slices)))
    chosen = firsts if counts.max() == 1 else _of_one_measurement(measured)
    often = str(counts.max()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    if chosen is None and counts.min() == np.median(counts) == 1:
        twice = int(np.sum(counts > 1))
        return bare.unusable(f"{twice} of its positions have more than one slice; take the duplicates out")
    if chosen is None:
        return bare.unusable(
            f"it was measured {often} times, and no measurement has all of its {len(counts)} slices; copy it again "
            "from the archive, or give another series"
        )
    if counts.max() > 1:
        which = "the first" if chosen == firsts else "the first that is complete"
        remarks = (*remarks, f"it was measured {often} times; {which} is taken")
    first = chosen[0]
    grid = grid_of(
        np.asarray([header.numbers("ImagePositionPatient") for header in chosen]),
        first.numbers("ImageOrientationPatient"),
        first.size,
        first.pixel_spacing or (1.0, 1.0),
    )
    if isinstance(grid, StackFault):
        return bare.unusable(str(grid))
    frames = tuple(header.frame for header in chosen if header.frame is not None)
    return replace(
        bare,
        files=(first.path,) if frames else tuple(header.path for header in chosen),
        frames=frames or None,
        grid=grid,
        facts=replace(acquisition_of(first), repetitions=int(counts.max())),
        remarks=remarks,
    )


def _of_one_measurement(measured: _Measured) -> list[DicomHeader] | None:
    """A slice a place where places have several: the first of each, unless that would mix measurements.

    A measurement is a kind of image of one time and acquisition. Where acquisitions are parts of a stack (packages,
    interleaved slices, a number a slice), the first ones are taken whole, and nothing is mixed. Where a part of one
    would be taken, as after one that was stopped, it is the first measurement with all places.

    Returns:
        None where the first of each place mix measurements, and none is complete.
    """
    placed, counts = measured.placed, measured.placed.counts
    ordered = [measured.slices[index] for index in placed.order]
    places = [int(place) for place in placed.places]
    differing: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for place, header in zip(places, ordered, strict=True):
        for keyword in _APART:
            differing[(keyword, place, *_when(header)[:2])].add(header.text(keyword))
    # Those that vary from slice to slice only, as the inversion time may, tell no kinds apart.
    telling = sorted({str(key[0]) for key, texts in differing.items() if len(texts) > 1})
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for at, header in enumerate(ordered):
        groups[(*_when(header)[:2], *(header.text(keyword) for keyword in telling))].append(at)
    taken = set(np.flatnonzero(np.diff(placed.places, prepend=-1)).tolist())
    whole: list[list[int]] = []
    mixed = False
    for members in sorted(groups.values(), key=lambda members: min(_when(ordered[at]) for at in members)):
        own = Counter(places[at] for at in members)
        regular = min(own.values()) == max(own.values()) or min(own.values()) > 1
        if regular and len(own) == len(counts):
            whole.append(members)
        used = {places[at] for at in taken.intersection(members)}
        mixed = mixed or (bool(used) and not (regular and used == set(own)))
    doubled = counts.min() == np.median(counts) == 1  # a few slices: it is not known which of them belong together
    if not mixed and not doubled:
        return measured.firsts(range(len(ordered)))
    if whole:
        return measured.firsts(whole[0])
    return measured.firsts(range(len(ordered))) if counts.min() == counts.max() else None


def _apart(slices: Sequence[DicomHeader], placed: PlacedSlices) -> tuple[_Kinds, _Kinds]:
    """Slices that lie at one place by the kind of image: whole volumes, and kinds that lack slices of these.

    Returns:
        None of them where no element tells them apart.
    """
    counts = placed.counts
    place_of = dict(zip(placed.order, placed.places.tolist(), strict=True))
    ways = []
    for keyword in _APART:
        parts: dict[str, list[int]] = defaultdict(list)
        for index, header in enumerate(slices):
            parts[header.text(keyword)].append(index)
        if len(parts) > 1:
            ways.append(list(parts.values()))
    for parted in ways:
        if all(len(part) >= len(counts) for part in parted):
            return [[slices[index] for index in part] for part in parted], []
    for parted in ways if counts.min() < counts.max() else []:
        sorted_out: tuple[_Kinds, _Kinds] = [], []
        for part in parted:
            lacks = len({place_of[index] for index in part}) < len(counts)
            sorted_out[lacks].append([slices[index] for index in part])
        if sorted_out[0]:
            return sorted_out
    return [], []


def _lacking(slices: Sequence[DicomHeader], places: int) -> str:
    """What is wrong with a kind of image that lacks slices which others of its series have."""
    there = len({header.text("ImagePositionPatient") for header in slices})
    return f"it has {there} slices where other images of its series have {places}; copy it again from the archive"


def _bare(slices: Sequence[DicomHeader]) -> Series:
    """A series without a grid yet."""
    first = slices[0]
    number = first.number("SeriesNumber")
    name = "a series without number" if number is None else f"series {int(number)}"
    files = tuple(dict.fromkeys(header.path for header in slices))
    return Series(name, files, NO_GRID, acquisition_of(first), patient_of_header(first), dicom=True)


def _identity(header: DicomHeader) -> tuple[object, ...]:
    """What copies of one slice have in common: some tools give all slices of a series one UID."""
    own = header.text("SOPInstanceUID") or str(header.path)
    return own, header.frame, header.text("ImagePositionPatient"), header.text("InstanceNumber")


def _when(header: DicomHeader) -> tuple[float, float, float]:
    """What repetitions of a slice are in order of."""
    keys = ("TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber")
    first, second, third = (header.number(key) or 0 for key in keys)
    return first, second, third
