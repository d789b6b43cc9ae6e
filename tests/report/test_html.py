"""The report of a run: complete, self-contained, escaped, and there whatever is missing."""

import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from safetensors.numpy import save_file

from autoseg.cli.main import run as main
from autoseg.crossvalidation.fold_training import start_over
from autoseg.crossvalidation.source_table import SourceRow, SourceTable
from autoseg.evaluation.protocol import STANDARD_METRICS
from autoseg.evaluation.summary import Evaluation, Row
from autoseg.postprocessing.choice import postprocess
from autoseg.report import write_report
from autoseg.report.collect import collect, pick_cases, read_history
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import SPLIT
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import write_json
from tests.report.fake import CASES, make_run

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Collects text and links, and insists that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(found["href"] or "")
        if tag == "img":
            assert found["alt"]
            self.images.append(found["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def parse(path: Path) -> tuple[Checker, str]:
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    assert not checker.open
    return checker, re.sub(r"\s+", " ", " ".join(checker.text))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with both folds trained and its report written."""
    run = make_run(tmp_path_factory.mktemp("whole"))
    assert write_report(run) == run.path / "report" / "index.html"
    return run


def test_everything_is_on_the_page(whole: Run) -> None:
    run = whole
    page, text = parse(run.path / "report" / "index.html")
    evaluation = Evaluation.read(run.path / "3d_fullres" / "crossval")
    assert f"{evaluation.mean('dice'):.3f}" in text
    for expected in ("cuboids <3>", "covers <most> of the median image", "8×16×16", *CASES, "flair", "2 of 2"):
        assert expected in text
    for what in ("Best case", "Median case", "Worst case"):
        assert what in text
    assert len(page.images) == 5  # distribution, three cases, curves
    assert "not at hand" not in text


def test_the_page_needs_no_other_file(whole: Run) -> None:
    path = whole.path / "report" / "index.html"
    page, _ = parse(path)
    assert all(source.startswith("data:image/") for source in page.images)
    content = path.read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|iframe)", content)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", content)


def test_links_lead_to_files(whole: Run) -> None:
    page, _ = parse(whole.path / "report" / "index.html")
    files = [link for link in page.links if not link.startswith("#")]
    assert "../3d_fullres/crossval/metrics.csv" in files
    for link in files:
        assert (whole.path / "report" / link).is_file()


def test_links_lead_to_files_whatever_the_run_is_called(tmp_path: Path) -> None:
    """A browser takes what follows a # for a place on the page."""
    run = make_run(tmp_path / "exp #1, 50%", folds=(0,))
    page, _ = parse(write_report(run, tmp_path / "elsewhere" / "page.html"))
    files = [link for link in page.links if not link.startswith("#")]
    assert len(files) > 4
    for link in files:
        assert (tmp_path / "elsewhere" / unquote(urlsplit(link).path)).is_file()


def test_folds_of_another_split_are_not_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_json(run.fold("3d_fullres", 1).done, {SPLIT: "another"})
    one = collect(run, "3d_fullres", 2)
    assert one is not None
    assert one.folds == (0,)
    write_json(run.fold("3d_fullres", 0).done, {SPLIT: "another"})
    none = collect(run, "3d_fullres", 2)
    assert none is not None
    assert none.folds == ()
    assert "Fold 0, 1 was trained under another plan or split" in none.note


def test_predictions_are_shown_where_the_data_is_gone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    shutil.rmtree(tmp_path / "data")
    page, text = parse(write_report(run))
    assert text.count("The dataset's files are not at hand") == 3
    assert len(page.images) == 5


def test_missing_folds_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path, folds=(1,))
    _, text = parse(write_report(run))
    assert "1 of 2 folds are validated; the figures below are theirs." in text
    assert "case_3" in text
    assert "case_1" not in text


def test_chosen_postprocessing_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert "Post-processing" not in parse(write_report(run))[1]
    chosen = postprocess(run)
    page, text = parse(write_report(run))
    assert f"Chosen on 4 validation cases (folds 0, 1 of 2): {'; '.join(map(str, chosen.steps)) or 'no step'}" in text
    outer, mean = chosen.after.outputs["outer"], chosen.after.mean
    assert outer is not None
    assert mean is not None
    assert f"{outer:.4f}" in text
    assert f"{mean:.4f}" in text
    assert "../3d_fullres/postprocessing.json" in page.links
    weights = run.fold("3d_fullres", 1).weights
    before = weights.read_bytes()
    save_file({"kernel": np.zeros(1, np.float32)}, weights)
    text = parse(write_report(run))[1]
    assert "It was decided for other weights and is not applied" in text
    assert "Chosen on" not in text
    assert f"{outer:.4f}" not in text
    weights.write_bytes(before)
    assert "Chosen on" in parse(write_report(run))[1]
    (run.path / "3d_fullres" / "postprocessing.json").write_text("{}")
    assert "postprocessing.json is damaged" in parse(write_report(run))[1]


def test_a_run_that_was_only_planned_has_a_report(tmp_path: Path) -> None:
    page, text = parse(write_report(make_run(tmp_path, folds=()), tmp_path / "elsewhere" / "page.html"))
    assert "Nothing is trained yet" in text
    assert not page.images
    assert (tmp_path / "elsewhere" / "page.html").is_file()


def test_a_fold_in_training_shows_its_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path, folds=(0,))
    folder = run.fold("3d_fullres", 0).folder
    shutil.rmtree(folder / "validation")
    (folder / "weights.safetensors").unlink()
    (folder / "history.csv").write_text("epoch,loss\n1,0.9\n2,\n3,zero\n")
    page, text = parse(write_report(run))
    assert "0 of 2 folds are validated." in text
    assert len(page.images) == 1


