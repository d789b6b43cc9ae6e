"""What a run predicts with: its folds, or a source that it keeps; and what the record says of it."""

from pathlib import Path

import pytest
import torch

from autoseg.inference.members import load_member
from autoseg.inference.results.record import FoundResults
from autoseg.runs.run import SOURCE, UNTOUCHED
from tests.builders import keep_share, make_run, make_tuned_plan
from tests.cli.test_plan_source import pretend_trained

CPU = torch.device("cpu")


@pytest.mark.parametrize("share", [SOURCE, UNTOUCHED])
def test_folds_of_a_run_that_keeps_its_source_are_that_source_s(tmp_path: Path, share: float) -> None:
    """As it predicts with all of them; where the run has more folds than the source, these are counted on."""
    run = pretend_trained(make_run(tmp_path, make_tuned_plan(), folds=3), folds=(0, 1, 2))
    keep_share(run, share)
    whole = load_member(run, None, None, CPU, "weights")
    assert whole.detail["folds"] == [0, 1]
    for folds, files in (([1], ["1"]), ([0, 2], ["0", "0"])):
        member = load_member(run, None, folds, CPU, "weights")
        assert [path.relative_to(run.path).as_posix() for path in member.stages[0].weights] == [
            f"small/source/{name}.safetensors" for name in files
        ]
        assert (member.detail["folds"], list(member.stages[0].by_fold)) == (folds, folds)
        assert member.last == whole.last == run.used(run.plan.stage())
        assert member.detail["source"] == whole.detail["source"]


@pytest.mark.parametrize(
    ("share", "harmonized", "how"),
    [
        (UNTOUCHED, True, "as it is"),
        (SOURCE, True, "as this run's plan predicts with it"),
        (SOURCE, False, "as it is"),
    ],
)
def test_the_record_says_how_a_source_is_kept(tmp_path: Path, share: float, harmonized: bool, how: str) -> None:
    """Not why: it may be that nothing was compared."""
    plan = make_tuned_plan() if harmonized else make_tuned_plan(preprocessing={})
    run = pretend_trained(make_run(tmp_path, plan), folds=(0, 1))
    keep_share(run, share)
    found = load_member(run, None, None, CPU, "weights").detail
    assert found["source"] == f"kept, {how}; small/source_share.json has what was compared"
    assert found["source_share"] == share


def test_results_of_a_kept_source_are_known_by_the_share_and_not_by_what_is_said_of_it(tmp_path: Path) -> None:
    """Earlier versions said it otherwise, and noted no share."""
    run = pretend_trained(make_run(tmp_path, make_tuned_plan()), folds=(0, 1))

    def made(share: float) -> dict[str, object]:
        keep_share(run, share)
        return {"run": str(run.path), **load_member(run, None, None, CPU, "weights").detail}

    now, other = made(UNTOUCHED), made(SOURCE)
    before = {**now, "source": "as it is: no tuning was better on held-out cases"}
    del before["source_share"]
    there = FoundResults({"runs": [before]}, {"a": {}}, ("a.nii.gz",))
    assert list(there.by({"runs": [now]})) == ["a"]
    assert list(FoundResults({"runs": [now]}, {"a": {}}, ("a.nii.gz",)).by({"runs": [now]})) == ["a"]
    assert FoundResults({"runs": [other]}, {"a": {}}, ("a.nii.gz",)).by({"runs": [now]}) == {}
