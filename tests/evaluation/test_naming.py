"""Names of inputs."""

from pathlib import Path

import pytest

from autoseg.evaluation.naming import name_inputs, short_names
from autoseg.utils.errors import UsageError


def names(*paths: str) -> list[str]:
    return short_names([[Path(path)] for path in paths])


def test_names_are_the_shortest_that_tell_apart() -> None:
    assert names("/x/run_a", "/x/run_b/metrics.csv", "/x/table.csv") == ["run_a", "run_b", "table"]
    assert names("/x/run_a/full/crossval", "/x/run_b/full/crossval") == ["run_a/full", "run_b/full"]
    assert names("/x/hnfnetv1-2.0.nii.gz", "/x/isen.mha") == ["hnfnetv1-2.0", "isen"]
    assert short_names([[Path("/x/a1.csv"), Path("/x/a2.csv")], [Path("/x/b.csv")]]) == ["a1+a2", "b"]


def test_the_same_twice() -> None:
    with pytest.raises(UsageError, match="/x/a is given twice"):
        names("/x/a", "/x/b", "/x/a")
    with pytest.raises(UsageError, match="r is given twice; give each input a name of its own"):
        name_inputs(["r=/x/a", "r=/x/b"])


def test_a_name_before_a_path_that_may_hold_equals_signs_and_commas(tmp_path: Path) -> None:
    odd = tmp_path / "lr=0.1,wide"
    odd.mkdir()
    found = name_inputs([str(odd), f"b={tmp_path}/x=1", "c=/x/1,/x/2"], several=True)
    assert found == {
        "lr=0.1,wide": [odd],
        "b": [tmp_path / "x=1"],
        "c": [Path("/x/1"), Path("/x/2")],
    }
    assert name_inputs(["c=/x/1,/x/2"]) == {"c": [Path("/x/1,/x/2")]}
    assert name_inputs({"d": ["/x/1", Path("/x/2")]}) == {"d": [Path("/x/1"), Path("/x/2")]}
    with pytest.raises(UsageError, match="r= is not of the form NAME=PATH"):
        name_inputs(["r="])
    with pytest.raises(UsageError, match="input 2 names no file or folder"):
        name_inputs(["/x/a", ","], several=True)
    with pytest.raises(UsageError, match="d names no file or folder"):
        name_inputs({"d": []})
