"""Predictions and references of the same case put together."""

from pathlib import Path

import pytest

from autoseg.evaluation.folders import match
from autoseg.utils.errors import AutosegError


def test_of_many_missing_predictions_the_first_are_named() -> None:
    """As of many that are left out: a message stays readable where a whole dataset is predicted in part."""
    references: dict[str, Path] = {f"case_{number:02}": Path(f"{number}.nii.gz") for number in range(40)}
    one = {"case_00": Path("p.nii.gz")}
    first = ", ".join(f"case_{number:02}" for number in range(1, 11))
    said = rf"lacks predictions of 39 of 40 cases: {first} and 29 more; predict them"
    with pytest.raises(AutosegError, match=said):
        match(one, references, "predictions", "DS")
    assert match(one, references, "predictions", "DS", partial=True) == [("case_00", one["case_00"], Path("0.nii.gz"))]
