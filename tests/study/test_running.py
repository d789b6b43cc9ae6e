"""Running a study: what is trained, what is left alone, and what happens after a kill, a failure, a changed file."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.data.dataset import Dataset
from autoseg.evaluation.masks import BRATS_PENALTY_MM
from autoseg.planning.request import Request
from autoseg.preprocessing.dataset import preprocess
from autoseg.runs.run import Run
from autoseg.study import StudyTable, sweep
from autoseg.study.preparation import Study
from autoseg.study.running import share_preprocessed
from autoseg.utils.errors import AutosegError
from autoseg.utils.lock import held
from tests.builders import blob, make_configuration, make_plan, make_run, write
from tests.study.conftest import Trainings
from tests.transfer.test_carried import Note

Grid = Callable[[str], Path]
Sweep = Callable[[str], StudyTable]

ONE = '[[setting]]\nname = "one"\n'
TWO = ONE + '[[setting]]\nname = "two"\nset = { batch_size = 3 }\n'
HEAD = "folds = [0, 1]\nseeds = [0, 7]\n"


@pytest.fixture
def run(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str], trainings: Trainings) -> Sweep:
    return lambda text: sweep(dataset, grid(text), tmp_path / "out", Request(device="cpu", workers=1))


def test_every_setting_seed_and_fold_once(run: Sweep, trainings: Trainings, tmp_path: Path) -> None:
    table = run(HEAD + TWO)
    everything = [f"{name} {seed} {fold}" for name in ("one", "two") for seed in (0, 7) for fold in (0, 1)]
    assert trainings.names() == everything
    assert table.failed == []
    assert Run.open(tmp_path / "out" / "two" / "seed_7").plan.configurations["small"].batch_size == 3
    run(HEAD + TWO)
    assert trainings.names() == []


def test_what_is_carried_is_in_every_run(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str], trainings: Trainings
) -> None:
    """And the planner is asked again where it is something else; its stand-in here plans the same."""
    source = grid("folds = [0]\nseeds = [0]\n" + TWO)
    for text in ("a", "b"):
        sweep(dataset, source, tmp_path / "out", Request(device="cpu", workers=1, carried=(Note(text),)))
    assert all((tmp_path / "out" / name / "seed_0" / "note_a").exists() for name in ("one", "two"))
    assert len(planned) == 2


def test_a_killed_study_goes_on(run: Sweep, trainings: Trainings) -> None:
    trainings.wrong["two", 0, 1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(HEAD + TWO)
    assert trainings.names() == ["one 0 0", "one 0 1", "one 7 0", "one 7 1", "two 0 0"]
    trainings.wrong.clear()
    assert run(HEAD + TWO).failed == []
    assert trainings.names() == ["two 0 1", "two 7 0", "two 7 1"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AutosegError("the loss is not a number."), "seed 0: the loss is not a number."),
        (MemoryError(), "seed 0: out of memory (MemoryError)"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory (CUDA out of memory. Tried)"),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), "seed 0: out of memory (CUDNN_STATUS_ALLOC_FAILED)"),
        (ValueError("odd\nthing"), "seed 0: ValueError: odd"),
    ],
)
def test_a_failed_setting_stops_no_other(
    run: Sweep, trainings: Trainings, tmp_path: Path, error: Exception, reason: str
) -> None:
    trainings.wrong["one", 0, 1] = error
    table = run(HEAD + TWO)
    # Its other seed and the other setting are trained.
    assert trainings.names() == ["one 0 0", "one 7 0", "one 7 1", "two 0 0", "two 0 1", "two 7 0", "two 7 1"]
    assert table.failed == ["one"]
    assert reason in table.results[0].note
    assert table.comparison is None
    assert "failed" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "one" / "seed_0" / "failed.txt").exists() is not isinstance(error, AutosegError)
    trainings.wrong.clear()
    assert run(HEAD + TWO).failed == []
    assert trainings.names() == ["one 0 1"]
    assert not (tmp_path / "out" / "one" / "seed_0" / "failed.txt").exists()


def test_a_changed_setting_is_trained_anew_and_the_old_run_kept(
    run: Sweep, trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run("folds = [0]\n" + TWO)
    trainings.names()
    run("folds = [0]\n" + TWO.replace("= 3", "= 2"))
    assert trainings.names() == ["two 0 0"]
    assert Run.open(tmp_path / "out" / "replaced" / "two_seed_0_1").plan.configurations["small"].batch_size == 3
    assert "two, seed 0 has changed since it was trained" in capsys.readouterr().err
    run("folds = [0]\nepochs = 5\n" + TWO.replace("= 3", "= 2"))
    assert trainings.names() == ["one 0 0", "two 0 0"]
    assert (tmp_path / "out" / "replaced" / "two_seed_0_2").is_dir()


def test_another_convention_for_absent_structures_trains_nothing(
    run: Sweep, trainings: Trainings, dataset: Dataset
) -> None:
    """The tables follow it, and back."""
    label = dataset.case("case_0").label
    assert isinstance(label, Path)
    write(label, np.minimum(blob(), 1))  # no "inner", which all predictions have

    def distance(text: str) -> float:
        return run(text + HEAD + TWO).results[0].values("hd95")["inner"]["case_0"]

    assert math.isnan(distance(""))
    trainings.names()
    for empty, expected in (("brats", BRATS_PENALTY_MM), ("skip", math.nan), ("brats", BRATS_PENALTY_MM)):
        assert distance(f'empty = "{empty}"\n') == pytest.approx(expected, nan_ok=True)
    assert trainings.names() == []


def test_runs_whose_identity_held_the_rules_of_evaluation_go_on(
    run: Sweep, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As earlier versions wrote it."""
    with monkeypatch.context() as earlier:
        earlier.setattr(Study, "identity", lambda of, one, seed: of._identity(one, seed, of.plans[one.name].evaluation))
        run('empty = "brats"\n' + HEAD + TWO)
    assert len(trainings.names()) == 8
    for text in ('empty = "brats"\n', ""):
        run(text + HEAD + TWO)
    assert trainings.names() == []


