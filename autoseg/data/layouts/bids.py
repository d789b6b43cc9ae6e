"""BIDS: ``sub-01/[ses-1/]anat/sub-01_T1w.nii.gz``, with label maps or masks below ``derivatives`` or beside the scans.

Names are entities and a suffix (Gorgolewski et al. 2016, and the specification's "Common principles"); label maps are
found by the names of the specification (``_dseg``, ``_label-lesion_mask``), of ISLES (``_msk``) and of the Spinal Cord
Toolbox (``_seg``, ``_gmseg``, ``_lesion``, with ``-manual``).
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.data.description import Case, ChannelFile, Description, LabelSource, StructureMasks
from autoseg.data.file_names import image_ending, is_image, without_ending
from autoseg.data.image import read_geometry
from autoseg.data.layouts.common import inconsistencies_in, refuse_twice, values_of
from autoseg.data.layouts.layout import LAYOUTS, Layout
from autoseg.data.patients import patient_of
from autoseg.data.structure_masks import labels_of_masks
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import say

#: Entities that tell exams apart; all others tell images of one exam apart.
_EXAM = ("sub", "ses")

#: Entity of the contrast agent.
_AGENT = "ce"

#: The Spinal Cord Toolbox's suffixes of masks, and what they are of. ``seg`` is the cord only beside these.
_CORD = {"gmseg": "grey_matter", "wmseg": "white_matter", "seg": "cord"}

#: Maps of probabilities, which are no labels, and masks that only say where the head is.
_NOT_LABELS = re.compile(r"probseg|softseg|boldref", re.I)
_MASK = re.compile(r"desc-(?:brain|head)_mask|brain_?mask", re.I)

#: Suffixes of label maps and masks, wherever they lie.
_MAP = re.compile(r"(?:mask|msk|[a-z]*seg)(?:-manual\d*)?", re.I)

#: Cases whose headers tell whether two images of an exam lie on one grid.
_LOOK_AT = 5


@dataclass(frozen=True)
class _Name:
    """A file's name: its entities, in order, and what follows them."""

    path: Path
    entities: tuple[tuple[str, str], ...]
    rest: tuple[str, ...]

    @property
    def is_scan(self) -> bool:
        """Whether it is an image as acquired: neither derived from one, nor a label map or mask beside it."""
        return len(self.rest) == 1 and _MAP.fullmatch(self.rest[0]) is None

    @property
    def exam(self) -> str:
        """Subject and session."""
        return "_".join(f"{key}-{value}" for key, value in self.entities if key in _EXAM)

    @property
    def run(self) -> str:
        return next((f"run-{value}" for key, value in self.entities if key == "run"), "")

    @property
    def variant(self) -> str:
        """Entities that tell images of one exam apart, as the contrast agent."""
        return "_".join(f"{key}-{value}" for key, value in self.entities if key not in (*_EXAM, "run"))

    @property
    def channel(self) -> str:
        """The suffix, with the contrast agent: the same whatever other images lie beside it."""
        agents = [f"{key}-{value}" for key, value in self.entities if key == _AGENT]
        return "_".join([*agents, self.rest[-1]])

    @property
    def full_channel(self) -> str:
        """The suffix, with all that may tell it from images of the same exam."""
        return "_".join([*([self.variant] if self.variant else []), self.rest[-1]])


def recognise(path: Path) -> bool:
    """Whether a folder holds subjects with images named as in BIDS."""
    return path.is_dir() and next(_images(path), None) is not None


