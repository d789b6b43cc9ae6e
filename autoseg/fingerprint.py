"""Fingerprint: what a planner may know about the data, and nothing else."""

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Intensity(_Model):
    """Intensities of one channel inside the foreground (all labelled voxels; non-zero voxels where none are labelled)."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_50: float
    percentile_99_5: float


class CaseFingerprint(_Model):
    """One case. Shapes are voxels and spacing mm, both ``(z, y, x)`` in canonical (LPS) order.

    Attributes:
        id: of the case.
        shape: before cropping.
        spacing: mm.
        cropped_shape: after cropping to the non-zero (or brain-mask) region.
        nonzero_share: share of the voxels inside the cropped box that are non-zero.
        intensities: channel name → statistics; channels that the case lacks are absent.
        label_voxels: label value → number of voxels.
    """

    id: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    cropped_shape: tuple[int, int, int]
    nonzero_share: float = 1.0
    intensities: dict[str, Intensity]
    label_voxels: dict[int, int]


class Fingerprint(_Model):
    """The whole dataset.

    Attributes:
        schema_version: of the file format.
        dataset: name.
        dimension: 2 for pictures, 3 for volumes.
        channels: names, in the dataset's order.
        modalities: channel name → modality, where the dataset says so.
        labels: label name → value, without background and ignore.
        regions: region name → values.
        ignore_label: value without a say.
        file_ending: of the label files.
        cases: one entry a labelled case.
        intensities: channel name → statistics pooled over all cases (for CT normalization).
    """

    schema_version: int = 1
    dataset: str
    dimension: int = 3
    channels: list[str]
    modalities: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, int]
    regions: dict[str, list[int]] = Field(default_factory=dict)
    ignore_label: int | None = None
    file_ending: str = ".nii.gz"
    cases: list[CaseFingerprint]
    intensities: dict[str, Intensity]
