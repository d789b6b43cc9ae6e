"""Cases of the source's data in the batches of a fine-tuning."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train
from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.inference.predictor import Predictor
from autoseg.networks.weights import load_weights
from autoseg.planning.making import plan_dataset
from autoseg.planning.request import Request
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import folds_of_plan
from autoseg.training.checkpoint import load_state, save_state
from autoseg.transfer.mixed_cases import mixed_cases
from autoseg.transfer.source import Source
from autoseg.transfer.source_cases import SourceCases
from autoseg.utils.device import Compute
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import blob, make_dataset, make_plan, make_run, picture_of, write

pytestmark = pytest.mark.usefixtures("one_core")

FAST = ("recipe.iterations_per_epoch=3", "batch_size=2", "recipe.optimizer.learning_rate=0.02")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("source"), make_plan(), cases=2)
    train(run, None, [0], Length(epochs=1), Compute("cpu", 0))
    return run


def cohort_in(root: Path) -> Dataset:
    """Four cases, each with noise of its own."""
    dataset = make_dataset(root)
    for number, case in enumerate(dataset.cases):
        write(case.channels["mr"].path, picture_of(blob(shift=number % 2), seed=number))
    return dataset


def data_of(source: Run, root: Path, labels: dict[str, int] | None = None) -> Dataset:
    """The source's cases with other noise: scan, label and all else in files of their own."""
    values = labels or {"outer": 7, "inner": 3}
    cases = []
    for number in range(3):
        label = blob(shift=number % 2)
        image = write(root / f"{number}.nii.gz", picture_of(label, seed=100 + number))
        renamed = values["outer"] * (label == 1) + values["inner"] * (label == 2)
        path = write(root / f"{number}_label.nii.gz", renamed.astype(np.int16))
        cases.append(Case(id=f"case_{number}", channels={"mr": ChannelFile(path=image)}, label=path))
    return Dataset(name="sources", root=root, layout="manifest", channels=("mr",), labels=values, cases=tuple(cases))


def asked(dataset: Dataset) -> SourceCases:
    found = SourceCases("DATA")
    found.__dict__["dataset"] = dataset
    return found


def planned(source: Run, cohort: Dataset, out: Path, *carried: SourceCases, overrides: tuple[str, ...] = ()) -> Run:
    request = Request(
        device="cuda",
        gpu_memory_gb=2,
        overrides=(*FAST, *overrides),
        folds=2,
        workers=1,
        carried=(Source(source.path), *carried),
    )
    return plan_dataset(cohort, out, request)


def test_data_of_the_source_that_is_gone(source: Run, tmp_path: Path) -> None:
    run = planned(source, cohort_in(tmp_path / "cohort"), tmp_path / "run", asked(data_of(source, tmp_path / "data")))
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(AutosegError, match=r"case case_0 .* gone .*; .*--source-data NEW_PLACE --out .*run', with the"):
        train(run, None, [0], Length(epochs=1), Compute("cpu", 0))


def test_mixed_into_the_batches(source: Run, tmp_path: Path) -> None:
    """By the plan's label values, beside the fold's own cases, and in no validation."""
    cohort = cohort_in(tmp_path / "cohort")
    run = planned(source, cohort, tmp_path / "run", asked(data_of(source, tmp_path / "data")))
    stage = run.plan.stage()
    given = stage.recipe.source_cases
    assert given is not None
    assert given.share == 0.25
    assert (run.path / given.file).is_file()
    evaluation = train(run, None, [0], Length(epochs=1), Compute("cpu", 0))
    fold = run.fold(stage, 0)
    assert sorted(evaluation.cases) == sorted(fold.validation_cases)
    (group,) = mixed_cases(fold)
    assert group.share == 0.25
    own = run.preprocessed(stage.configuration.data)
    for number, case in enumerate(group.cases):
        assert np.array_equal(case.label(), blob(shift=number % 2))
        assert not np.array_equal(case.image(), StoredCase(own, case.id).image())
    assert "25% of the samples come from 3 cases from elsewhere" in fold.log.read_text(encoding="utf-8")
    # Planned again without them, nothing is left of them.
    again = planned(source, cohort, tmp_path / "run")
    assert again.plan.stage().recipe.source_cases is None
    assert not list(run.path.glob("source_cases_*"))


def test_a_share_of_nothing_changes_nothing(source: Run, tmp_path: Path) -> None:
    cohort = cohort_in(tmp_path / "cohort")
    carried = asked(data_of(source, tmp_path / "data"))
    runs = [
        planned(source, cohort, tmp_path / "without"),
        planned(source, cohort, tmp_path / "none", carried, overrides=("recipe.source_cases.share=0",)),
        planned(source, cohort, tmp_path / "half", carried, overrides=("recipe.source_cases.share=0.5",)),
    ]
    found = []
    for run in runs:
        train(run, None, [0], Length(epochs=1), Compute("cpu", 0))
        found.append(load_weights(run.fold(run.plan.stage(), 0).checkpoint("tuned")))
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
    assert any(not torch.equal(tensor, found[2][name]) for name, tensor in found[0].items())


