"""DICOM files: recognised, whatever their names; and what pydicom reads of them."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from autoseg.utils.errors import AutosegError
from autoseg.utils.extras import how_to_install
from autoseg.utils.files import folders_below

if TYPE_CHECKING:
    import SimpleITK

#: Files of a folder that are looked at, and levels of folders, itself the first.
_LOOK_AT, _DEPTH = 200, 4

#: Groups of the first elements of a file, the highest element that is the first, and types of such elements.
_FIRST_GROUPS, _FIRST_ELEMENT, _SHORT_TYPES = (0x0002, 0x0008), 0x0018, (b"UL", b"CS", b"UI", b"DA", b"TM")

#: What installs the libraries for DICOM, for messages.
CLINICAL = how_to_install("clinical")


def import_pydicom(what: str = "this") -> Any:
    """The library that reads and writes DICOM.

    Args:
        what: it is needed for, as the beginning of a message.

    Raises:
        AutosegError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise AutosegError(f"{what} needs pydicom, which is not installed; install it with {CLINICAL}.") from None
    # Its warnings about a value repeat it, and the value may be a name or a date.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom


def import_highdicom() -> Any:
    """The library for segmentations in DICOM.

    Raises:
        AutosegError: it is not installed.
    """
    try:
        import highdicom
    except ImportError:
        raise AutosegError(f"DICOM-SEG needs highdicom, which is not installed; install it with {CLINICAL}.") from None
    return highdicom


def functional_group(dataset: Any, frame: int, sequence: str) -> Any:
    """The item of a functional group of an enhanced file, which a frame has itself or shares with all; else empty.

    Args:
        dataset: pydicom's.
        frame: number, from 0.
        sequence: keyword of the group.
    """
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    for holder in (own[frame] if own else {}, shared[0] if shared else {}):
        if items := holder.get(sequence):
            return items[0]
    return {}


def read_with_gdcm(files: Sequence[Path], as_float: bool) -> "SimpleITK.Image | None":
    """The rescaled voxels of a series with a file a slice; None where SimpleITK can't read them.

    Args:
        files: in order.
        as_float: as float32; else in the type that the first file's values have, to which those of slices with another
            slope are rounded.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.GlobalWarningDisplayOff()
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    if as_float:
        reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileNames([str(path) for path in files])
    try:
        return reader.Execute()
    except RuntimeError:
        return None


def planes_of(path: Path, frames: Sequence[int] | None) -> list[np.ndarray]:
    """The planes ``(row, column)`` of a file, decompressed by pydicom and in the units of their rescaling.

    Args:
        path: of the file.
        frames: numbers of those of an enhanced file, in order; None for a file of one plane.

    Raises:
        AutosegError: pydicom is not installed.
        Exception: whatever pydicom or its decoders raise for a damaged file, or one that they can't decode.
    """
    pydicom = import_pydicom("a compressed or multi-frame DICOM file")
    dataset = read_dicom_dataset(path)
    stored = dataset.pixel_array
    if frames is None:
        return [pydicom.pixels.apply_rescale(stored, dataset)]
    return [_rescaled(stored[frame], dataset, frame) for frame in frames]


def _rescaled(plane: np.ndarray, dataset: Any, frame: int) -> np.ndarray:
    """A frame in the units of its own slope and intercept, or of those that the whole file has."""
    group = functional_group(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = (
        float(group.get(key, dataset.get(key, usual))) for key, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    return plane if slope == 1 and intercept == 0 else plane * slope + intercept


def read_dicom_dataset(path: Path) -> Any:
    """A DICOM file, by pydicom; also one without the preamble of 128 bytes, as old archives have them.

    Raises:
        AutosegError: pydicom is not installed.
        Exception: whatever pydicom raises for a damaged file.
    """
    return _with_transfer_syntax(import_pydicom().dcmread(path, force=True))


def read_dicom_elements(file: Path | BinaryIO, keywords: Sequence[str] | None = None) -> Any:
    """What lies before the voxels of a DICOM file, as :func:`read_dicom_dataset` reads it.

    Args:
        file: to read.
        keywords: of the elements that are wanted; all where None.

    Raises:
        AutosegError: pydicom is not installed.
        Exception: whatever pydicom raises for a damaged file.
    """
    wanted = None if keywords is None else list(keywords)
    found = import_pydicom().dcmread(file, force=True, stop_before_pixels=True, specific_tags=wanted)
    return _with_transfer_syntax(found)


def _with_transfer_syntax(dataset: Any) -> Any:
    """A data set that says its transfer syntax, which some without preamble do not."""
    if not dataset.file_meta.get("TransferSyntaxUID"):
        uid = import_pydicom().uid
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    return dataset


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, whatever its name; no file that can't be opened is."""
    try:
        return _begins_as_dicom(path)
    except OSError:
        return False


def may_be_dicom(path: Path) -> bool:
    """Whether a file is DICOM, or can't be opened: among DICOM files, whoever reads it says so then."""
    try:
        return _begins_as_dicom(path)
    except OSError:
        return True


def _begins_as_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or _begins_with_elements(start)


def _begins_with_elements(start: bytes) -> bool:
    """Whether bytes are the first elements of a file without preamble: two in order, of the groups that come first."""
    if len(start) < 132:
        return False
    group, element = struct.unpack_from("<HH", start)
    if group not in _FIRST_GROUPS or element > _FIRST_ELEMENT:
        return False
    explicit = start[4:6] in _SHORT_TYPES
    (length,) = struct.unpack_from("<H", start, 6) if explicit else struct.unpack_from("<I", start, 4)
    if length + 12 > len(start):
        return False
    second = struct.unpack_from("<HH", start, 8 + length)
    return second[0] in _FIRST_GROUPS and second > (group, element)


def holds_dicom(folder: Path, depth: int = _DEPTH) -> bool:
    """Whether a folder holds DICOM files; the first few hundred are looked at.

    Args:
        folder: to look into.
        depth: levels of folders to look into, itself the first.
    """
    return any(is_dicom(path) for path, _ in zip(_files(folder, depth), range(_LOOK_AT), strict=False))


def slices_of_series(path: Path) -> int:
    """Number of files in a DICOM file's folder that belong to its series, itself among them."""
    import SimpleITK as sitk

    series = "0020|000e"
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return 1  # whoever reads the file says what is wrong with it
    if not reader.HasMetaDataKey(series):
        return 1
    name = reader.GetMetaData(series).strip().rstrip("\0")
    return max(1, len(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path.absolute().parent), name)))


def _files(folder: Path, depth: int) -> Iterator[Path]:
    for _, files in folders_below(folder, depth - 1):
        yield from files
