"""Medical Segmentation Decathlon: ``dataset.json`` lists images and labels; a 4D image holds all channels."""

from pathlib import Path
from typing import Any

from autoseg.data.description import Case, ChannelFile, Description, label_files
from autoseg.data.file_names import image_ending
from autoseg.data.layouts.common import (
    by_number,
    description_file,
    inconsistencies_in,
    read_description,
    unique,
    whole,
)
from autoseg.data.layouts.layout import LAYOUTS, Layout
from autoseg.data.patients import patient_of
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json


def recognise(path: Path) -> bool:
    """Whether ``path`` is a folder (or its ``dataset.json``) with a ``training`` list."""
    data = read_description(path)
    return data is not None and isinstance(data.get("training"), list)


def read(path: Path) -> Description:
    """Read the dataset; cases of the ``test`` list become unlabelled ones where their images exist.

    Raises:
        AutosegError: ``dataset.json`` is missing or does not say what it must.
    """
    file = description_file(path)
    data = read_json(file)
    if not isinstance(data, dict) or not isinstance(data.get("training"), list):
        raise AutosegError(f'{file} has no "training" list of images and labels; it is no Decathlon dataset.')
    root = file.parent
    modalities = by_number(data.get("modality", {"0": "image"}), "modality", file)
    channels = unique(modalities)
    labels, ignore = _labels(data.get("labels", {}), file)

    cases: list[Case] = []
    unlabelled: list[Case] = []
    for number, entry in enumerate(data["training"]):
        image, label = _entry(entry, f"training[{number}]", file)
        case = _case(root, image, label, channels)
        (unlabelled if label is None else cases).append(case)
    names = {case.id for case in (*cases, *unlabelled)}
    for number, entry in enumerate(data.get("test", [])):
        image, _ = _entry(entry, f"test[{number}]", file)
        case = _case(root, image, None, channels)
        # The Decathlon's test list stays in dataset.json when only the training part was downloaded.
        if (root / image).is_file() and case.id not in names:
            unlabelled.append(case)
    endings = [image_ending(path) for case in cases for path in label_files(case.label)]
    with inconsistencies_in(file):
        return Description(
            name=str(data.get("name") or root.resolve().name),
            root=root,
            layout="msd",
            channels=tuple(channels),
            modalities=dict(zip(channels, modalities, strict=True)),
            labels=labels,
            ignore_label=ignore,
            cases=tuple(cases),
            unlabelled=tuple(unlabelled),
            file_ending=(endings[0] if endings else None) or ".nii.gz",
        )


def _labels(table: Any, file: Path) -> tuple[dict[str, int], int | None]:
    if not isinstance(table, dict):
        raise AutosegError(f'{file}: "labels" must be a table as {{"0": "background", "1": "tumour"}}.')
    labels: dict[str, int] = {}
    ignore = None
    for key, name in table.items():
        value = whole(key, f'label "{name}"', file)
        if str(name).lower() == "ignore":
            ignore = value
        elif value != 0:
            if str(name) in labels:
                raise AutosegError(f"{file}: two labels are called {name}; give each its own name.")
            labels[str(name)] = value
    return labels, ignore


def _entry(entry: Any, where: str, file: Path) -> tuple[str, str | None]:
    if isinstance(entry, str):
        return entry, None
    if isinstance(entry, dict) and isinstance(entry.get("image"), str):
        label = entry.get("label")
        return entry["image"], label if isinstance(label, str) else None
    raise AutosegError(f'{file}: {where} must be a table with "image" and "label" (file names).')


def _case(root: Path, image: str, label: str | None, channels: list[str]) -> Case:
    path = root / image
    ending = image_ending(path) or path.suffix
    case_id = path.name.removesuffix(ending)
    several = len(channels) > 1
    return Case(
        id=case_id,
        channels={
            name: ChannelFile(path=path, component=index if several else None) for index, name in enumerate(channels)
        },
        label=None if label is None else root / label,
        group=patient_of(case_id),
    )


LAYOUTS.register("msd", Layout(recognise, read, rank=20))
