"""nnU-Net v2 raw data: ``imagesTr/CASE_0000.nii.gz`` (one file a channel) and ``labelsTr/CASE.nii.gz``."""

import os
import re
from pathlib import Path
from typing import Any

from autoseg.data.description import Case, ChannelFile, Description
from autoseg.data.file_names import image_ending, images_in, stem
from autoseg.data.image import read_geometry
from autoseg.data.layouts.common import (
    by_number,
    description_file,
    inconsistencies_in,
    other_scans,
    read_description,
    unique,
    whole,
)
from autoseg.data.layouts.layout import LAYOUTS, Layout
from autoseg.data.patients import patient_of
from autoseg.data.result_files import results_in
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json


def recognise(path: Path) -> bool:
    """Whether ``path`` is a folder (or its ``dataset.json``) with ``channel_names``."""
    data = read_description(path)
    return data is not None and "channel_names" in data


def read(path: Path) -> Description:
    """Read the dataset; cases of ``imagesTs`` become those of the test set, with the labels of ``labelsTs``, if any.

    Raises:
        AutosegError: ``dataset.json`` is missing or does not say what it must.
    """
    file = description_file(path)
    data = read_json(file)
    if not isinstance(data, dict) or "channel_names" not in data:
        raise AutosegError(f'{file} has no "channel_names"; it is no nnU-Net v2 dataset.')
    ending = data.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise AutosegError(f'{file}: "file_ending" must be the ending of all images, as ".nii.gz".')
    root = file.parent
    names = by_number(data["channel_names"], "channel_names", file)
    channels = unique(names)
    labels, regions, ignore = parse_label_table(data.get("labels"), file)
    listed = isinstance(data.get("dataset"), dict)
    found = _listed(data["dataset"], root, file) if listed else _in_folders(root, ending)
    _refuse_other_endings(root, ending, file)
    tested = _images(root / "imagesTs", ending)
    test = {name: images for name, images in tested.items() if name not in found}
    namesakes = [
        path
        for name in sorted(tested.keys() - test.keys())
        for path in other_scans(tested[name].values(), found[name][0].values())
    ]
    beyond = [
        path
        for images in (*(images for images, _ in found.values()), *test.values())
        for number, path in images.items()
        if number >= len(channels)
    ]
    if beyond:
        raise AutosegError(
            f"{file} names {len(channels)} channel(s), but there are {len(beyond)} image(s) of further ones, as "
            f"{beyond[0]}; name all channels in channel_names."
        )
    trained = {name: images for name, (images, _) in found.items()}
    strays = [*([] if listed else _strays(root / "imagesTr", trained)), *_strays(root / "imagesTs", tested)]
    together = _holding_all(channels, trained | test)
    with inconsistencies_in(file):
        return Description(
            name=str(data.get("name") or root.resolve().name),
            root=root,
            layout="nnunet",
            channels=tuple(channels),
            modalities=dict(zip(channels, names, strict=True)),
            labels=labels,
            regions=regions,
            ignore_label=ignore,
            cases=tuple(_case(name, *files, channels, name in together) for name, files in sorted(found.items())),
            unlabelled=tuple(
                _case(name, images, _test_label(root, name, ending), channels, name in together)
                for name, images in sorted(test.items())
            ),
            file_ending=ending,
            strays=tuple(strays),
            namesakes=tuple(namesakes),
        )


def _strays(folder: Path, cases: dict[str, dict[int, Path]]) -> list[Path]:
    """Images of a folder that are no case's, nor results; of a case without any image its check says that already."""
    used = {path for images in cases.values() for path in images.values()} | set(results_in(folder))
    return [path for path in images_in(folder) if path not in used and cases.get(stem(path)) != {}]


def _test_label(root: Path, name: str, ending: str) -> Path | None:
    """The label map of a test case, if any; 3D Slicer saves that of ``case.nrrd`` as ``case.seg.nrrd``."""
    paths = (root / "labelsTs" / f"{name}{middle}{ending}" for middle in ("", ".seg"))
    return next((path for path in paths if os.path.lexists(path)), None)


