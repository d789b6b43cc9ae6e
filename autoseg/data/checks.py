"""Checking a dataset: all its problems at once, and its fingerprint from the same pass over the files."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autoseg.data.boxes import cropping_box, foreground
from autoseg.data.cohort_checks import (
    absent_channels,
    contradictions,
    differences,
    duplicates,
    paths_twice,
    stray_images,
    unseen_labels,
)
from autoseg.data.counts import value_counts
from autoseg.data.dataset import Case, Dataset, LoadedCase
from autoseg.data.description import LabelSource, StructureMasks, label_files
from autoseg.data.file_names import colours_of, image_ending, is_picture
from autoseg.data.fingerprint import CaseFingerprint, Fingerprint, measure_case, pool, without_cases
from autoseg.data.image import Geometry, Image, UnusableImage, geometry_remarks, read_geometry, read_image
from autoseg.data.intensities import doubt_about
from autoseg.data.label_maps import NotALabelMap, label_values
from autoseg.data.lost_headers import lost_header
from autoseg.data.problems import CaseFindings, Problem
from autoseg.data.segments import contradicting_segments
from autoseg.data.structure_masks import read_label_map
from autoseg.utils.errors import AutosegError
from autoseg.utils.parallel import each
from autoseg.utils.text import listed

#: What is wrong where a file is not there, and what to do.
_MISSING = "the file does not exist", "Add it, or take the case out."
_NOT_FETCHED = "the file that it links to does not exist", "Fetch it (git annex get, datalad get) or take the case out."

#: What to do with a file on another grid, and with one that has the geometry of none.
_RESAMPLE = "Register it to that image ('autoseg prepare' does), or resample it onto its grid."
_COPY_HEADER = "'autoseg inspect DATASET --fix FOLDER' writes it anew with the image's header; check that on a picture."


class Examination(NamedTuple):
    """Results of one pass over a dataset.

    Attributes:
        problems: errors first, then in the dataset's order of cases.
        cases: every case that could be measured, labelled or not.
        fingerprint: of the labelled cases among them; None where there are none.
    """

    problems: list[Problem]
    cases: list[CaseFingerprint]
    fingerprint: Fingerprint | None


def check(dataset: Dataset, workers: int | None = None) -> list[Problem]:
    """Find all problems of a dataset.

    Args:
        dataset: as :meth:`autoseg.Dataset.open` returns it.
        workers: processes, each with one case in memory at a time; None for one a core.
    """
    return examine(dataset, workers).problems


def examine(dataset: Dataset, workers: int | None = None, seed: int = 0) -> Examination:
    """Find all problems of a dataset and take its fingerprint, reading each file once.

    Args:
        dataset: as :meth:`autoseg.Dataset.open` returns it.
        workers: processes, each with one case in memory at a time; None for one a core.
        seed: of the fingerprint's sample of voxels.

    Raises:
        UsageError: the meaning of the labels is open.
    """
    dataset.refuse_question()
    cases = (*dataset.cases, *dataset.unlabelled)
    job = partial(_examine_case, dataset=without_cases(dataset), seed=seed)
    found = list(each(job, cases, workers, "Reading"))
    problems = [problem for item in found for problem in item.problems]
    problems += contradictions(dataset)
    problems += paths_twice(cases)
    problems += duplicates(found)
    problems += absent_channels(dataset)
    problems += stray_images(dataset)
    problems += differences(dataset, found)
    problems += [Problem("error", *said) for said in contradicting_segments(dataset)]
    labelled = {case.id for case in dataset.cases}
    measured = [item.measurement for item in found if item.measurement is not None]
    usable = [measurement for measurement in measured if measurement.case.id in labelled]
    fingerprint = pool(dataset, usable) if usable else None
    if fingerprint is not None:
        problems += unseen_labels(dataset, fingerprint)
    if not cases:
        problems.append(Problem("error", "", None, "there is no case", "Compare the files' names with the layout."))
    elif not dataset.cases:
        remedy = "Fine for prediction; training needs labelled cases."
        problems.append(Problem("warning", "", None, "no case has a label", remedy))
    # A stable sort: within a severity, the order of the dataset stays.
    problems.sort(key=lambda problem: problem.severity != "error")
    return Examination(problems, [measurement.case for measurement in measured], fingerprint)


def warnings_in(problems: Iterable[Problem]) -> list[str]:
    """The warnings among problems as lines, those of many cases together."""
    cases: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        if problem.severity == "warning":
            cases.setdefault((problem.what, problem.remedy), []).append(problem.case)
    lines = []
    for (what, remedy), names in cases.items():
        where = listed(names, 3) + (" cases" if len(names) > 3 else "")
        lines.append(f"Warning: {f'{where}: ' if where else ''}{what}. {remedy}")
    return lines


# One case


def _examine_case(case: Case, dataset: Dataset, seed: int) -> CaseFindings:
    found = CaseFindings(case)
    if not case.channels:
        found.add("error", None, "no image of any channel", "Add its images, or take the case out.")
    names = list(dict.fromkeys(source.path for source in case.channels.values()))
    geometries: dict[Path, Geometry] = {}
    for path in case.files:
        header = _header(found, path)
        if header is None:
            continue
        geometry, components, kind = header
        geometries[path] = geometry
        for name, source in case.channels.items():
            if source.path == path:
                found.types[name] = kind
                _components(found, name, path, source.component, components)
    reference = next((path for path in names if path in geometries), None)
    if reference is None:
        return found
    found.geometry = geometries[reference]
    for path, geometry in geometries.items():
        difference = geometry.differs_from(found.geometry)
        if difference is not None:
            what, remedy = f"not on the grid of {reference.name}: {difference}", _RESAMPLE
            if path not in names and lost_header(geometry, found.geometry):
                what, remedy = f"{what}; it seems to have lost its header", _COPY_HEADER
            found.add("error", path, what, remedy)

    voxels, spacing = _channels(found, names, geometries, dataset)
    label = _label(found, case.label, geometries, dataset)
    for path in case.raters.values():
        if path != case.label:
            _label(found, path, geometries, dataset)
    mask = _mask(found, geometries)
    if voxels is None or any(problem.severity == "error" for problem in found.problems):
        return found
    if label is not None:
        _outside(found, voxels, label, mask, dataset)
    loaded = LoadedCase(
        image=voxels,
        present=tuple(name in case.channels for name in dataset.channels),
        spacing=spacing,
        geometry=found.geometry,
        label=label,
        mask=mask,
    )
    found.measurement = measure_case(case.id, loaded, dataset, seed)
    return found


def _header(found: CaseFindings, path: Path) -> tuple[Geometry, int, str] | None:
    if not path.exists():
        found.add("error", path, *(_NOT_FETCHED if path.is_symlink() else _MISSING))
        return None
    try:
        header = read_geometry(path)
    except UnusableImage as error:
        found.add("error", error.path, error.what, error.remedy)
        return None
    except AutosegError:
        found.add("error", path, "can't be read as an image", "Replace the file, or take the case out.")
        return None
    for remark in geometry_remarks(path, header.geometry):
        found.add("warning", path, remark, "Correct the header where that is wrong.")
    return header


def _components(found: CaseFindings, name: str, path: Path, component: int | None, components: int) -> None:
    if (component or 0) >= components:
        found.add(
            "error",
            path,
            f"holds {components} channel(s); {name} should be number {component}",
            "Correct the description of the channels, or the file.",
        )
    elif component is not None and is_picture(image_ending(path)) and colours_of(components) < components:
        found.alpha = True
    elif component is None and components > 1:
        found.add(
            "error",
            path,
            f"holds {components} channels where {name} alone is expected",
            "Describe its channels one by one, or store this one alone.",
        )


def _read(found: CaseFindings, path: Path) -> Image | None:
    try:
        image = read_image(path)
    except UnusableImage as error:
        found.add("error", error.path, error.what, error.remedy)
        return None
    except AutosegError:  # its header was readable, so the rest is cut short or damaged
        found.add("error", path, "the file is incomplete or damaged", "Copy or download it again.")
        return None
    if image.non_finite:
        what = f"{image.non_finite} voxels are NaN or infinite; they are read as 0"
        found.add("warning", path, what, "Right where they are background; else replace the file.")
    return image


def _channels(
    found: CaseFindings, names: Sequence[Path], geometries: dict[Path, Geometry], dataset: Dataset
) -> tuple[np.ndarray | None, tuple[float, float, float]]:
    """Check every channel's voxels; return those on one grid as float32 ``(channel, z, y, x)``."""
    voxels: np.ndarray | None = None
    spacing = (1.0, 1.0, 1.0)
    for path in names:
        image = _read(found, path) if path in geometries else None
        if image is None:
            continue
        if voxels is None:
            voxels = np.zeros((len(dataset.channels), *image.array.shape[1:]), np.float32)
            spacing = image.spacing
        inside = {
            name: image.array[source.component or 0]
            for name, source in found.case.channels.items()
            if source.path == path and (source.component or 0) < len(image.array)
        }
        for name, array in inside.items():
            _intensities(found, name, path, inside)
            if array.shape == voxels.shape[1:]:
                voxels[dataset.channels.index(name)] = array
    return voxels, spacing