def read(path: Path, label: str | None = None) -> Description:
    """Read the dataset: suffixes (and contrast agents) are the channels; masks that share voxels become regions.

    Args:
        path: folder that holds ``sub-…``.
        label: suffix of the label map, where there are several of which each has several values.

    Raises:
        AutosegError: no image is named as in BIDS, or two files are of one scan, label map or mask.
        UsageError: no label map is called like ``label``.
    """
    images = list(_images(path))
    if not images:
        raise AutosegError(f"{path} has no images named as in BIDS, as sub-01/anat/sub-01_T1w.nii.gz.")
    channels = _channels(images)
    by_channel = Counter((image.exam, channels[image.path]) for image in images)
    with_runs = any(count > 1 for count in by_channel.values())
    suffixes = {image.rest[-1] for image in images}
    scans: dict[str, dict[str, Path]] = defaultdict(dict)
    runs: dict[str, list[_Name]] = defaultdict(list)
    for image in images:
        if image.run:
            runs[image.exam].append(image)
    for image in images:
        for case in _cases_of(image, runs[image.exam], channels) if with_runs else [image.exam]:
            refuse_twice(case, scans[case].get(channels[image.path]), image.path)
            scans[case][channels[image.path]] = image.path
    drawn = _drawn(_derived(path), list(scans), suffixes, with_runs)
    beside = _drawn((name for name in _named(path) if not name.is_scan), list(scans), suffixes, with_runs)
    masks = {**beside.masks, **drawn.masks}
    if not drawn.labels:
        drawn = beside
    named = [channels[image.path] for image in images]
    # Where nothing was drawn, each scan may lie on a grid of its own: whoever reads them takes the channels it knows.
    names = _on_one_grid(dict(scans), named, drawn) if drawn.labels else sorted(set(named))
    label_sources, values, regions = _meaning(drawn.labels, label)
    cases_found = [
        Case(
            id=case,
            channels={name: ChannelFile(path=files[name]) for name in names if name in files},
            label=label_sources.get(case),
            mask=masks.get(case),
            group=patient_of(case),
        )
        for case, files in sorted(scans.items())
        if any(name in files for name in names)
    ]
    with inconsistencies_in(path):
        return Description(
            name=path.resolve().name,
            root=path,
            layout="bids",
            channels=tuple(names),
            labels=values,
            regions=regions,
            cases=tuple(case for case in cases_found if case.label is not None),
            unlabelled=tuple(case for case in cases_found if case.label is None),
            file_ending=image_ending(images[0].path) or ".nii.gz",
        )


def names_of_channel(path: Path) -> list[str]:
    """What a dataset may call the channel of an image, the fullest name first, and last that of the image alone.

    ``acq-3d_ce-gadolinium_T1w`` where T1w comes in several kinds, and ``ce-gadolinium_T1w``; none where the file is not
    named as an image in BIDS.
    """
    name = _parse(path)
    return [] if name is None or not name.is_scan else list(dict.fromkeys([name.full_channel, name.channel]))


def _images(path: Path) -> Iterator[_Name]:
    yield from (name for name in _named(path) if name.is_scan)


def _derived(path: Path) -> Iterator[_Name]:
    """Files of ``derivatives``, those of ``labels`` first."""
    root = path / "derivatives"
    pipelines = [child for child in root.iterdir() if child.is_dir()] if root.is_dir() else []
    for place in (root, *sorted(pipelines, key=lambda child: (child.name != "labels", child.name))):
        yield from _named(place)
        # ISLES has no folder below that of the session.
        for folder in _exam_folders(place):
            yield from _names_in(folder)


def _named(root: Path) -> Iterator[_Name]:
    """Images of subjects: ``sub-*/[ses-*/]KIND/*``."""
    for folder in _exam_folders(root):
        for kind in sorted(child for child in folder.iterdir() if child.is_dir()):
            if not kind.name.startswith((".", "ses-")):
                yield from _names_in(kind)


def _exam_folders(root: Path) -> Iterator[Path]:
    """Folders of subjects and of their sessions."""
    for subject in sorted(root.glob("sub-*")):
        yield from (folder for folder in (subject, *sorted(subject.glob("ses-*"))) if folder.is_dir())


def _names_in(folder: Path) -> Iterator[_Name]:
    for path in sorted(folder.iterdir()):
        if is_image(path) and not path.is_dir() and (name := _parse(path)) is not None:
            yield name


