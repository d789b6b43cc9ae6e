"""What the header of a DICOM file says about the acquisition, and about the patient."""

import re

from autoseg.clinical.series import Identity, SequenceFacts
from autoseg.data.dicom_headers import DicomHeader

#: What anonymizers put in place of a patient's identifier or name, which says nothing about who it is.
_NOBODY = re.compile(r"(?:anon.*|unknown|none|no ?name|patient|de-?identified|removed|[x0.^\- ]*)", re.I)


def acquisition_of(header: DicomHeader) -> SequenceFacts:
    """What a header says about the acquisition."""
    number = header.number("SeriesNumber")
    return SequenceFacts(
        modality=header.text("Modality"),
        description=header.text("SeriesDescription"),
        protocol=header.text("ProtocolName"),
        pulse_sequence=header.text("SequenceName"),
        image_type=header.parts("ImageType"),
        scanning_sequence=header.parts("ScanningSequence"),
        contrast=header.text("ContrastBolusAgent"),
        repetition_time=header.number("RepetitionTime"),
        echo_time=header.number("EchoTime"),
        inversion_time=header.number("InversionTime"),
        flip_angle=header.number("FlipAngle"),
        diffusion_weighting=header.number("DiffusionBValue"),
        angiography=header.text("AngioFlag").upper() == "Y",
        number=None if number is None else int(number),
        body_part=header.text("BodyPartExamined"),
    )


def patient_of_header(header: DicomHeader) -> Identity:
    """Who a file is of."""
    return Identity(
        patient_id=header.text("PatientID"),
        patient_name=header.text("PatientName"),
        study=header.text("StudyInstanceUID"),
        series=header.text("SeriesInstanceUID"),
        frame=header.text("FrameOfReferenceUID"),
        date=header.text("StudyDate"),
    )


def told_identity(text: str) -> str:
    """A patient's identifier or name as a header has it; ``""`` where an anonymizer put something in its place."""
    text = text.strip()
    return "" if _NOBODY.fullmatch(text) else text
