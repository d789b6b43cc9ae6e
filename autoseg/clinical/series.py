"""Series: the files, grid and acquisition of one scan of an exam, as DICOM headers or an image file tell them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from autoseg.data.geometry import Geometry

#: Slices that a volume has at least.
LEAST_SLICES = 3

#: A grid for a series whose own is unknown since it can't be used.
NO_GRID = Geometry((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@dataclass(frozen=True)
class SequenceFacts:
    """What headers say about how a series was acquired; ``""``, ``()`` or None where they do not.

    Attributes:
        modality: ``MR``, ``CT``, ….
        description: SeriesDescription, or the words of a file's name.
        protocol: ProtocolName.
        pulse_sequence: SequenceName, or PulseSequenceName of enhanced files.
        image_type: values of ImageType.
        scanning_sequence: values of ScanningSequence (``SE``, ``GR``, ``IR``, ``EP``).
        contrast: ContrastBolusAgent.
        repetition_time: ms.
        echo_time: ms.
        inversion_time: ms.
        flip_angle: degrees.
        diffusion_weighting: b-value, s/mm².
        angiography: AngioFlag is ``Y``.
        repetitions: NumberOfTemporalPositions, or how often each position was measured.
        number: SeriesNumber.
        body_part: BodyPartExamined.
        planes: orientations of its slices.
    """

    modality: str = ""
    description: str = ""
    protocol: str = ""
    pulse_sequence: str = ""
    image_type: tuple[str, ...] = ()
    scanning_sequence: tuple[str, ...] = ()
    contrast: str = ""
    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    flip_angle: float | None = None
    diffusion_weighting: float | None = None
    angiography: bool = False
    repetitions: int = 1
    number: int | None = None
    body_part: str = ""
    planes: int = 1


@dataclass(frozen=True)
class Identity:
    """Who a series is of and when it was made: kept in memory, and on disk only in the pseudonym table.

    Attributes:
        patient_id: PatientID.
        patient_name: PatientName.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        frame: FrameOfReferenceUID.
        date: StudyDate (``YYYYMMDD``).
    """

    patient_id: str = ""
    patient_name: str = ""
    study: str = ""
    series: str = ""
    frame: str = ""
    date: str = ""


@dataclass(frozen=True)
class Series:
    """One scan of an exam.

    Attributes:
        name: to be shown; holds no identifier (``series 11``, or the telling part of a file's name).
        files: of the series, sorted along the slice axis; a multi-frame or image file alone.
        grid: size, spacing, origin and direction in SimpleITK's order, x, y, z.
        facts: of its acquisition.
        identity: of the patient and the study.
        dicom: whether the files are DICOM.
        frames: of a multi-frame file, the frames of this volume in order of position; None for all, as they lie.
        fault: why it can't be used, as the end of a sentence about it; ``""`` where it can.
        remarks: what was noticed, likewise.
    """

    name: str
    files: tuple[Path, ...]
    grid: Geometry
    facts: SequenceFacts = field(default_factory=SequenceFacts)
    identity: Identity = field(default_factory=Identity)
    dicom: bool = False
    frames: tuple[int, ...] | None = None
    fault: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def voxel_volume(self) -> float:
        """mm³ of a voxel."""
        x, y, z = self.grid.spacing
        return x * y * z

    def shares_grid_with(self, other: "Series") -> bool:
        """Whether both lie on the same voxels, within a hundredth of a voxel."""
        return self.grid.differs_from(other.grid) is None

    def unusable(self, fault: str) -> "Series":
        """This series with a reason not to use it."""
        return replace(self, fault=fault)
