"""DICOM-SEG: segments on the slices of the series that was segmented, in its patient and study."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.data.dataset import Case
from autoseg.data.dicom import holds_dicom, import_highdicom, import_pydicom, is_dicom, read_dicom_elements
from autoseg.data.dicom_series import Stack, stack_at
from autoseg.data.formats.simpleitk import to_sitk
from autoseg.data.geometry import Geometry
from autoseg.data.names import channel_key
from autoseg.inference.formats.codes import structure_codes
from autoseg.inference.formats.format import RESULT_FORMATS, LabelContent, ResultFormat
from autoseg.inference.segments import Segment, overlapping
from autoseg.utils.colours import red_green_blue
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic

#: The series that a result refers to, where several channels are DICOM: that on which a tumour is drawn by hand.
_PREFERRED = "t1c"

#: Types of names, identifiers, dates and times (DICOM PS3.5, 6.2).
_TEXTS = ("PN", "LO", "SH", "CS", "UI", "DA", "TM", "DT", "AS")

#: Number of the series of results, after those of a scanner.
_SERIES_NUMBER = 900


class DicomSegmentation(ResultFormat):
    """``CASE.dcm``: a segment an output; those of regions overlap. The source is the t1c, else the first channel."""

    ending = ".dcm"

    def check(self, case: Case) -> None:
        """Refuse a case that is no DICOM, before it is predicted."""
        import_highdicom()
        for file in case.channels.values():
            if (file.path.is_dir() and holds_dicom(file.path, depth=1)) or is_dicom(file.path):
                return
        first = next((str(file.path) for file in case.channels.values()), case.id)
        raise AutosegError(
            f"{first} is no DICOM series, which a DICOM-SEG has to refer to; give the scan's DICOM folder, or choose "
            "another --format."
        )

    def write(self, path: Path, label: np.ndarray, geometry: Geometry, content: LabelContent) -> None:
        """Write the plan's outputs as segments.

        Args:
            path: of the file.
            label: integers ``(z, y, x)`` in canonical axes.
            geometry: of the scan.
            content: says the series and the segments.

        Raises:
            AutosegError: the series is not on the label map's grid.
        """
        stack = content.stack or self._source(content)
        if (difference := stack.geometry.differs_from(geometry)) is not None:
            raise AutosegError(
                f"{stack.files[0].parent} does not lie on the grid of the result ({difference}), so no DICOM-SEG can "
                "refer to its slices; choose another --format."
            )
        import SimpleITK as sitk

        # In the stack's order of slices, rows and columns, whatever the canonical axes are.
        slices = sitk.GetArrayFromImage(to_sitk(label, geometry))
        write_dicom_seg(path, slices, content.segments, stack)

    def _source(self, content: LabelContent) -> Stack:
        for name in sorted(content.channels, key=lambda name: channel_key(name) != _PREFERRED):
            file = content.case.channels.get(name)
            if file is not None and (file.path.is_dir() or is_dicom(file.path)):
                return stack_at(file.path)
        raise AutosegError(f"{content.case.id} has no channel that is DICOM; choose another --format.")


def write_dicom_seg(path: Path, label: np.ndarray, segments: Sequence[Segment], stack: Stack) -> None:
    """Write a label map on the grid of a series as a DICOM-SEG of binary segments.

    Args:
        path: of the file.
        label: integers ``(slice, row, column)`` in the stack's order.
        segments: what to write, in order; they may overlap.
        stack: the series that it refers to: patient, study and frame of reference are its own.

    Raises:
        AutosegError: highdicom is not installed, or the series lacks what the standard wants.
    """
    from autoseg import __version__

    highdicom = import_highdicom()
    sources = [read_dicom_elements(file) for file in stack.files]
    frames = sorted(stack.frames or ())
    voxels = _voxels(label[np.argsort(stack.frames)] if stack.frames else label, segments)
    try:
        if frames:
            _keep_frames(sources[0], frames)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=voxels,
                segmentation_type="BINARY",
                segment_descriptions=[_described(n, segment) for n, segment in enumerate(segments, start=1)],
                series_instance_uid=highdicom.UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="autoseg",
                manufacturer_model_name="autoseg",
                software_versions=__version__,
                device_serial_number="0",
                content_label="SEGMENTATION",
                content_description="Automatic segmentation",
                omit_empty_frames=bool(voxels.any()),
            )
    except (ValueError, AttributeError, KeyError, TypeError):
        # The library's message may repeat a patient's name or date.
        faulty = ", ".join(_faulty(sources[0])) or "something"
        raise AutosegError(
            f"no DICOM-SEG can refer to {stack.files[0].parent}: {faulty} in its headers is missing or "
            "not as the standard wants; correct it, or choose another --format."
        ) from None
    made.SeriesDescription = "autoseg segmentation"
    _number_frames(made, frames)
    with atomic(path, suffix=".dcm") as temporary:
        made.save_as(temporary)


def _keep_frames(source: Any, frames: Sequence[int]) -> None:
    """Make an enhanced file one of these frames only: of several echoes or kinds of image, those of one."""
    shared, own = source.SharedFunctionalGroupsSequence[0], source.PerFrameFunctionalGroupsSequence
    source.PerFrameFunctionalGroupsSequence = [own[frame] for frame in frames]
    source.NumberOfFrames = len(frames)
    # One for all frames of a stack, which some scanners write into each.
    for group in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if group not in shared and group in own[frames[0]]:
            setattr(shared, group, list(own[frames[0]].get(group)))


def _number_frames(made: Any, frames: Sequence[int]) -> None:
    """Let a DICOM-SEG refer to frames by their numbers in the file that holds them, where it holds others, too."""
    if not frames:
        return
    for frame in made.PerFrameFunctionalGroupsSequence:
        for derivation in frame.get("DerivationImageSequence") or ():
            for image in derivation.SourceImageSequence:
                image.ReferencedFrameNumber = frames[int(image.ReferencedFrameNumber) - 1] + 1


def _voxels(label: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """Numbers of segments ``(slice, row, column)``, or a mask each ``(…, segment)`` where they overlap."""
    if overlapping(segments):
        return np.stack([segment.mask(label) for segment in segments], axis=-1).astype(np.uint8)
    numbers = np.zeros(label.shape, np.uint8 if len(segments) < 256 else np.uint16)
    for number, segment in enumerate(segments, start=1):
        numbers[segment.mask(label)] = number
    return numbers


def _faulty(dataset: Any) -> list[str]:
    """Keywords of the attributes with values that their type does not allow."""
    pydicom = import_pydicom()
    found = []
    for element in dataset:
        if element.VR not in _TEXTS:
            continue
        try:
            for value in element.value if element.VM > 1 else [element.value]:
                pydicom.valuerep.validate_value(element.VR, str(value), pydicom.config.RAISE)
        except ValueError:
            found.append(element.keyword or str(element.tag))
    return found


def _described(number: int, segment: Segment) -> Any:
    from autoseg import __version__

    highdicom, pydicom = import_highdicom(), import_pydicom()
    codes = structure_codes(segment.name, segment.code)
    described = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=codes.category,
        segmented_property_type=codes.kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="autoseg", version=__version__, family=pydicom.sr.codedict.codes.DCM.ArtificialIntelligence
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*red_green_blue(segment.colour)),
    )
    if codes.side is not None:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [
            highdicom.sr.CodedConcept(codes.side.value, codes.side.scheme_designator, codes.side.meaning)
        ]
    return described


RESULT_FORMATS.register("dicom-seg", DicomSegmentation())
