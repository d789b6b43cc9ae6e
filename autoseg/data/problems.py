"""Problems of a dataset, and what checking one case finds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autoseg.data.dataset import Case
from autoseg.data.fingerprint import Measurement
from autoseg.data.image import Geometry

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """A problem of a dataset.

    Attributes:
        severity: an ``error`` must be corrected before training; a ``warning`` should be checked.
        case: name of the case, or ``""`` for the dataset as a whole.
        file: that has it, or None.
        what: description of the problem.
        remedy: how to correct it.
    """

    severity: Severity
    case: str
    file: Path | None
    what: str
    remedy: str


@dataclass
class CaseFindings:
    """Results of checking one case; small, as they come from another process."""

    case: Case
    problems: list[Problem] = field(default_factory=list)
    geometry: Geometry | None = None
    types: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    measurement: Measurement | None = None
    alpha: bool = False

    def add(self, severity: Severity, file: Path | None, what: str, remedy: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(severity, self.case.id, file, what, remedy))
