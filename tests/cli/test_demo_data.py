from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.data.dataset import Dataset
from autoseg.utils.errors import AutosegError, UsageError


def test_data_only(tmp_path):
    arguments = ["demo", "--data-only", "--out", str(tmp_path), "--cases", "2", "--unlabelled", "1", "--raters", "2"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    dataset = Dataset.open(tmp_path / "dataset")
    assert (len(dataset.cases), len(dataset.unlabelled)) == (2, 1)
    assert len(dataset.cases[0].raters) == 2
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, AutosegError), "other phantoms are not mixed with these"


@pytest.mark.parametrize(("option", "value"), [("--max-time", "5m"), ("--device", "cpu")])
def test_options_of_the_training_need_one(tmp_path: Path, option: str, value: str) -> None:
    refused = CliRunner().invoke(app, ["demo", "--data-only", "--out", str(tmp_path / "demo"), option, value])
    assert isinstance(refused.exception, UsageError)
    assert str(refused.exception).startswith(f"{option} is about the training, and --data-only stops before it")
    assert not (tmp_path / "demo").exists()


def test_looks(tmp_path: Path) -> None:
    shown = ["demo", "--data-only", "--out", str(tmp_path / "demo"), "--cases", "2"]
    result = CliRunner().invoke(app, [*shown, "--look", "lacks=t2", "--look", "contrast=1.5"])
    assert result.exit_code == 0, result.output
    assert "t2" not in Dataset.open(tmp_path / "demo" / "dataset").channels
    for wrong, told in (("size=3", "one of contrast"), ("noise=loud", "no number"), ("lacks=pd", "phantoms have")):
        refused = CliRunner().invoke(app, [*shown, "--look", wrong])
        assert refused.exit_code != 0
        assert told in str(refused.exception)
