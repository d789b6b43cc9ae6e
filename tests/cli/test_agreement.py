"""``autoseg agreement``: arguments, exit codes, what is printed and written."""

import json
import sys
from pathlib import Path

import pytest

from autoseg.cli.main import run
from tests.evaluation.test_agreement import rater


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["autoseg", "agreement", *(str(a) for a in arguments)])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        run()
    return int(stopped.value.code or 0)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    cases = {f"case_{number}": 12 + number // 2 for number in range(8)}
    shifts = {"anna": 0, "ben": 1, "cem": 2, "net": 8}
    return [rater(tmp_path, name, {c: n + shift for c, n in cases.items()}) for name, shift in shifts.items()]


def test_tables_sentence_and_files(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    *raters, net = folders
    out = tmp_path / "out"
    options = ("--labels", "whole=1+2", "--model", f"unet={net}", "--consensus", "staple", "--out", out)
    assert call(monkeypatch, *raters, *options, "--metrics", "dice,hd") == 0
    captured = capsys.readouterr()
    for text in (
        "Dice, 8 cases: mean ± standard deviation",
        "HD mm, 8 cases",
        "anna – cem",
        "raters, mean of pairs",
        "unet – consensus",
        "unet, mean of raters",
        "unet is significantly worse than the other raters in 3 of 3 comparisons: whole, anna",
    ):
        assert text in captured.out
    assert "consensus" in captured.err
    assert len(list((out / "consensus").glob("*.nii.gz"))) == 8
    assert json.loads((out / "agreement.json").read_text())["comparison"]["baseline"] == "the other raters"


def test_json_is_all_that_is_printed(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, *folders[:2], "--json", "--empty", "brats", "--tolerance", 1, "--metrics", "nsd") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert found["raters"] == ["anna", "ben"]
    assert found["comparison"] is None
    # The second rater's last column is within 1 mm of the first's: all of both surfaces.
    assert next(line for line in found["agreement"] if line["target"] == "label 2")["mean"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--consensus", "mean"), "--consensus mean is unknown"),
        (("--metrics", "precision"), "--metrics precision asks which of two raters is right"),
        (("--labels", "tumor"), "'tumor' is not of the form"),
        (("--empty", "zero"), "--empty zero is unknown"),
        (("--workers", "0"), "--workers 0: at least 1 is needed"),
    ],
)
def test_wrong_usage_ends_with_2(
    folders: list[Path],
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert call(monkeypatch, *folders, *options) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_missing_folder_ends_with_1(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, folders[0], "nowhere") == 1
    assert "nowhere does not exist" in capsys.readouterr().err
