"""``autoseg volumes``: options, what is printed and written."""

import json
from pathlib import Path

from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.utils.errors import UsageError
from tests.clinical.test_volumes import label_map, table


def test_table_files_and_json(tmp_path: Path) -> None:
    for name, voxels in (("a", 100), ("b", 50)):
        label_map(tmp_path / "results" / f"{name}.nii.gz", voxels, 10)
    days = table(tmp_path / "days.csv", ["case,patient,day", "a,p,0", "b,p,30"])
    given = [str(tmp_path / "results"), "--labels", "all=1+2", "--days", str(days)]
    shown = CliRunner().invoke(app, ["volumes", *given, "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert "2 exams: volumes in ml" in shown.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"volumes.csv", "volumes.html"}
    printed = CliRunner().invoke(app, ["volumes", *given, "--json"])
    assert [exam["ml"]["all"] for exam in json.loads(printed.stdout)] == [2.2, 1.2]
    both = CliRunner().invoke(app, ["volumes", *given, "--model", str(tmp_path)])
    assert isinstance(both.exception, UsageError)