def test_what_does_not_fit(source: Run, tmp_path: Path) -> None:
    cohort = cohort_in(tmp_path / "cohort")
    data = data_of(source, tmp_path / "data")
    out = tmp_path / "run"
    # The cohort's own files, and files of the same content elsewhere.
    for same in (cohort, cohort_in(tmp_path / "copy")):
        with pytest.raises(UsageError, match="--source-data DATA has the scan of case_0 of the dataset"):
            planned(source, cohort, out, asked(same))
    lacking = data.model_copy(update={"labels": {"outer": 7}})
    with pytest.raises(UsageError, match="has no inner that the source learned"):
        planned(source, cohort, out, asked(lacking))
    with pytest.raises(UsageError, match="has no channel mr that the source learned"):
        planned(source, cohort, out, asked(data.model_copy(update={"channels": ("t2",)})))
    overlapping = data.model_copy(update={"labels": {"a": 7, "b": 3}, "regions": {"outer": (7, 3), "inner": (3,)}})
    with pytest.raises(UsageError, match="b belongs to inner, outer together, which no label of the dataset does"):
        planned(source, cohort, out, asked(overlapping))
    with pytest.raises(UsageError, match="has no labelled case"):
        planned(source, cohort, out, asked(data.model_copy(update={"cases": ()})))
    with pytest.raises(UsageError, match="--source-data goes with --source"):
        plan_dataset(cohort, out, Request(carried=(asked(data),)))
    assert not out.exists()


def test_a_value_that_the_dataset_does_not_name(source: Run, tmp_path: Path) -> None:
    data = data_of(source, tmp_path / "data")
    path = data.cases[0].label
    assert isinstance(path, Path)
    write(path, 9 * blob())
    run = planned(source, cohort_in(tmp_path / "cohort"), tmp_path / "run", asked(data))
    with pytest.raises(AutosegError, match="case case_0 has the label value 9, which its dataset does not name"):
        train(run, None, [0], Length(epochs=1), Compute("cpu", 0))


def test_what_the_source_data_leave_open(source: Run, tmp_path: Path) -> None:
    """An ignore label of theirs becomes one of the plan, with a value that no label has."""
    data = replace_ignored(data_of(source, tmp_path / "data"))
    run = planned(source, cohort_in(tmp_path / "cohort"), tmp_path / "run", asked(data))
    assert run.plan.target.ignore == 3
    train(run, None, [0], Length(epochs=1), Compute("cpu", 0))
    (group,) = mixed_cases(run.fold(run.plan.stage(), 0))
    assert set(np.unique(group.cases[0].label())) == {0, 1, 2, 3}


def replace_ignored(data: Dataset) -> Dataset:
    path = data.cases[0].label
    assert isinstance(path, Path)
    label = 7 * (blob() == 1) + 3 * (blob() == 2)
    label[0] = 9
    write(path, label.astype(np.int16))
    return data.model_copy(update={"ignore_label": 9})


def test_a_run_tuned_with_scans_that_the_source_labelled(source: Run, tmp_path: Path) -> None:
    """As an earlier version did: it predicts, and goes on only where it starts over."""
    cohort = cohort_in(tmp_path / "cohort")
    overrides = ("target.ignore=3", "recipe.initialization.keep=0")
    run = planned(source, cohort, tmp_path / "run", overrides=overrides)
    train(run, None, [0], Length(epochs=1), Compute("cpu", 0))
    fold = run.fold(run.plan.stage(), 0)
    # What that version wrote: the scans in the plan, and in the fingerprints of the training.
    written = json.loads((run.path / "plan.json").read_text(encoding="utf-8"))
    for configuration in written["configurations"].values():
        configuration["recipe"]["unlabelled"] = {"file": "unlabelled_1.json", "share": 0.25, "confidence": 0.9}
    (run.path / "plan.json").write_text(json.dumps(written), encoding="utf-8")
    done = json.loads(fold.done.read_text(encoding="utf-8"))
    fold.done.write_text(json.dumps({**done, "identity": "with scans"}), encoding="utf-8")
    save_state(fold.state, {**load_state(fold.state), "identity": "with scans"})
    before = fold.weights.read_bytes()

    run = Run.open(run.path)
    assert [one.number for one in folds_of_plan(run, run.plan.stage())] == [0]
    assert not Predictor.load(run.path, device="cpu").predict(cohort.cases[:1], tmp_path / "out").failed
    with pytest.raises(AutosegError, match="trained under another plan"):
        train(run, None, [0], Length(epochs=2), Compute("cpu", 0))
    assert fold.weights.read_bytes() == before
    train(run, None, [0], Length(epochs=2), Compute("cpu", 0), resume=False)
    assert fold.weights.read_bytes() != before


def test_the_same_question_twice(source: Run, tmp_path: Path) -> None:
    """What is asked for is the same only where the cases are."""
    first, second = (asked(data_of(source, tmp_path / name)) for name in ("a", "b"))
    assert first.content != second.content
    assert replace(first, path="DATA") == second
