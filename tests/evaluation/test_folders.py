"""Predictions and references of the same case put together."""

from pathlib import Path

import pytest

from autoseg.data.result_files import cases_told_in
from autoseg.evaluation.agreement_folders import agreement
from autoseg.evaluation.cases import Structure
from autoseg.evaluation.folders import evaluate, label_maps, match
from autoseg.evaluation.protocol import EvaluationProtocol
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import write_json
from tests.builders import blob, write

OUTER = [Structure("outer", (1,))]
DICE = EvaluationProtocol(metrics=("dice",))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Of a command that was killed after case a; b and its probability are of the weights before, d is drawn."""
    folder = tmp_path / "results"
    for name in ("a", "a_probability_outer", "b", "b_probability_outer", "c", "d"):
        write(folder / f"{name}.nii.gz", blob())
    files = [f"{name}.nii.gz" for name in ("a", "a_probability_outer", "b", "b_probability_outer", "c")]
    write_json(folder / "predictions.json", {"cases": {"a": {}}, "kept_from_before": ["c"], "files": files})
    return folder


def test_of_many_missing_predictions_the_first_are_named() -> None:
    """As of many that are left out: a message stays readable where a whole dataset is predicted in part."""
    references: dict[str, Path] = {f"case_{number:02}": Path(f"{number}.nii.gz") for number in range(40)}
    one = {"case_00": Path("p.nii.gz")}
    first = ", ".join(f"case_{number:02}" for number in range(1, 11))
    said = rf"lacks predictions of 39 of 40 cases: {first} and 29 more; predict them"
    with pytest.raises(AutosegError, match=said):
        match(one, references, "predictions", "DS")
    assert match(one, references, "predictions", "DS", partial=True) == [("case_00", one["case_00"], Path("0.nii.gz"))]


def test_results_of_another_model_are_not_measured_as_this_one_s(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references = tmp_path / "references"
    for case in "abcd":
        write(references / f"{case}.nii.gz", blob())
    with pytest.raises(AutosegError, match=r"results lacks predictions of 1 of 4 cases: b; predict them, or give"):
        evaluate(results, references, targets=OUTER, protocol=DICE)
    assert f"{results}: b left out; predictions.json says nothing of them" in capsys.readouterr().err
    found = evaluate(results, references, targets=OUTER, protocol=DICE, partial=True)
    assert [row.case for row in found.rows] == ["a", "c", "d"]


def test_results_of_another_model_agree_with_nobody(results: Path, tmp_path: Path) -> None:
    for rater in ("anna", "ben"):
        for case in "ab":
            write(tmp_path / rater / f"{case}.nii.gz", blob())
    found = agreement([tmp_path / "anna", tmp_path / "ben"], models=[results], targets=OUTER)
    assert list(found.values("results", "anna", "outer")) == ["a"]
    assert list(found.values("anna", "ben", "outer")) == ["a", "b"]


def test_of_another_model_s_results_alone_nothing_is_measured(results: Path) -> None:
    """As of a command that was killed before its first case; without a record, or one of results, all are measured."""
    (results / "d.nii.gz").unlink()
    told = {"cases": {}, "kept_from_before": [], "files": [path.name for path in results.glob("*.nii.gz")]}
    write_json(results / "predictions.json", told)
    assert cases_told_in(results) == set()
    with pytest.raises(AutosegError, match=r"results holds nothing but results of which its predictions\.json says"):
        label_maps(results)
    for other in ({"files": told["files"]}, {}):
        write_json(results / "predictions.json", other)
        assert cases_told_in(results) is None
        assert {"a", "b", "c"} <= set(label_maps(results))
    assert list(label_maps(results / "b.nii.gz")) == ["b"]
