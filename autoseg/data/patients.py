"""Patients: who a case is of, found in its name, so that exams of one patient are on one side of a split."""

import re
from collections import Counter
from collections.abc import Iterable

from autoseg.data.description import Case, Description
from autoseg.utils.errors import UsageError

#: Naming schemes: what a case's name holds, and a pattern with the group ``patient``. The first that fits counts.
SCHEMES = {
    "BraTS from 2023, patient and time point": re.compile(r"(?P<patient>BraTS-[A-Z]+-\d+)-\d{3}"),
    "The Cancer Genome Atlas": re.compile(r"(?P<patient>TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})[-_.].+"),
    "ACDC, two phases of one heart": re.compile(r"(?P<patient>patient\d+)_frame\d+"),
    "subject and session in one name": re.compile(
        r"(?P<patient>.*\d)[_\-. ]?(?:ses|session|visit|timepoint|tp)[_\-. ]?\d+(?:[_\-. ].+)?", re.I
    ),
    "BIDS, subject and session or run": re.compile(r"(?P<patient>sub-[A-Za-z0-9]+)_.+"),
    "left and right": re.compile(r"(?P<patient>.*\d)[_\-. ]?(?:L|R|OS|OD|left|right|Left|Right)"),
}


def patient_of(case_id: str) -> str:
    """The patient in a case's name, by well-known naming schemes, or ``""``."""
    return next((match["patient"] for scheme in SCHEMES.values() if (match := scheme.fullmatch(case_id))), "")


def pattern_of(cases: Iterable[Case]) -> str:
    """How the patients of a dataset's cases are found, in words and as a pattern; ``""`` where each is a patient."""
    counts: Counter[str] = Counter()
    for case in cases:
        for name, scheme in SCHEMES.items():
            match = scheme.fullmatch(case.id)
            if match:
                counts[name] += match["patient"] == case.group
                break
    found = [name for name, count in counts.most_common() if count]
    return "; ".join(f"{name}: {SCHEMES[name].pattern}" for name in found)


def regrouped(description: Description, pattern: str) -> Description:
    """A dataset with its patients found by a pattern; a case in whose name it finds nothing is a patient of its own.

    Args:
        description: of the dataset.
        pattern: regular expression; its first group, or all that it finds in a case's name, is the patient.

    Raises:
        UsageError: it is no regular expression, or fits no case.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--patients {pattern} is no regular expression ({error}).") from None

    def moved(case: Case) -> Case:
        return case.model_copy(update={"group": found_by(compiled, case.id)})

    everyone = [*description.cases, *description.unlabelled]
    if everyone and not any(found_by(compiled, case.id) for case in everyone):
        raise UsageError(f"--patients {pattern} finds nothing in the names of the cases, as {everyone[0].id}.")
    return description.model_copy(
        update={
            "cases": tuple(moved(case) for case in description.cases),
            "unlabelled": tuple(moved(case) for case in description.unlabelled),
        }
    )


def found_by(pattern: re.Pattern[str], case_id: str) -> str:
    """The patient that a pattern finds in a case's name, or ``""``."""
    match = pattern.search(case_id)
    if match is None:
        return ""
    return (match.group(1) if pattern.groups else match.group(0)) or ""