@dataclass
class _Drawn:
    """Label maps (case → kind → file), brain masks (case → file), and suffixes of the scans that they were drawn on."""

    labels: dict[str, dict[str, Path]]
    masks: dict[str, Path]
    on: set[str]


def _drawn(files: Iterable[_Name], cases: Sequence[str], suffixes: set[str], with_runs: bool) -> _Drawn:
    """Sort derived files by case and kind; the first of a kind counts."""
    found = _Drawn({}, {}, set())
    for file in files:
        kind = tuple(part for part in file.rest if part not in suffixes)
        text = "_".join([*(f"{key}-{value}" for key, value in file.entities if key in ("label", "desc")), *kind])
        if not kind or _NOT_LABELS.search(text):
            continue
        found.on |= set(file.rest) & suffixes
        for case in (case for case in cases if _belongs(file, case, with_runs)):
            if _MASK.search(text):
                _take_first(case, found.masks, case, file.path)
            else:
                _take_first(case, found.labels.setdefault(case, {}), _plain(text), file.path)
    return found


def _take_first(case: str, files: dict[str, Path], kind: str, path: Path) -> None:
    """Keep the first file of a kind, of several pipelines'; refuse one that is there in two formats."""
    first = files.setdefault(kind, path)
    if first != path and without_ending(str(first)) == without_ending(str(path)):
        refuse_twice(case, first, path)


def _parse(path: Path) -> _Name | None:
    entities: list[tuple[str, str]] = []
    rest: list[str] = []
    for part in without_ending(path.name).split("_"):
        match = re.fullmatch(r"([a-z]+)-([A-Za-z0-9+]+)", part)
        if match and (not rest or match[1] in ("label", "desc", "space", "res")) and match[1] not in _CORD:
            entities.append((match[1], match[2]))
        else:
            rest.append(part)
    if not entities or entities[0][0] != "sub" or not rest or not all(rest):
        return None
    return _Name(path, tuple(entities), tuple(rest))


def _channels(images: Iterable[_Name]) -> dict[Path, str]:
    """Each image's channel: suffix and contrast agent, with what else tells it apart where a suffix has several kinds.

    The agent is always told: without native scans beside them, enhanced ones would go by the name of native ones.
    """
    variants: dict[str, set[str]] = defaultdict(set)
    images = list(images)
    for image in images:
        variants[image.rest[-1]].add(image.variant)
    found = {}
    for image in images:
        several = len(variants[image.rest[-1]]) > 1
        found[image.path] = image.full_channel if several else image.channel
    return found


def _cases_of(image: _Name, runs: Sequence[_Name], channels: dict[Path, str]) -> list[str]:
    """The cases of an image where each run is one; without a run, all runs that have no other image of its kind.

    Args:
        image: of an exam.
        runs: the exam's images of a run.
        channels: each image's.
    """
    if image.run:
        return [f"{image.exam}_{image.run}"]
    if not runs or any(channels[other.path] == channels[image.path] for other in runs):
        return [image.exam]
    return sorted({f"{image.exam}_{other.run}" for other in runs})


def _belongs(file: _Name, case: str, with_runs: bool) -> bool:
    """Whether a derived file is of a case; one without a run is of all runs."""
    exam, _, run = case.partition("_run-")
    return file.exam == exam and (not with_runs or not file.run or not run or file.run == f"run-{run}")


def _plain(text: str) -> str:
    """The name of what a mask is of: ``label-lesion_mask`` and ``lesion-manual`` are ``lesion``."""
    name = re.sub(r"[-_](?:manual\d*|final)$", "", text)
    name = re.sub(r"^(?:label|desc)-", "", name)
    return re.sub(r"_(?:mask|msk|dseg|seg)$", "", name)