def test_a_changed_setting_that_is_being_trained_is_not_moved(run: Sweep, trainings: Trainings, tmp_path: Path) -> None:
    """Nor is another one that has changed as well: what is refused has moved nothing."""
    run("folds = [0]\n" + TWO)
    trainings.names()
    out = tmp_path / "out"
    named = rf"fold 0 of small in {out}/two/seed_0 is being trained by process \d+ on .+; wait for it, or stop it first"
    with held(out / "two" / "seed_0" / "small" / "fold_0", "it"), pytest.raises(AutosegError, match=named):
        run("folds = [0]\nepochs = 5\n" + TWO)
    assert trainings.names() == []
    assert not (out / "replaced").exists()
    run("folds = [0]\nepochs = 5\n" + TWO)
    assert trainings.names() == ["one 0 0", "two 0 0"]
    assert sorted(path.name for path in (out / "replaced").iterdir()) == ["one_seed_0_1", "two_seed_0_1"]


def test_more_folds_seeds_and_settings_reuse_what_is_there(
    run: Sweep, trainings: Trainings, capsys: pytest.CaptureFixture
) -> None:
    run("folds = [0]\n" + TWO)
    trainings.names()
    run("folds = [0, 2]\nseeds = [0, 1]\nbaseline = 'three'\n" + ONE + '[[setting]]\nname = "three"\n')
    assert trainings.names() == ["one 0 2", "one 1 0", "one 1 2", "three 0 0", "three 0 2", "three 1 0", "three 1 2"]
    said = capsys.readouterr().err
    assert "1 of 8 trainings are there already" in said
    assert "left alone: two" in said
    assert re.search(r"\[4 of 4\] three, seed 1, 2 folds; about \d s left for all", said)


def link_of(run: Run) -> Path:
    return run.preprocessed("fullres").resolve()


def test_equal_preprocessing_is_shared_and_other_is_not(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    plan = make_plan()
    other_rate = plan.model_copy(update={"configurations": {"small": make_configuration(batch_size=1)}})
    coarser = plan.model_copy(update={"configurations": {"small": make_configuration(spacing=(2.0, 2.0, 2.0))}})
    runs = [make_run(tmp_path / str(number), p) for number, p in enumerate((plan, other_rate, coarser))]
    for run in runs:
        # One dataset: the key does not look at where its files lie, but at when they were written.
        share_preprocessed(run, run.plan, runs[0].dataset, pool)
    assert link_of(runs[0]) == link_of(runs[1]) != link_of(runs[2])
    assert len(list(pool.iterdir())) == 2
    preprocess(runs[0], workers=1)
    files = {path.name: path.stat().st_mtime_ns for path in link_of(runs[0]).iterdir()}
    assert "case_0.json" in files
    assert not list(link_of(runs[2]).iterdir())
    share_preprocessed(runs[0], coarser, runs[0].dataset, pool)  # the plan has changed: so does the link
    assert link_of(runs[0]) == link_of(runs[2])
    assert {path.name: path.stat().st_mtime_ns for path in link_of(runs[1]).iterdir()} == files


def test_a_folder_of_its_own_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = preprocess(run, workers=1)
    share_preprocessed(run, run.plan, run.dataset, tmp_path / "pool")
    assert not folder.is_symlink()
    assert (folder / "case_0.json").exists()


def test_a_study_may_be_moved(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    share_preprocessed(run, run.plan, run.dataset, tmp_path / "a" / "preprocessed")
    preprocess(run, workers=1)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Run.open(tmp_path / "b" / "run")
    assert (moved.preprocessed("fullres") / "case_0.json").exists()


def test_a_run_moved_away_from_its_study_preprocesses_for_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    share_preprocessed(run, run.plan, run.dataset, tmp_path / "pool")
    (tmp_path / "b").mkdir()
    moved = Run(run.path.rename(tmp_path / "b" / "run"))
    (tmp_path / "pool").rename(tmp_path / "gone")
    folder = preprocess(moved, workers=1)
    assert not folder.is_symlink()
    assert (folder / "case_0.json").exists()


def test_made_from_is_written_before_the_plan(run: Sweep, trainings: Trainings, tmp_path: Path) -> None:
    """A kill between the two must leave a folder that the next call takes for its own."""
    run("folds = [0]\n" + ONE)
    folder = tmp_path / "out" / "one" / "seed_0"
    (folder / "plan.json").unlink()
    (folder / "small" / "fold_0" / "done.json").unlink()
    trainings.names()
    run("folds = [0]\n" + ONE)
    assert trainings.names() == ["one 0 0"]
    assert not (tmp_path / "out" / "replaced").exists()
    assert set(json.loads((folder / "study.json").read_text())) == {"identity"}
