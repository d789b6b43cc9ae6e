"""Settings of a preparation: stored in the dataset as ``preparation.json``, and in each run that is planned for it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoseg.utils.errors import AutosegError
from autoseg.utils.files import first_fault, read_json, write_json

#: File of a prepared dataset.
PREPARATION_FILE = "preparation.json"


class ExamPreparation(BaseModel):
    """How raw exams become cases; every step can be switched.

    Attributes:
        channels: of the dataset, in order; None for those that are recognised.
        reference: channel or series to which the others are aligned; None for the scan of the highest resolution.
        orient: bring the axes into the canonical order and direction (LPS).
        coregister: align the series to the reference; else their headers' positions hold.
        spacing: mm, x, y, z, of the output; None for the reference's.
        interpolation: of images: third order, or nearest neighbour as Wacker et al. 2019, section IV C (d, e).
        labels: of label maps: the largest linearly interpolated mask, or the nearest voxel.
        brain_mask: pattern of brain masks below an exam's folder.
        skull_strip: ``atlas`` finds the brain with a template; ``auto`` does so for exams of a brain. It is stored as
            what it was found to mean, where that is the same for all exams of a dataset.
        atlas: skull-stripped template; None for the ICBM 152 T1 that nilearn ships.
        n4: correct the bias field.
        box: voxels, x, y, z, of a box round the middle of the brain or the body that the output is cut or padded to.
        crop: cut the output to the brain or the body.
        fill: channel → the channel that stands in where an exam lacks it (Wacker et al. 2019, section IV C).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    channels: tuple[str, ...] | None = None
    reference: str | None = None
    orient: bool = True
    coregister: bool = True
    spacing: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    interpolation: Literal["spline", "nearest"] = "spline"
    labels: Literal["linear", "nearest"] = "linear"
    brain_mask: str | None = None
    skull_strip: Literal["auto", "atlas", "none"] = "auto"
    atlas: Path | None = None
    n4: bool = False
    box: tuple[int, int, int] | None = None
    crop: bool = False
    fill: dict[str, str] = Field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write them into a dataset's folder."""
        write_json(folder / PREPARATION_FILE, self.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path) -> "ExamPreparation":
        """Read them from a dataset's folder.

        Raises:
            AutosegError: they are missing or damaged.
        """
        return cls.of(read_json(folder / PREPARATION_FILE), folder / PREPARATION_FILE)

    @classmethod
    def of(cls, stored: dict[str, Any], where: Path) -> "ExamPreparation":
        """The settings that a file holds.

        Args:
            stored: its content.
            where: the file, for messages.

        Raises:
            AutosegError: a value is not valid.
        """
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            raise AutosegError(f"{where} is damaged ({first_fault(error)}); prepare the dataset again.") from None