def _on_one_grid(scans: dict[str, dict[str, Path]], channels: list[str], drawn: _Drawn) -> list[str]:
    """The channels that labels were drawn on, and the others that lie on the grid of these; the rest is said."""
    names = sorted(dict.fromkeys(channels))
    told = [name for name in names if name.rpartition("_")[2] in drawn.on]
    first = next((name for name in told or names if told or _under_labels(name, scans, drawn)), names[0])
    left_out = []
    for name in names:
        both = [files for files in scans.values() if first in files and name in files][:_LOOK_AT]
        if name != first and (not both or any(_apart(files[first], files[name]) for files in both)):
            left_out.append(name)
    if left_out:
        say(
            f"{', '.join(left_out)}: left out, as they are not on the grid of {first} (or of other exams); "
            "register them to it to use them."
        )
    return [name for name in names if name not in left_out]


def _under_labels(channel: str, scans: dict[str, dict[str, Path]], drawn: _Drawn) -> bool:
    """Whether the label maps lie on the grid of a channel, as far as the first cases tell."""
    pairs = [
        (scans[case][channel], next(iter(files.values())))
        for case, files in drawn.labels.items()
        if channel in scans[case]
    ]
    return bool(pairs) and not any(_apart(*pair) for pair in pairs[:_LOOK_AT])


def _apart(one: Path, other: Path) -> bool:
    try:
        return read_geometry(one).geometry.differs_from(read_geometry(other).geometry) is not None
    except AutosegError:
        return False  # the check reports it


def _meaning(
    labels: dict[str, dict[str, Path]], wanted: str | None
) -> tuple[dict[str, LabelSource], dict[str, int], dict[str, tuple[int, ...]]]:
    """Each case's label, and the labels and regions: of one label map, or of a mask a structure."""
    kinds = list(dict.fromkeys(kind for files in labels.values() for kind in files))
    if wanted is not None:
        if wanted not in kinds:
            raise UsageError(f"--label {wanted} is none of the label maps there: {', '.join(kinds) or 'none'}.")
        kinds = [wanted]
    if not kinds:
        return {}, {}, {}
    found = {kind: values_of([files[kind] for files in labels.values() if kind in files]) for kind in kinds}
    several = [kind for kind in kinds if len(found[kind]) > 1]
    if several or len(kinds) == 1:
        chosen = (several or kinds)[0]
        if len(kinds) > 1:
            others = ", ".join(kind for kind in kinds if kind != chosen)
            say(f"{chosen} is taken as label map; there are {others}, too, of which --label takes one.")
        sources: dict[str, LabelSource] = {case: files[chosen] for case, files in labels.items() if chosen in files}
        return sources, _names(next(iter(sources.values())), found[chosen], chosen), {}
    structures = {kind: _CORD.get(kind, kind) if set(kinds) & {"gmseg", "wmseg"} else kind for kind in kinds}
    ordered = tuple(sorted(set(structures.values())))
    united: dict[str, StructureMasks] = {
        case: StructureMasks(structures=ordered, masks={structures[kind]: path for kind, path in files.items()})
        for case, files in labels.items()
    }
    values, regions = labels_of_masks(united.values())
    return dict(united), values, regions


def _names(file: LabelSource, values: list[int], kind: str) -> dict[str, int]:
    """Names of a label map's values: from the table beside it (``_dseg.tsv``), or numbered."""
    told: dict[int, str] = {}
    table = Path(without_ending(str(file)) + ".tsv")
    if table.is_file():
        try:
            rows = csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t")
            told = {int(row["index"]): row["name"] for row in rows if row.get("index") and row.get("name")}
        except (ValueError, OSError, csv.Error):
            told = {}
    if len(values) == 1 and not told:
        return {kind: values[0]}
    names = {}
    for value in values or [1]:
        name = told.get(value, f"label_{value}")
        names[name if name not in names else f"{name}_{value}"] = value
    return names


LAYOUTS.register("bids", Layout(recognise, read, rank=35, choices=("label",)))
