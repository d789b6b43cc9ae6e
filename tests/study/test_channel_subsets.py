"""Evaluation with subsets of a run's channels: as if the others had never been there."""

import csv
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import autoseg
from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.evaluation.cases import evaluate_pairs
from autoseg.inference.predictor import Predictor
from autoseg.networks import build
from autoseg.networks.weights import save_weights
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Channel
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import SPLIT, split_of
from autoseg.study.channel_subsets import (
    TrainedConfiguration,
    choose_subsets,
    evaluate_channel_subsets,
    parse_subsets,
    with_only,
)
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_json
from tests.builders import (
    blob,
    loaded,
    make_configuration,
    make_fingerprint,
    make_plan,
    make_recipe,
    picture_of,
    write,
)

pytestmark = pytest.mark.usefixtures("one_core")

CHANNELS = ("t1", "t2", "flair")


def dropping(channels: tuple[str, ...] = CHANNELS, dropout: float = 0.2) -> Plan:
    """Images are normalized, so that networks of random weights say different things in different places."""
    plan = make_plan(make_configuration(recipe=make_recipe(channel_dropout=dropout)), channels=channels)
    return plan.model_copy(update={"channels": [Channel(name=name) for name in channels]})


def dataset_at(root: Path, lacking: dict[int, str] | None = None) -> Dataset:
    """Four blobs of three channels; ``lacking``: number of a case → the channel it lacks."""
    found = []
    for number in range(4):
        label = blob(shift=number % 2)
        images = {
            name: ChannelFile(path=write(root / f"{number}_{name}.nii.gz", picture_of(label, 10 * number + index)))
            for index, name in enumerate(CHANNELS)
            if (lacking or {}).get(number) != name
        }
        found.append(Case(id=f"case_{number}", channels=images, label=write(root / f"{number}_seg.nii.gz", label)))
    labels = {"outer": 1, "inner": 2}
    return Dataset(name="blobs", root=root, layout="manifest", channels=CHANNELS, labels=labels, cases=tuple(found))


def trained(root: Path, plan: Plan, folds: int = 2) -> Run:
    """A run whose folds have random weights, each its own."""
    dataset = dataset_at(root / "data")
    names = [case.id for case in dataset.cases]
    splits = [{"train": [n for n in names if n not in names[k::2]], "validation": names[k::2]} for k in range(2)]
    run = Run.create(root / "run", plan, make_fingerprint(dataset), dataset, splits)
    for fold in range(folds):
        torch.manual_seed(fold)
        network = build(plan.configurations["small"].network, len(plan.channels), 3)
        save_weights(run.fold("small", fold).weights, network.state_dict())
    return run


def on_cpu(run: Run | Path, folds: list[int] | None = None, mirror: bool = True) -> TrainedConfiguration:
    return TrainedConfiguration.open(run, folds=folds, device="cpu", mirror=mirror)


# --- which subsets ---


def test_all_subsets_the_largest_first() -> None:
    found = choose_subsets(["a", "b", "c"], None)
    assert found == [("a", "b", "c"), ("a", "b"), ("a", "c"), ("b", "c"), ("a",), ("b",), ("c",)]
    assert len(choose_subsets(list("abcde"), None)) == 31
    with pytest.raises(UsageError, match=r"6 channels and thus 63 subsets.* --subsets a,a\+b"):
        choose_subsets(list("abcdef"), None)


def test_chosen_subsets() -> None:
    wanted = parse_subsets("flair, t2+t1,flair")
    assert choose_subsets(CHANNELS, wanted) == [("flair",), ("t1", "t2")]
    with pytest.raises(UsageError, match="--subsets: dwi is no channel of the run; it has t1, t2, flair"):
        choose_subsets(CHANNELS, parse_subsets("t1+dwi"))
    for wrong in ("", "t1,", "t1++t2"):
        with pytest.raises(UsageError, match="not of the form"):
            parse_subsets(wrong)


def test_with_only_leaves_nothing_of_the_others() -> None:
    case = loaded(np.stack([picture_of(blob(), seed) for seed in range(3)]))
    found = with_only(case, CHANNELS, ("t2",))
    assert found.present == (False, True, False)
    assert not found.image[[0, 2]].any()
    assert np.array_equal(found.image[1], case.image[1])
    assert case.image.all(), "the case itself is as it was"


# --- the evaluation ---


