"""The folder of a prepared case: written whole or not at all, and never over somebody's own work."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from autoseg.clinical.exam_labels import ExamLabels
from autoseg.clinical.exam_preparation import PreparedExam
from autoseg.clinical.quality_page import FRAGMENT, case_fragment
from autoseg.clinical.structure_names import structure_file
from autoseg.clinical.transforms import PreparedCase
from autoseg.data.file_names import images_in, plain_name
from autoseg.utils.digest import file_digest
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic, read_json, read_json_table, write_json, write_text

#: Files of a case's folder.
LABEL_FILE, MASK_FILE, LABEL_NAMES_FILE = "label.nii.gz", "brain_mask.nii.gz", "labels.json"


def write_case(prepared: PreparedExam, folder: Path) -> None:
    """Write a case's folder: whole or not at all.

    Args:
        prepared: what it is to hold.
        folder: of the case; what is in it is removed.
    """
    temporary = folder.parent / f".{folder.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for channel, image in prepared.images.items():
            _write(image, temporary / _channel_file(channel))
        if prepared.mask is not None:
            _write(prepared.mask, temporary / MASK_FILE)
        _write_labels(prepared.labels, temporary)
        write_text(temporary / FRAGMENT, case_fragment(prepared))
        written = {path.name: file_digest(path) for path in images_in(temporary)}
        prepared.case.model_copy(update={"written": written}).write(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def hand_made(folder: Path, prepared: PreparedExam | None = None) -> list[str]:
    """Names of the images in a case's folder that somebody drew, changed or added after it was prepared.

    A case that an earlier version prepared does not say what was written; there, images of other names count alone, and
    a label map where no label was taken along.

    Args:
        folder: of the case; it need not exist.
        prepared: what would replace it, if anything.
    """
    stored = None
    with suppress(AutosegError):
        stored = PreparedCase.read(folder)
    images = [path for path in images_in(folder) if path.is_file()]
    if stored is not None and stored.written:
        contents = set(stored.written.values())
        return [path.name for path in images if file_digest(path) not in contents]
    told = _labels_told(folder)
    usual = {MASK_FILE, *told.get("structures", {}).values()} | ({LABEL_FILE} if told.get("values") else set())
    channels = set() if prepared is None else set(prepared.images)
    if stored is not None:
        channels |= {one.channel for one in stored.series.values() if one.channel} | set(stored.filled)
    usual |= {_channel_file(channel) for channel in channels}
    return [path.name for path in images if path.name not in usual]


def _channel_file(channel: str) -> str:
    return f"{plain_name(channel)}.nii.gz"


def _labels_told(folder: Path) -> dict[str, Any]:
    try:
        return read_json_table(folder / LABEL_NAMES_FILE)
    except AutosegError:
        return {}  # damaged


def _write_labels(labels: ExamLabels, folder: Path) -> None:
    values: list[int] = []
    if labels.label is not None:
        _write(labels.label, folder / LABEL_FILE)
        values = [int(value) for value in np.unique(sitk.GetArrayViewFromImage(labels.label))]
    files = {}
    for name, mask in labels.structures.items():
        files[name] = structure_file(name)
        _write(mask, folder / files[name])
    if values or files:
        write_json(folder / LABEL_NAMES_FILE, {"values": values, "names": labels.names, "structures": files})


def shares_files(folder: Path) -> bool:
    """Whether structures of a case share a mask file, of which an earlier version kept the last one only."""
    file = folder / LABEL_NAMES_FILE
    files = list(read_json(file)["structures"].values()) if file.is_file() else []
    return len(set(files)) < len(files)


def renew_structure_files(folder: Path) -> None:
    """Call the masks of a case as this version does, where an earlier one made them."""
    file = folder / LABEL_NAMES_FILE
    if not file.is_file() or shares_files(folder):
        return
    told = read_json(file)
    renewed = {name: structure_file(name) for name in told["structures"]}
    if renewed == told["structures"]:
        return
    for name, earlier in told["structures"].items():
        if earlier != renewed[name] and (folder / earlier).is_file():
            (folder / earlier).rename(folder / renewed[name])
    write_json(file, {**told, "structures": renewed})


def _write(image: sitk.Image, path: Path) -> None:
    with atomic(path, suffix=".nii.gz") as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
