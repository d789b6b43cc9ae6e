"""Labels in DICOM: an RTSTRUCT or a DICOM-SEG as a mask a structure."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.clinical.dicom_seg import segment_masks, series_of_segments
from autoseg.clinical.rtstruct import ContourOrigin, filled_contours, origins_of_contours, series_of_contours
from autoseg.data.dicom import import_pydicom, is_dicom, read_dicom_dataset, read_dicom_elements
from autoseg.utils.errors import AutosegError

if TYPE_CHECKING:
    import SimpleITK


@dataclass(frozen=True)
class LabelObject:
    """A kind of DICOM object that holds structures.

    Attributes:
        name: for messages.
        series: of its data set, the series instance UIDs that it refers to.
        masks: of its data set, its file, a grid and the names of structures (None for all), a mask a structure.
        origins: of its data set and its file, what each structure says about its scan; None where it holds voxels,
            which lie where they lie.
    """

    name: str
    series: Callable[[Any], tuple[str, ...]]
    masks: "Callable[[Any, Path, SimpleITK.Image, Collection[str] | None], dict[str, SimpleITK.Image]]"
    origins: Callable[[Any, Path], dict[str, ContourOrigin]] | None = None


#: SOP class UID → what it is (DICOM PS3.4 B.5): RT Structure Set, Segmentation, Label Map Segmentation.
LABEL_OBJECTS = {
    "1.2.840.10008.5.1.4.1.1.481.3": LabelObject("RTSTRUCT", series_of_contours, filled_contours, origins_of_contours),
    "1.2.840.10008.5.1.4.1.1.66.4": LabelObject("DICOM-SEG", series_of_segments, segment_masks),
    "1.2.840.10008.5.1.4.1.1.66.7": LabelObject("DICOM-SEG", series_of_segments, segment_masks),
}


def label_object(path: Path) -> LabelObject | None:
    """Which kind of label object a file is; None for scans and files that are no DICOM."""
    if not is_dicom(path):
        return None
    pydicom = import_pydicom()
    try:
        head = read_dicom_elements(path, ["SOPClassUID"])
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, EOFError):
        return None
    return LABEL_OBJECTS.get(str(head.get("SOPClassUID", "")))


def referenced_series(path: Path) -> tuple[str, ...]:
    """Series instance UIDs that a label object was drawn on; none where it doesn't say.

    Raises:
        AutosegError: the file is no label object, or is unreadable.
    """
    kind, dataset = _read(path)
    with _damaged(path, kind):
        return kind.series(dataset)


def structure_origins(path: Path) -> dict[str, ContourOrigin]:
    """What each structure of an RTSTRUCT says about the scan that it was drawn on; nothing of a DICOM-SEG.

    Raises:
        AutosegError: the file is no label object, or is unreadable.
    """
    kind, dataset = _read(path)
    with _damaged(path, kind):
        return {} if kind.origins is None else kind.origins(dataset, path)


def structures_of(
    path: Path, grid: "SimpleITK.Image", names: Collection[str] | None = None
) -> "dict[str, SimpleITK.Image]":
    """The structures of a label object: name → mask (0, 1; 8 bits) on a grid.

    Args:
        path: of an RTSTRUCT or DICOM-SEG.
        grid: an image of the series that it refers to, with the series' slices along its third axis.
        names: of the structures that were drawn on it; all where None.

    Raises:
        AutosegError: the file is no label object, is unreadable, or does not fit the grid.
    """
    kind, dataset = _read(path)
    with _damaged(path, kind):
        return kind.masks(dataset, path, grid, names)


def _read(path: Path) -> tuple[LabelObject, Any]:
    pydicom = import_pydicom()
    kind = label_object(path)
    if kind is None:
        raise AutosegError(f"{path} is neither an RTSTRUCT nor a DICOM-SEG; give the file with the structures.")
    try:
        return kind, read_dicom_dataset(path)
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, EOFError):
        raise _unreadable(path, kind) from None


def _unreadable(path: Path, kind: LabelObject) -> AutosegError:
    return AutosegError(f"{path} is incomplete or damaged as {kind.name}; copy or export it again.")


@contextmanager
def _damaged(path: Path, kind: LabelObject) -> Iterator[None]:
    """Elements that are missing, or are no numbers where numbers belong, in one sentence that quotes none of them."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, EOFError):
        raise _unreadable(path, kind) from None