def test_a_fold_that_is_trained_anew_shows_no_scores_of_before(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fold = run.fold("3d_fullres", 0)
    fold.weights.unlink()
    results = collect(run, "3d_fullres", 2)
    assert results is not None
    assert results.evaluation is not None
    assert results.evaluation.cases == list(CASES[2:])
    assert results.note.startswith("1 of 2 folds are validated")
    start_over(fold)
    assert not (fold.validation / "summary.json").exists()
    assert [curve.fold for curve in results.curves] == [0, 1]


def test_the_table_of_a_fine_tuning_planned_before_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    SourceTable([SourceRow("as it is", 4, 0.75)]).write(run.path / "3d_fullres" / "crossval")
    assert "Fine-tuning" not in parse(write_report(run))[1]


def test_damaged_and_lost_files_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.fold("3d_fullres", 0).validation / "summary.json").write_text("{")
    (run.fold("3d_fullres", 1).validation / "case_3.nii.gz").unlink()
    _, text = parse(write_report(run))
    assert "is not valid JSON" in text
    assert "case_3.nii.gz does not exist" in text


def test_a_history_may_lack_columns_and_values(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss,validation_dice\n1,0.5,\n2,0.4,0.8\n3,x\n")
    history = read_history(path)
    assert history["loss"][:2].tolist() == [0.5, 0.4]
    assert str(history["validation_dice"].tolist()) == "[nan, 0.8, nan]"
    with pytest.raises(AutosegError, match="can't be read"):
        read_history(tmp_path / "nothing.csv")


def test_a_configuration_that_was_not_begun_has_no_results(tmp_path: Path) -> None:
    assert collect(make_run(tmp_path, folds=()), "3d_fullres", 2) is None


def test_best_median_and_worst() -> None:
    def evaluation(**scores: float) -> Evaluation:
        rows = (Row(case, "x", dict.fromkeys(STANDARD_METRICS, score)) for case, score in scores.items())
        return Evaluation(tuple(rows), ("x",))

    picked = pick_cases(evaluation(a=0.2, b=0.9, c=0.7, d=float("nan")))
    assert picked == [("Best", "b"), ("Median", "c"), ("Worst", "a")]
    assert pick_cases(evaluation(a=0.2, b=0.9)) == [("Best", "b"), ("Worst", "a")]
    assert pick_cases(evaluation(a=float("nan"))) == []


def test_the_command_prints_where_the_report_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made = make_run(tmp_path, folds=(0,))
    monkeypatch.setattr(sys, "argv", ["autoseg", "report", str(made.path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert capsys.readouterr().out.strip() == str(made.path / "report" / "index.html")
    monkeypatch.setattr(sys, "argv", ["autoseg", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "is no run folder" in capsys.readouterr().err