def test_as_if_the_files_were_not_there(tmp_path: Path) -> None:
    """Independently: cases without these files, predicted into a folder and evaluated there."""
    run = trained(tmp_path, dropping())
    other = dataset_at(tmp_path / "other")
    found = evaluate_channel_subsets(on_cpu(run), other, out=tmp_path / "out")
    assert list(found.parts) == [subset for size in (3, 2, 1) for subset in combinations(CHANNELS, size)]
    predictor = Predictor.load(run.path, device="cpu")
    for number, (subset, evaluation) in enumerate(found.parts.items()):
        cases = [
            case.model_copy(update={"channels": {name: case.channels[name] for name in subset}}) for case in other.cases
        ]
        outcome = predictor.predict(cases, tmp_path / f"files{number}")
        pairs = [(case.id, outcome.written[case.id], case.label) for case in cases if case.label]
        expected = evaluate_pairs(pairs, run.plan.target.outputs)
        assert evaluation.to_json() == expected.to_json()
    assert len({part.mean("dice") for part in found.parts.values()}) > 3, "channels must matter in this test"
    with open(tmp_path / "out" / "subsets.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["channels"] for row in rows][:2] == ["t1+t2+flair", "t1+t2"]
    assert float(rows[1]["inner"]) == pytest.approx(found.parts["t1", "t2"].mean("dice", "inner"))
    assert float(rows[1]["mean"]) == pytest.approx(found.parts["t1", "t2"].mean("dice"))
    assert {row["cases"] for row in rows} == {"4"}
    told = json.loads((tmp_path / "out" / "subsets.json").read_text())
    assert told["subsets"][1]["channels"] == ["t1", "t2"]
    assert told["folds"] == [0, 1]
    compared = autoseg.compare([tmp_path / "out" / "t1+t2+flair", tmp_path / "out" / "t2"])
    assert len(compared.cases) == 4


def test_validation_cases_are_predicted_by_the_fold_that_did_not_see_them(tmp_path: Path) -> None:
    run = trained(tmp_path, dropping())
    found = evaluate_channel_subsets(on_cpu(run), subsets=[CHANNELS, ("flair",)])
    for fold in (0, 1):
        alone = Predictor.load(run.path, folds=[fold], device="cpu")
        for name in run.split(fold)["validation"]:
            label = alone.predict_case(run.dataset.case(name)).label
            reference = blob(shift=int(name[-1]) % 2)
            inner = 2 * np.sum((label == 2) & (reference == 2)) / (np.sum(label == 2) + np.sum(reference == 2))
            (row,) = [row for row in found.parts[CHANNELS].rows if (row.case, row.target) == (name, "inner")]
            assert row.values["dice"] == pytest.approx(inner)
    assert sorted(found.parts["flair",].cases) == [f"case_{number}" for number in range(4)]
    one = evaluate_channel_subsets(on_cpu(run, folds=[1]), subsets=[("flair",)])
    assert one.parts["flair",].cases == run.split(1)["validation"]
    run.dataset.cases[0].channels["t2"].path.unlink()
    with pytest.raises(AutosegError, match=r"is gone; .*'autoseg plan NEW_PLACE --out .*', with the same options as"):
        evaluate_channel_subsets(on_cpu(run), subsets=[("flair",)])


def test_a_fold_of_another_split_does_not_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was trained on the cases that are its validation cases now."""
    run = trained(tmp_path, dropping())
    first = run.splits
    for fold in run.folds("small"):
        write_json(fold.done, {SPLIT: split_of(fold)})
    swapped = [{"train": split["validation"], "validation": split["train"]} for split in first]
    for splits in ([first[0], swapped[1]], first[:1]):  # edited, and planned again with fewer folds
        write_json(run.path / "splits.json", splits)
        found = evaluate_channel_subsets(on_cpu(run), subsets=[("flair",)])
        assert found.parts["flair",].cases == first[0]["validation"]
        assert found.folds == (0,)
        assert "Fold 1 of small was trained under another plan or split and is left out" in capsys.readouterr().err
        with pytest.raises(UsageError, match="fold 1 of small was trained under another plan or split"):
            evaluate_channel_subsets(on_cpu(run, folds=[1]))
    write_json(run.path / "splits.json", swapped)
    with pytest.raises(AutosegError, match="has no fold of small that was trained under its plan and splits"):
        evaluate_channel_subsets(on_cpu(run), subsets=[("flair",)])
    assert evaluate_channel_subsets(on_cpu(run), dataset_at(tmp_path / "other"), subsets=[("flair",)]).folds == (0, 1)


def test_a_source_that_is_kept_predicts_a_dataset(tmp_path: Path) -> None:
    """As ``autoseg predict``: with all of its folds, of which the run has fewer."""
    plan = dropping()
    initialization = {"source": "model", "file": "s", "ensemble": ["a", "b"], "keep": "auto"}
    recipe = make_recipe(channel_dropout=0.2, initialization=initialization)
    run = trained(tmp_path, plan.model_copy(update={"configurations": {"small": make_configuration(recipe=recipe)}}), 1)
    stage = run.plan.stage()
    for number in (0, 1):
        torch.manual_seed(7 + number)
        network = build(stage.network, stage.in_channels, stage.heads)
        save_weights(run.source_folder(stage) / f"{number}.safetensors", network.state_dict())
    write_json(run.path / stage.name / "source_share.json", {"share": 1.0})
    other = dataset_at(tmp_path / "other")
    found = evaluate_channel_subsets(on_cpu(run), other, subsets=[CHANNELS])
    assert found.folds == (0, 1)
    label = Predictor.load(run.path, device="cpu").predict_case(other.cases[0]).label
    assert found.parts[CHANNELS].rows[0].values["prediction_ml"] == pytest.approx(np.sum(label == 1) / 1000)
    assert evaluate_channel_subsets(on_cpu(run), subsets=[CHANNELS]).folds == (0,)


def test_a_case_counts_where_it_has_all_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, dropping(), folds=1)
    lacking = dataset_at(tmp_path / "lacking", {0: "t1", 1: "t2", 2: "t2", 3: "t2"})
    found = evaluate_channel_subsets(on_cpu(run, mirror=False), lacking)
    counts = {subset: len(part.cases) for subset, part in found.parts.items()}
    assert counts == {("t1", "flair"): 3, ("t2", "flair"): 1, ("t1",): 3, ("t2",): 1, ("flair",): 4}
    assert "No case has all of the channels t1+t2+flair, or all of t1+t2: left out." in capsys.readouterr().err
    with pytest.raises(AutosegError, match=r"no labelled case of .* has all of the channels t1\+t2"):
        evaluate_channel_subsets(on_cpu(run), lacking, subsets=[("t1", "t2")])


def test_who_is_refused(tmp_path: Path) -> None:
    strict = trained(tmp_path / "strict", dropping(dropout=0.0), folds=1)
    with pytest.raises(UsageError, match=r"was not trained for missing channels; plan it with .*channel_dropout"):
        evaluate_channel_subsets(on_cpu(strict))
    single = trained(tmp_path / "single", dropping(("t1",), 0.0), folds=1)
    with pytest.raises(UsageError, match="has the one channel t1"):
        evaluate_channel_subsets(on_cpu(single))
    bare = trained(tmp_path / "bare", dropping(), folds=0)
    with pytest.raises(UsageError, match="has no trained fold of small"):
        evaluate_channel_subsets(on_cpu(bare))
    with pytest.raises(UsageError, match="fold 1 of small is not trained"):
        evaluate_channel_subsets(on_cpu(trained(tmp_path / "one", dropping(), folds=1), folds=[1]))
    other = dataset_at(tmp_path / "edition").model_copy(update={"labels": {"outer": 2, "inner": 1}})
    with pytest.raises(AutosegError, match="edition has the labels inner 1, outer 2 and the training data"):
        evaluate_channel_subsets(on_cpu(tmp_path / "one" / "run"), other)
    unlabelled = dataset_at(tmp_path / "new").model_copy(update={"cases": ()})
    with pytest.raises(AutosegError, match="new has no labelled cases"):
        evaluate_channel_subsets(on_cpu(tmp_path / "one" / "run"), unlabelled)
    run = Run.open(tmp_path / "one" / "run")
    (run.path / "splits.json").write_text(
        json.dumps([{"train": [case.id for case in run.dataset.cases], "validation": []}])
    )
    with pytest.raises(AutosegError, match="has no validation cases of its own; give labelled ones"):
        evaluate_channel_subsets(on_cpu(run.path))
    with pytest.raises(UsageError, match="--workers 0"):
        evaluate_channel_subsets(on_cpu(bare), workers=0)
