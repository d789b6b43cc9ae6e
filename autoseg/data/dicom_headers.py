"""Headers of DICOM files: what sorting and recognition need, with pydicom where it is installed, else SimpleITK."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.data.dicom import functional_group, import_pydicom, read_dicom_elements
from autoseg.utils.errors import AutosegError

#: Elements that are read, with their tags as SimpleITK names them.
TAGS = {
    "SOPClassUID": "0008|0016",
    "SOPInstanceUID": "0008|0018",
    "Modality": "0008|0060",
    "StudyDate": "0008|0020",
    "ImageType": "0008|0008",
    "SeriesDescription": "0008|103e",
    "PatientName": "0010|0010",
    "PatientID": "0010|0020",
    "ContrastBolusAgent": "0018|0010",
    "BodyPartExamined": "0018|0015",
    "ScanningSequence": "0018|0020",
    "SequenceName": "0018|0024",
    "AngioFlag": "0018|0025",
    "RepetitionTime": "0018|0080",
    "EchoTime": "0018|0081",
    "InversionTime": "0018|0082",
    "EchoNumbers": "0018|0086",
    "ProtocolName": "0018|1030",
    "FlipAngle": "0018|1314",
    "DiffusionBValue": "0018|9087",
    "StudyInstanceUID": "0020|000d",
    "SeriesInstanceUID": "0020|000e",
    "SeriesNumber": "0020|0011",
    "AcquisitionNumber": "0020|0012",
    "InstanceNumber": "0020|0013",
    "ImagePositionPatient": "0020|0032",
    "ImageOrientationPatient": "0020|0037",
    "FrameOfReferenceUID": "0020|0052",
    "TemporalPositionIdentifier": "0020|0100",
    "SamplesPerPixel": "0028|0002",
    "NumberOfFrames": "0028|0008",
    "Rows": "0028|0010",
    "Columns": "0028|0011",
    "PixelSpacing": "0028|0030",
    "ImagerPixelSpacing": "0018|1164",
    "BitsAllocated": "0028|0100",
    "RescaleIntercept": "0028|1052",
    "RescaleSlope": "0028|1053",
    "SpacingBetweenSlices": "0018|0088",
    "SliceThickness": "0018|0050",
    "GantryDetectorTilt": "0018|1120",
}

#: Where enhanced files keep what holds for all frames, and for each.
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

#: … and the contrast agents, coded.
_AGENTS = "ContrastBolusAgentSequence"

#: Transfer syntaxes without compression, in which the voxels of a file have a known number of bytes.
_IMPLICIT = "1.2.840.10008.1.2"
_PLAIN = {_IMPLICIT, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}


@dataclass(frozen=True)
class DicomHeader:
    """The header of a DICOM file, or of one frame of an enhanced one.

    Attributes:
        path: of the file.
        values: keyword of an element → its text; values of an element with several are separated by a backslash.
        transfer_syntax: UID; ``""`` where unknown.
        voxels_at: bytes before its voxels, where that is known.
        frame: number of the frame, from 0; None for a whole file.
    """

    path: Path
    values: Mapping[str, str]
    transfer_syntax: str = ""
    voxels_at: int = 0
    frame: int | None = None

    def text(self, keyword: str) -> str:
        """An element, or ``""``."""
        return self.values.get(keyword, "")

    def parts(self, keyword: str) -> tuple[str, ...]:
        """The values of an element with several."""
        return tuple(part.strip() for part in self.text(keyword).split("\\") if part.strip())

    def number(self, keyword: str) -> float | None:
        """An element as a number; None where it is none."""
        numbers = self.numbers(keyword)
        return numbers[0] if numbers else None

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The values of an element as numbers; empty where one is none, or not finite."""
        try:
            found = tuple(float(part) for part in self.parts(keyword))
        except ValueError:
            return ()
        return found if np.isfinite(found).all() else ()

    @property
    def frames(self) -> int:
        """Frames of the file."""
        return int(self.number("NumberOfFrames") or 1)

    @property
    def is_image(self) -> bool:
        """Whether it holds voxels."""
        return bool(self.number("Rows") and self.number("Columns"))

    @property
    def bytes_of_voxels(self) -> int:
        """Bytes that its voxels take, where they are not compressed; else 0."""
        if self.transfer_syntax and self.transfer_syntax not in _PLAIN:
            return 0
        sizes = [self.number(key) or 0 for key in ("Rows", "Columns", "BitsAllocated")]
        return int(sizes[0] * sizes[1] * sizes[2] / 8 * (self.number("SamplesPerPixel") or 1)) * self.frames

    @property
    def is_cut_off(self) -> bool:
        """Whether the file is shorter than its voxels."""
        return (
            self.is_image
            and bool(self.transfer_syntax)
            and (self.path.stat().st_size < self.voxels_at + self.bytes_of_voxels)
        )

    @property
    def pixel_spacing(self) -> tuple[float, float] | None:
        """Mm between columns and between rows; None where it has none, or none that a pixel can have."""
        numbers = self.numbers("PixelSpacing" if self.text("PixelSpacing") else "ImagerPixelSpacing")
        return (numbers[1], numbers[0]) if len(numbers) == 2 and min(numbers) > 0 else None

    @property
    def rescaling(self) -> tuple[float, float]:
        """Slope and intercept of its values; 1 and 0 where it has none."""
        slope, intercept = self.number("RescaleSlope"), self.number("RescaleIntercept")
        return 1.0 if slope is None else slope, intercept or 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return int(self.number("Columns") or 0), int(self.number("Rows") or 0)