def _intensities(found: CaseFindings, name: str, path: Path, inside: Mapping[str, np.ndarray]) -> None:
    """Check one channel of a file, given all that the case has of it."""
    array = inside[name]
    doubt = doubt_about(name, array, (voxels for other, voxels in inside.items() if other != name))
    if doubt is not None:
        found.add(doubt.severity, path, doubt.what, doubt.remedy)
    if doubt is None or not doubt.blank:
        digest = hashlib.blake2b(f"{array.shape}".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(array, np.float32).data)
        found.hashes[name] = digest.hexdigest()


def _label(
    found: CaseFindings, source: LabelSource | None, geometries: dict[Path, Geometry], dataset: Dataset
) -> np.ndarray | None:
    """Check a label map; return it as integers ``(z, y, x)``."""
    files = label_files(source)
    if source is None or not files or any(path not in geometries for path in files):
        return None
    path = files[0]
    image = _united_masks(found, source) if isinstance(source, StructureMasks) else _read(found, source)
    if image is None:
        return None
    if len(image.array) > 1:
        what = f"the label holds {len(image.array)} channels instead of one"
        found.add("error", path, what, "Save it with one channel (a picture: as greyscale, without a palette).")
        return None
    try:
        array = label_values(image)
    except NotALabelMap as error:
        found.add("error", path, str(error), "Save it as integers, and resample labels with nearest neighbour only.")
        return None
    table = value_counts(array)
    unknown = {value: count for value, count in table.items() if value not in dataset.known_values}
    if unknown:
        counted = listed(f"{value} ({count} voxels)" for value, count in unknown.items())
        found.add(
            "error",
            path,
            f"label values that the dataset does not name: {counted}",
            "Name them among the dataset's labels, or correct the file.",
        )
    if not any(value in table for value in dataset.labels.values()):
        found.add("warning", path, "the label is empty", "Right, if there is nothing to segment in this case.")
    return array


def _united_masks(found: CaseFindings, source: StructureMasks) -> Image | None:
    try:
        return read_label_map(source)
    except AutosegError as error:
        found.add("error", source.paths[0], str(error), "Correct the masks, or take the case out.")
        return None


def _mask(found: CaseFindings, geometries: dict[Path, Geometry]) -> np.ndarray | None:
    path = found.case.mask
    image = _read(found, path) if path is not None and path in geometries else None
    if image is None:
        return None
    mask: np.ndarray = image.array[0] > 0
    if not mask.any():
        found.add("warning", path, "the mask is empty; the case is cropped to non-zero voxels", "Replace the file.")
    return mask


def _outside(
    found: CaseFindings, voxels: np.ndarray, label: np.ndarray, mask: np.ndarray | None, dataset: Dataset
) -> None:
    labelled = np.isin(label, list(dataset.labels.values()))
    box = cropping_box(foreground(voxels, mask))
    count = int(labelled.sum() - labelled[box].sum())
    if count:
        what = "mask" if mask is not None else "non-zero image"
        found.add(
            "warning",
            next(iter(label_files(found.case.label)), None),
            f"{count} labelled voxels lie outside the box around the {what} and will be cut off",
            "Correct the label or the mask.",
        )
