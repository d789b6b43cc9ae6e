"""``autoseg compare``: arguments, exit codes, what is printed and written."""

import csv
import json
import sys
from pathlib import Path

import pytest

from autoseg.cli.main import run


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["autoseg", "compare", *(str(a) for a in arguments)])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        run()
    return int(stopped.value.code or 0)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[str, str]:
    """66 patients, a method and one that is better by 0.01 in each but three, with summaries in the last rows."""
    found = []
    for name, gain in (("plain", 0.0), ("pretrained", 0.01)):
        lines = ["Label,Dice_WT,Hausdorff95_WT"]
        for number in range(66):
            sign = -1 if number % 22 == 0 else 1
            lines.append(f"Brats_{number},{0.7 + number / 400 + sign * gain:.5f},{9 - number / 20 - 100 * gain}")
        lines += ["Mean,0.1,0.1", "StdDev,0.1,0.1", "Median,0.1,0.1", "25quantile,0.1,0.1", "75quantile,0.1,0.1"]
        path = tmp_path / f"{name}_1.csv"
        path.write_text("\n".join(lines) + "\n")
        found.append(f"{name}={path}")
    return found[0], found[1]


OPTIONS = ("--case", "Label", "--metrics", "Dice_WT,Hausdorff95_WT")


def test_table_sentence_and_file(
    tables: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out" / "table.csv"
    assert call(monkeypatch, *tables, *OPTIONS, "--out", out) == 0
    captured = capsys.readouterr()
    assert "left out the rows Mean, StdDev, Median, 25quantile, 75quantile, which are no cases" in captured.err
    assert "66 cases, compared with plain" in captured.out
    assert "Wilcoxon signed-rank, Holm-corrected over 2 comparisons" in captured.out
    # 0.7 + 32.5 / 400 = 0.78125; 63 of 66 gain 0.01, three lose it: + 0.6 / 66.
    assert "0.7903 ±" in captured.out
    assert "+0.0091" in captured.out
    assert "pretrained is significantly better than plain in 2 of 2 comparisons: Dice_WT (mean +0.0091" in captured.out
    assert "Hausdorff95_WT (mean −1.00" in captured.out
    with open(out, newline="") as file:
        assert [line["name"] for line in csv.DictReader(file)] == ["plain", "pretrained"] * 2


def test_the_baseline_can_be_chosen_and_a_pipe_is_wide_enough_for_raw_p(
    tables: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, *tables, *OPTIONS, "--baseline", "pretrained") == 0
    printed = capsys.readouterr().out
    assert "plain is significantly worse than pretrained in 2 of 2" in printed
    heading = next(line for line in printed.splitlines() if "p Holm" in line)
    assert heading.split()[-4:] == ["p", "p", "Holm", "effect"]


def test_json_is_all_that_is_printed(
    tables: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    options = ("--seed", 3, "--resamples", 200, "--confidence", 0.9, "--exclude", "Brats_0,Brats_1", "--json")
    assert call(monkeypatch, *tables, *OPTIONS, *options) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert (found["cases"], found["seed"], found["resamples"], found["confidence"]) == (64, 3, 200, 0.9)
    assert found["better"] == {"Dice_WT": "more", "Hausdorff95_WT": "less"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "is no table of autoseg's; say which column names the case"),
        (("--case", "Label", "--metrics", ","), "--metrics names nothing"),
        ((*OPTIONS, "--baseline", "x"), "--baseline x is none of the inputs; choose one of plain, pretrained"),
        ((*OPTIONS, "--confidence", "95"), "--confidence 95.0 is no level of confidence"),
    ],
)
def test_wrong_usage_ends_with_2(
    tables: tuple[str, str],
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert call(monkeypatch, *tables, *options) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_ends_with_1(
    tables: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, tables[0], "other=nowhere.csv", *OPTIONS) == 1
    assert "nowhere.csv does not exist" in capsys.readouterr().err
