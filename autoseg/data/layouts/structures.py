"""One folder a case with its scans and, in a folder below, a binary mask a structure, as TotalSegmentator's data."""

import re
from collections.abc import Iterable
from pathlib import Path

from autoseg.data.description import Case, ChannelFile, Description, StructureMasks
from autoseg.data.file_names import image_ending, images_in, without_ending
from autoseg.data.layouts.common import inconsistencies_in, refuse_twice
from autoseg.data.layouts.layout import LAYOUTS, Layout
from autoseg.data.names import SEQUENCES
from autoseg.data.patients import patient_of
from autoseg.data.structure_masks import labels_of_masks
from autoseg.utils.errors import AutosegError

#: Names of the folder of a case's masks.
_MASKS = ("segmentations", "segmentation", "structures", "masks", "segs")

#: Scans beside the masks; other files there (as a combined label map) are none.
_SCANS = {"ct": "ct", "mri": "mri", "mr": "mri", "image": "image", "img": "image", "scan": "image", **SEQUENCES}

#: Modality of a scan by its name; of magnetic resonance, all sequences.
_MODALITIES = {"ct": "CT", "pet": "PET", "image": "image"}

#: Folders between the given one and a case's, at most.
_DEPTH = 2


def recognise(path: Path) -> bool:
    """Whether a folder, or its subfolders, hold case folders with a scan and a folder of masks."""
    return path.is_dir() and any(_case_folders(path, first=True))


def read(path: Path) -> Description:
    """Read the dataset; structures that share voxels in any case become regions.

    Raises:
        AutosegError: no folder is laid out so, no mask can be read, or a case has two files of one scan or mask.
    """
    folders = _case_folders(path)
    if not folders:
        raise AutosegError(f"{path} has no folders of cases as s0001/ct.nii.gz and s0001/segmentations/liver.nii.gz.")
    siblings = {child for folder in folders for child in folder.parent.iterdir() if child.is_dir()}
    everyone = sorted({*folders, *(child for child in siblings if _scans(child) and not child.name.startswith("."))})
    structures = sorted({without_ending(mask.name) for folder in folders for mask in _masks(folder)})
    cases = [_case(path, folder, tuple(structures)) for folder in everyone]
    labelled = tuple(case for case in cases if case.label is not None)
    labels, regions = labels_of_masks(case.label for case in labelled if isinstance(case.label, StructureMasks))
    channels = tuple(dict.fromkeys(channel for case in cases for channel in case.channels))
    ending = image_ending(_masks(folders[0])[0]) or ".nii.gz"
    with inconsistencies_in(path):
        return Description(
            name=path.resolve().name,
            root=path,
            layout="structures",
            channels=channels,
            modalities={name: _MODALITIES.get(name, "MRI") for name in channels},
            labels=labels,
            regions=regions,
            cases=labelled,
            unlabelled=tuple(case for case in cases if case.label is None),
            file_ending=ending,
        )


def _case_folders(path: Path, first: bool = False) -> list[Path]:
    """Folders with a scan and masks; one is enough to recognise the layout."""
    found: list[Path] = []
    level = [path]
    for _ in range(_DEPTH):
        level = [child for folder in level for child in sorted(folder.iterdir()) if _is_folder(child)]
        for folder in level:
            if _scans(folder) and len(_masks(folder)) > 1:
                found.append(folder)
                if first:
                    return found
        if found:
            break
    return found


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _masks(folder: Path) -> list[Path]:
    return next((masks for name in _MASKS if (masks := images_in(folder / name))), [])


def _scans(folder: Path) -> list[tuple[str, Path]]:
    """Channels and their files."""
    told = ((re.sub(r"[^a-z0-9]+", "", without_ending(path.name).lower()), path) for path in images_in(folder))
    return [(_SCANS[word], path) for word, path in told if word in _SCANS]


def _case(root: Path, folder: Path, structures: tuple[str, ...]) -> Case:
    parts = folder.relative_to(root).parts
    case_id = "_".join(parts) or folder.resolve().name
    channels, masks = (
        _once(case_id, files)
        for files in (_scans(folder), [(without_ending(path.name), path) for path in _masks(folder)])
    )
    return Case(
        id=case_id,
        channels={name: ChannelFile(path=path) for name, path in channels.items()},
        label=StructureMasks(structures=structures, masks=masks) if masks else None,
        group=patient_of(case_id),
    )


def _once(case: str, files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in files:
        refuse_twice(case, found.get(name), path)
        found[name] = path
    return found


LAYOUTS.register("structures", Layout(recognise, read, rank=40))
