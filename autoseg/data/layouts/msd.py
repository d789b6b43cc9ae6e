"""Medical Segmentation Decathlon: ``dataset.json`` lists images and labels; a 4D image holds all channels.

Read likewise: nnU-Net v1's raw data, where an image of the list stands for the files ``CASE_0000.nii.gz``, one a
channel, and MONAI's datalists, where a case may have a list of images, one a channel, and labels may have no names.
"""

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

from autoseg.data.description import Case, ChannelFile, Description, label_files
from autoseg.data.file_names import image_ending, stem
from autoseg.data.layouts.common import (
    by_number,
    description_file,
    inconsistencies_in,
    other_scans,
    read_description,
    unique,
    values_of,
    whole,
)
from autoseg.data.layouts.layout import LAYOUTS, Layout
from autoseg.data.names import sequence_in
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
    entries = [_entry(entry, f"training[{number}]", file) for number, entry in enumerate(data["training"])]
    tested = data.get("test", data.get("testing", []))
    if not isinstance(tested, list):
        raise AutosegError(f'{file}: "test" must be a list of images.')
    test = [_entry(entry, f"test[{number}]", file) for number, entry in enumerate(tested)]
    if "modality" in data:
        modalities = by_number(data["modality"], "modality", file)
    else:
        modalities = _guessed_channels([images for images, _ in (*entries, *test)])
    channels = unique(modalities)
    wrong = next((images for images, _ in (*entries, *test) if len(images) not in (1, len(channels))), None)
    if wrong is not None:
        raise AutosegError(f"{file}: {wrong[0]} and its list are {len(wrong)} images, for {len(channels)} channel(s).")
    by_folder = _told_by_folder([images[0] for images, _ in (*entries, *test)])

    cases: list[Case] = []
    unlabelled: list[Case] = []
    namesakes: list[Path] = []
    for images, label in entries:
        case = _case(root, images, label, channels, by_folder)
        (unlabelled if label is None else cases).append(case)
    trained = {case.id: case for case in (*cases, *unlabelled)}
    for images, _ in test:
        case = _case(root, images, None, channels, by_folder)
        # The Decathlon's test list stays in dataset.json when only the training part was downloaded.
        if all(source.path.is_file() for source in case.channels.values()):
            if case.id in trained:
                namesakes += other_scans(case.files, trained[case.id].files)
            else:
                unlabelled.append(case)
    if "labels" in data:
        labels, ignore = _labels(data["labels"], file)
    else:
        labels, ignore = {f"label_{value}": value for value in values_of(case.label for case in cases)}, None
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
            namesakes=tuple(namesakes),
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


def _entry(entry: Any, where: str, file: Path) -> tuple[list[str], str | None]:
    """The images and the label of a case."""
    if isinstance(entry, str):
        return [entry], None
    images = entry.get("image") if isinstance(entry, dict) else None
    if isinstance(images, str):
        images = [images]
    if isinstance(images, list) and images and all(isinstance(image, str) for image in images):
        label = entry.get("label")
        return images, label if isinstance(label, str) else None
    raise AutosegError(f'{file}: {where} must be a table with "image" and "label" (file names).')


def _guessed_channels(cases: list[list[str]]) -> list[str]:
    """Channels of a datalist that does not name them: sequences in the file names, or numbers."""
    first = max(cases, key=len, default=["image"])
    if len(first) == 1:
        return ["image"]
    found = [sequence_in(stem(Path(image))) or f"channel_{number}" for number, image in enumerate(first)]
    return found if len(set(found)) == len(found) else [f"channel_{number}" for number in range(len(first))]


def _told_by_folder(images: list[str]) -> bool:
    """Whether cases are told by their folders, as all images have one name."""
    paths = [Path(image) for image in images]
    return len(paths) > 1 and len({path.name for path in paths}) == 1 and all(path.parent.name for path in paths)


def _shared(names: list[str]) -> str:
    """What names begin with alike, up to where a word of each ends."""
    words = [re.split(r"([_\-. ]+)", name) for name in names]
    shared = list(takewhile(lambda parts: len(set(parts)) == 1, zip(*words, strict=False)))
    return "".join(parts[0] for parts in shared).rstrip("_-. ")


def _case(root: Path, images: list[str], label: str | None, channels: list[str], by_folder: bool) -> Case:
    paths = [root / image for image in images]
    if by_folder:
        case_id = paths[0].parent.name
    elif len(paths) > 1:
        case_id = _shared([stem(path) for path in paths]) or paths[0].parent.name
    else:
        case_id = stem(paths[0])
    if len(paths) > 1:
        sources = [ChannelFile(path=path) for path in paths]
    elif not paths[0].exists() and (numbered := _numbered(paths[0], len(channels)))[0].exists():
        sources = [ChannelFile(path=path) for path in numbered]
    else:
        several = len(channels) > 1
        sources = [ChannelFile(path=paths[0], component=i if several else None) for i in range(len(channels))]
    return Case(
        id=case_id,
        channels=dict(zip(channels, sources, strict=False)),
        label=None if label is None else root / label,
        group=patient_of(case_id),
    )


def _numbered(path: Path, channels: int) -> list[Path]:
    """The files that an image of nnU-Net v1's list stands for."""
    ending = image_ending(path) or path.suffix
    return [path.with_name(f"{stem(path)}_{number:04d}{ending}") for number in range(channels)]


LAYOUTS.register("msd", Layout(recognise, read, rank=20))
