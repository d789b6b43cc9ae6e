"""How far a cohort lies from a source, of two fingerprints that are made by hand."""

from pathlib import Path

import pytest

from autoseg.data.fingerprint import Fingerprint, Intensity
from autoseg.plans.target import Output, Target
from autoseg.transfer.gap import gaps
from tests.builders import make_dataset, make_fingerprint


@pytest.fixture
def source(tmp_path: Path) -> Fingerprint:
    return make_fingerprint(make_dataset(tmp_path / "source", 3))


def labels(*outputs: tuple[str, list[int]]) -> Target:
    return Target(kind="labels", outputs=[Output(name=name, values=v, paint=v[0]) for name, v in outputs])


def test_by_hand(source: Fingerprint, tmp_path: Path) -> None:
    """Slices of 3 mm instead of 1 in one of two cases, other intensities in both, a structure twice as large."""
    cohort = make_fingerprint(make_dataset(tmp_path / "cohort", 2))
    bright = Intensity(mean=300, std=50, percentile_00_5=0, percentile_50=250, percentile_99_5=900)
    first, second = cohort.cases
    cases = [
        first.model_copy(update={"spacing": (3.0, 1.0, 1.0), "intensities": {"mr": bright}}),
        second.model_copy(update={"intensities": {"mr": bright}, "label_voxels": {1: 100, 2: 60}}),
    ]
    cohort = cohort.model_copy(update={"cases": cases})
    targets = (labels(("rind", [1]), ("core", [2])), labels(("outer", [1]), ("inner", [2])))
    found = {gap.name: gap for gap in gaps(cohort, source, {"mr": "mr"}, {"rind": "outer", "core": "inner"}, targets)}
    spacing = found["spacing z, mm"]
    assert (spacing.source, spacing.cohort, spacing.outside) == ((1, 1, 1), (2, 1, 3), 0.5)
    assert found["spacing x, mm"].outside == 0
    assert found["field of view z, mm"].cohort == (20, 10, 30)
    assert (found["mr, median intensity"].source[0], found["mr, median intensity"].cohort[0]) == (100, 250)
    assert found["mr, median intensity"].outside == 1
    assert found["mr, standard deviation"].outside == 0
    # Voxels of the first case are three times as large: 0.3 ml and 0.09 ml.
    assert found["rind, ml"].cohort == pytest.approx((0.2, 0.1, 0.3))
    assert found["core, ml"].cohort == pytest.approx((0.075, 0.06, 0.09))
    assert found["core, ml"].source == pytest.approx((0.03, 0.03, 0.03))


def test_what_is_not_known_is_left_out(source: Fingerprint) -> None:
    targets = (labels(("outer", [1])), labels(("inner", [2])))
    imported = source.model_copy(update={"cases": [], "intensities": {}})
    assert gaps(source, imported, {"mr": "mr"}, {}, targets) == []
    empty = [case.model_copy(update={"intensities": {}, "label_voxels": {}}) for case in source.cases]
    known = {gap.name for gap in gaps(source, source.model_copy(update={"cases": empty}), {"mr": "mr"}, {}, targets)}
    assert known == {f"{what} {axis}, mm" for what in ("spacing", "field of view") for axis in "zyx"}


def test_intensities_of_cases_without_labels_are_left_out(source: Fingerprint) -> None:
    """They are of whatever is not zero, and would stretch the range of the source's lesions."""
    targets = (labels(("outer", [1])), labels(("inner", [2])))
    dark = Intensity(mean=-800, std=400, percentile_00_5=-1000, percentile_50=-1000, percentile_99_5=90)
    negative = source.cases[0].model_copy(update={"intensities": {"mr": dark}, "label_voxels": {1: 0, 2: 0}})
    other = source.model_copy(update={"cases": [negative, *source.cases[1:]]})
    for cohort, known in ((source, other), (other, source)):
        found = {gap.name: gap for gap in gaps(cohort, known, {"mr": "mr"}, {}, targets)}
        gap = found["mr, median intensity"]
        assert gap.source == gap.cohort == (100, 100, 100)
        assert gap.outside == 0


def test_an_imported_source_knows_the_intensities_of_all_its_cases_together(source: Fingerprint) -> None:
    """Its median and percentiles beside the cohort's; two of three cases have a median beyond the percentiles."""
    targets = (labels(("outer", [1])), labels(("inner", [2])))
    of_voxels = Intensity(mean=320, std=60, percentile_00_5=150, percentile_50=300, percentile_99_5=500)
    imported = source.model_copy(update={"cases": [], "intensities": {"T1": of_voxels}})
    like_it = source.cases[0].model_copy(update={"intensities": {"mr": of_voxels}})
    cohort = source.model_copy(update={"cases": [like_it, *source.cases[1:]]})
    (gap,) = gaps(cohort, imported, {"mr": "T1"}, {"outer": "inner"}, targets)
    assert (gap.name, gap.source, gap.cohort) == ("mr, median intensity", (300, 150, 500), (100, 0, 200))
    assert gap.outside == pytest.approx(2 / 3)
