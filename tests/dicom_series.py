"""Small DICOM series and structures, written with pydicom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

#: Rows and columns of a series turned about two axes, by 20 and 10 degrees: to the left and down, then in depth.
_A, _B = np.radians(20.0), np.radians(10.0)
OBLIQUE = (np.cos(_A), np.sin(_A), 0.0, -np.sin(_A) * np.cos(_B), np.cos(_A) * np.cos(_B), np.sin(_B))

#: Names and dates that must not be seen outside of DICOM files.
PATIENT, PATIENT_ID, BIRTH, STUDY_DATE = "Doe^Jane", "ID-4711", "19500102", "20200304"


@dataclass(frozen=True)
class SmallSeries:
    """A series as a test wants it: geometry and identity."""

    pixel: tuple[float, float] = (1.5, 0.8)  # between rows, between columns; mm
    between_slices: float = 5.0
    corner: tuple[float, float, float] = (-12.0, 7.0, 30.0)
    axes: Sequence[float] = OBLIQUE
    series: str = "1.2.826.0.1.3680043.10.999.2"
    study: str = "1.2.826.0.1.3680043.10.999.1"
    frame: str = "1.2.826.0.1.3680043.10.999.9"
    description: str = "T1 post"

    @property
    def normal(self) -> np.ndarray:
        """From slice to slice."""
        return np.cross(self.axes[:3], self.axes[3:])

    def point(self, column: float, row: float, slice_: float) -> np.ndarray:
        """Millimetres of a voxel."""
        along = np.asarray(self.axes)
        in_plane = along[:3] * self.pixel[1] * column + along[3:] * self.pixel[0] * row
        found: np.ndarray = np.asarray(self.corner) + in_plane + self.normal * self.between_slices * slice_
        return found


def write_series(folder: Path, array: np.ndarray, like: SmallSeries | None = None) -> list[Path]:
    """Write ``(slice, row, column)`` of 16 bits as one file a slice, in names that are not in order of position."""
    like = like or SmallSeries()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, plane in enumerate(np.asarray(array, np.int16)):
        dataset = _head("1.2.840.10008.5.1.4.1.1.4", f"{like.series}.{number + 1}", like)
        dataset.Modality = "MR"
        dataset.SeriesInstanceUID = like.series
        dataset.SeriesNumber = 1
        dataset.SeriesDescription = like.description
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
        dataset.MRAcquisitionType, dataset.EchoTime, dataset.RepetitionTime, dataset.EchoTrainLength = "2D", 9, 500, 1
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = like.frame, ""
        dataset.InstanceNumber = number + 1
        dataset.ImagePositionPatient = [f"{v:.8g}" for v in like.point(0, 0, number)]
        dataset.ImageOrientationPatient = [f"{v:.8f}" for v in like.axes]
        dataset.PixelSpacing = list(like.pixel)
        dataset.SliceThickness = like.between_slices
        dataset.Rows, dataset.Columns = plane.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.PixelData = plane.astype("<i2").tobytes()
        written.append(folder / f"{(number * 7) % 97:03d}.dcm")
        dataset.save_as(written[-1], enforce_file_format=True)
    return written


def write_enhanced(path: Path, array: np.ndarray, order: Sequence[int], like: SmallSeries | None = None) -> Path:
    """Write ``(slice, row, column)`` as the frames of one file, in this order; slice n is to be read as 3·v + n."""
    like = like or SmallSeries()
    dataset = _head("1.2.840.10008.5.1.4.1.1.4.1", f"{like.series}.1", like)
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = "MR", like.series, 1
    dataset.FrameOfReferenceUID, dataset.InstanceNumber, dataset.NumberOfFrames = like.frame, 1, len(array)
    dataset.Rows, dataset.Columns = array.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    measures = _item(PixelSpacing=list(like.pixel), SliceThickness=like.between_slices)
    orientation = _item(ImageOrientationPatient=[f"{v:.8f}" for v in like.axes])
    dataset.SharedFunctionalGroupsSequence = [
        _item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[orientation])
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=[f"{v:.8g}" for v in like.point(0, 0, number)])],
            PixelValueTransformationSequence=[_item(RescaleSlope=3, RescaleIntercept=number, RescaleType="US")],
        )
        for number in order
    ]
    dataset.PixelData = np.asarray(array)[list(order)].astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_rtstruct(
    path: Path, contours: Mapping[str, Sequence[tuple[str, np.ndarray]]], like: SmallSeries | None = None
) -> Path:
    """Write structures: name → (geometric type, points ``(point, xyz)`` in mm)."""
    like = like or SmallSeries()
    dataset = _head("1.2.840.10008.5.1.4.1.1.481.3", "1.2.826.0.1.3680043.10.999.7", like)
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.10.999.8"
    dataset.StructureSetLabel = "structures"
    series = _item(SeriesInstanceUID=like.series)
    study = _item(RTReferencedSeriesSequence=[series])
    frame = _item(FrameOfReferenceUID=like.frame, RTReferencedStudySequence=[study])
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence = [
        _item(ROINumber=number, ROIName=name) for number, name in enumerate(contours, start=1)
    ]
    dataset.ROIContourSequence = [
        _item(
            ReferencedROINumber=number,
            ContourSequence=[
                _item(
                    ContourGeometricType=kind,
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{v:.6g}" for v in np.asarray(points).ravel()],
                )
                for kind, points in drawn
            ],
        )
        for number, drawn in enumerate(contours.values(), start=1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _item(**values: Any) -> Any:
    item = pydicom.Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _head(sop_class: str, instance: str, like: SmallSeries) -> Any:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = instance
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = (
        PATIENT,
        PATIENT_ID,
        BIRTH,
        "F",
    )
    dataset.StudyInstanceUID, dataset.StudyDate, dataset.StudyTime = like.study, STUDY_DATE, "101112"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "ACC-1", "Who^Doctor"
    dataset.Manufacturer = "tests"
    return dataset
