"""Headers of DICOM files: what sorting and recognition need, with pydicom where it is installed, else SimpleITK."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.clinical.series import Identity, SequenceFacts
from autoseg.data.dicom import import_pydicom
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
    "BitsAllocated": "0028|0100",
    "SpacingBetweenSlices": "0018|0088",
    "SliceThickness": "0018|0050",
    "GantryDetectorTilt": "0018|1120",
}

#: Where enhanced files keep what holds for all frames, and for each.
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

#: Transfer syntaxes without compression, in which the voxels of a file have a known number of bytes.
_IMPLICIT = "1.2.840.10008.1.2"
_PLAIN = {_IMPLICIT, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}


@dataclass(frozen=True)
class DicomHeader:
    """The header of one DICOM file.

    Attributes:
        path: of the file.
        values: keyword of an element → its text; values of an element with several are separated by a backslash.
        transfer_syntax: UID; ``""`` where unknown.
        voxels_at: bytes before its voxels, where that is known.
    """

    path: Path
    values: Mapping[str, str]
    transfer_syntax: str = ""
    voxels_at: int = 0

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
        """The values of an element as numbers; empty where one is none."""
        try:
            return tuple(float(part) for part in self.parts(keyword))
        except ValueError:
            return ()

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
    def facts(self) -> SequenceFacts:
        """What it says about the acquisition."""
        number = self.number("SeriesNumber")
        return SequenceFacts(
            modality=self.text("Modality"),
            description=self.text("SeriesDescription"),
            protocol=self.text("ProtocolName"),
            pulse_sequence=self.text("SequenceName"),
            image_type=self.parts("ImageType"),
            scanning_sequence=self.parts("ScanningSequence"),
            contrast=self.text("ContrastBolusAgent"),
            repetition_time=self.number("RepetitionTime"),
            echo_time=self.number("EchoTime"),
            inversion_time=self.number("InversionTime"),
            flip_angle=self.number("FlipAngle"),
            diffusion_weighting=self.number("DiffusionBValue"),
            angiography=self.text("AngioFlag").upper() == "Y",
            number=None if number is None else int(number),
            body_part=self.text("BodyPartExamined"),
        )

    @property
    def identity(self) -> Identity:
        """Who it is of."""
        return Identity(
            patient_id=self.text("PatientID"),
            patient_name=self.text("PatientName"),
            study=self.text("StudyInstanceUID"),
            series=self.text("SeriesInstanceUID"),
            frame=self.text("FrameOfReferenceUID"),
            date=self.text("StudyDate"),
        )


def read_dicom_header(path: Path) -> DicomHeader | None:
    """The header of a DICOM file; None where it can't be read, as of a file that is cut off in its header.

    Without pydicom, which tells them apart, such a file counts as one without voxels, as structures and reports are.
    """
    try:
        pydicom = import_pydicom()
    except AutosegError:
        return _with_sitk(path)
    return _with_pydicom(pydicom, path)


def _with_pydicom(pydicom: Any, path: Path) -> DicomHeader | None:
    try:
        with open(path, "rb") as file:
            found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*TAGS, *_GROUPS])
            # Tag, and length, of the voxels' element come first; with explicit types two and two bytes more.
            end = file.tell() + (8 if str(found.file_meta.TransferSyntaxUID) == _IMPLICIT else 12)
        values = {key: text for key in TAGS if (text := _text(found.get(key))) != ""}
        values |= {key: text for key, text in _enhanced(found).items() if key not in values}
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


def _enhanced(found: Any) -> dict[str, str]:
    """Elements that enhanced files keep in the groups of their first frame."""
    taken: dict[str, str] = {}
    for name in _GROUPS:
        for group in list(found.get(name) or [])[:1]:
            for element in group:
                if element.VR != "SQ" or not element.value:
                    continue
                inner = element.value[0]
                for key, own in _ENHANCED.items():
                    text = _text(inner.get(own))
                    if text and key not in taken:
                        taken[key] = text
    return taken


#: Keyword of a plain file → of an enhanced one's groups.
_ENHANCED = {
    "PixelSpacing": "PixelSpacing",
    "ImageOrientationPatient": "ImageOrientationPatient",
    "ImagePositionPatient": "ImagePositionPatient",
    "EchoTime": "EffectiveEchoTime",
    "RepetitionTime": "RepetitionTime",
    "InversionTime": "InversionTimes",
    "FlipAngle": "FlipAngle",
    "DiffusionBValue": "DiffusionBValue",
    "SliceThickness": "SliceThickness",
}


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