def read_dicom_header(path: Path) -> DicomHeader | None:
    """The header of a DICOM file; None where it can't be read, as of a file that is cut off in its header.

    Without pydicom, which tells them apart, such a file counts as one without voxels, as structures and reports are.
    """
    try:
        import_pydicom()
    except AutosegError:
        return _with_sitk(path)
    return _with_pydicom(path)


def _with_pydicom(path: Path) -> DicomHeader | None:
    try:
        with open(path, "rb") as file:
            found = read_dicom_elements(file, [*TAGS, *_GROUPS, _AGENTS])
            # Tag, and length, of the voxels' element come first; with explicit types two and two bytes more.
            end = file.tell() + (8 if str(found.file_meta.TransferSyntaxUID) == _IMPLICIT else 12)
        values = {key: text for key in TAGS if (text := _text(found.get(key))) != ""}
        values |= {key: text for key, text in _enhanced(found).items() if key not in values}
        if "ContrastBolusAgent" not in values and (agents := found.get(_AGENTS)):
            values["ContrastBolusAgent"] = _text(agents[0].get("CodeMeaning")) or "agent"
    except Exception:  # pydicom raises whatever a damaged file makes it stumble over
        return None
    syntax = str(getattr(found.file_meta, "TransferSyntaxUID", ""))
    return DicomHeader(path, values, syntax, end) if values else None


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if hasattr(value, "original_string"):  # numbers in text keep their digits
        return str(value).strip()
    try:
        return "\\".join(str(part) for part in value)
    except TypeError:
        return str(value).strip()


#: Keyword of a plain file → group of an enhanced one, and the keyword there (DICOM PS3.3 C.7.6.16 and C.8.13).
_ENHANCED = {
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", "SpacingBetweenSlices"),
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "ImagePositionPatient": ("PlanePositionSequence", "ImagePositionPatient"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "FrameType": ("MRImageFrameTypeSequence", "FrameType"),
}


def _enhanced(found: Any, frame: int = 0) -> dict[str, str]:
    """Elements that enhanced files keep in the groups of a frame."""
    if not any(found.get(name) for name in _GROUPS):
        return {}
    return {
        key: text
        for key, (group, own) in _ENHANCED.items()
        if (text := _text(functional_group(found, frame, group).get(own)))
    }


def headers_of_frames(header: DicomHeader) -> list[DicomHeader]:
    """The frames of a multi-frame file, each with the position, echo, time and kind that it has of its own.

    Args:
        header: of the file.

    Raises:
        AutosegError: pydicom is not installed, or the file is damaged.
    """
    import_pydicom("a multi-frame DICOM file")
    try:
        found = read_dicom_elements(header.path)
        frames = []
        for number in range(header.frames):
            own = _enhanced(found, number)
            kind = {"ImageType": own["FrameType"]} if "FrameType" in own else {}
            values = {**header.values, **own, **kind, "InstanceNumber": str(number + 1)}
            frames.append(replace(header, values=values, frame=number))
    except Exception:  # pydicom raises whatever a damaged file makes it stumble over
        raise AutosegError("the frames of a file can't be read (cut off or damaged); copy it again.") from None
    return frames


def _with_sitk(path: Path) -> DicomHeader | None:
    import SimpleITK as sitk

    sitk.ProcessObject.GlobalWarningDisplayOff()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return DicomHeader(path, {})
    values = {key: reader.GetMetaData(tag).strip() for key, tag in TAGS.items() if reader.HasMetaDataKey(tag)}
    return DicomHeader(path, values)