def parse_label_table(table: Any, file: Path) -> tuple[dict[str, int], dict[str, tuple[int, ...]], int | None]:
    """Labels, regions and the ignore value; with regions, values without a name get one."""
    if not isinstance(table, dict):
        raise AutosegError(f'{file}: "labels" must be a table as {{"background": 0, "tumour": 1}}.')
    sets: dict[str, tuple[int, ...]] = {}
    ignore = None
    for name, value in table.items():
        values = tuple(whole(v, f'label "{name}"', file) for v in (value if isinstance(value, list) else [value]))
        if not values:
            raise AutosegError(f'{file}: label "{name}" has no value.')
        if name == "ignore":
            ignore = values[0]
        elif values != (0,):
            sets[str(name)] = values
    if all(len(values) == 1 for values in sets.values()):
        return {name: values[0] for name, values in sets.items()}, {}, ignore
    labels = {name: values[0] for name, values in sets.items() if len(values) == 1}
    for value in sorted({value for values in sets.values() for value in values} - set(labels.values())):
        labels[f"label_{value}"] = value
    return dict(sorted(labels.items(), key=lambda item: item[1])), sets, ignore


def _images(folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    """Case name → channel number → file, for the images of a folder."""
    cases: dict[str, dict[int, Path]] = {}
    pattern = re.compile(rf"(?P<name>[^.].*)_(?P<channel>\d{{4}}){re.escape(ending)}")
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match:
            cases.setdefault(match["name"], {})[int(match["channel"])] = path
    if not cases and folder.is_dir():
        # Images of one channel are often left without its number.
        plain = [path for path in images_in(folder) if path.name.endswith(ending)]
        return {path.name.removesuffix(ending): {0: path} for path in plain}
    return cases


def _in_folders(root: Path, ending: str) -> dict[str, tuple[dict[int, Path], Path]]:
    images = _images(root / "imagesTr", ending)
    folder = root / "labelsTr"
    labels = {
        path.name.removesuffix(ending)
        for path in (folder.iterdir() if folder.is_dir() else [])
        if path.name.endswith(ending) and not path.name.startswith(".")
    }
    # An image without a label and a label without an image are cases; their check says what is missing.
    # 3D Slicer saves the label of case.nrrd as case.seg.nrrd.
    segments = {name.removesuffix(".seg"): name for name in labels if name.endswith(".seg") and name not in images}
    labels = {name.removesuffix(".seg") if name in segments.values() else name for name in labels}
    return {name: (images.get(name, {}), folder / f"{segments.get(name, name)}{ending}") for name in {*images, *labels}}


def _listed(table: dict[str, Any], root: Path, file: Path) -> dict[str, tuple[dict[int, Path], Path]]:
    """The cases of a ``dataset`` entry: ``{case: {"images": [...], "label": ...}}``, files anywhere, $VARIABLES too."""
    found = {}
    for name, entry in table.items():
        if not (
            isinstance(entry, dict) and isinstance(entry.get("images"), list) and isinstance(entry.get("label"), str)
        ):
            raise AutosegError(f'{file}: dataset.{name} must be a table with "images" (a list) and "label".')
        images = {i: root / os.path.expandvars(str(p)) for i, p in enumerate(entry["images"])}
        found[str(name)] = (images, root / os.path.expandvars(entry["label"]))
    return found


def _holding_all(channels: list[str], cases: dict[str, dict[int, Path]]) -> set[str]:
    """Cases whose only file holds all channels, as an RGB picture or a volume with a fourth axis does."""
    single = {name: images[0] for name, images in cases.items() if set(images) == {0}} if len(channels) > 1 else {}
    found, unreadable = set(), set()
    for name, path in single.items():
        try:
            if read_geometry(path)[1] > 1:
                found.add(name)
        except AutosegError:  # reported by the check; most likely of the others' kind
            unreadable.add(name)
    return found | unreadable if found else found


def _refuse_other_endings(root: Path, ending: str, file: Path) -> None:
    """Images of another ending than ``file_ending`` would be left out without a word."""
    for folder in ("imagesTr", "imagesTs"):
        images = images_in(root / folder)
        none_fit = not any(path.name.endswith(ending) for path in images)
        for path in images:
            other = image_ending(path) or ""
            numbered = re.search(r"_\d{4}$", path.name.removesuffix(other)) is not None
            if not path.name.endswith(ending) and other != ending and (none_fit or numbered):
                raise AutosegError(
                    f'{file}: "file_ending" is {ending}, but {folder} holds images that end in {other}, as '
                    f"{path.name}; correct the one or the others."
                )


def _case(name: str, images: dict[int, Path], label: Path | None, channels: list[str], together: bool) -> Case:
    if together and 0 in images:
        found = {channel: ChannelFile(path=images[0], component=i) for i, channel in enumerate(channels)}
    else:
        found = {channel: ChannelFile(path=images[i]) for i, channel in enumerate(channels) if i in images}
    return Case(id=name, channels=found, label=label, group=patient_of(name))


LAYOUTS.register("nnunet", Layout(recognise, read, rank=10))
