"""What a fine-tuning starts from, of a source with several folds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoseg.networks import build
from autoseg.networks.weights import content_of, load_weights, save_weights
from autoseg.plans.recipe import Initialization
from autoseg.preprocessing.dataset import preprocess
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run
from autoseg.transfer import source_start
from autoseg.transfer.initialization import load_initial_weights
from autoseg.transfer.source_start import FOLDS_AVERAGE, START, choose_start, fitted_average, start_file
from autoseg.utils.files import read_json
from tests.builders import Perfect, make_plan, make_run

pytestmark = pytest.mark.usefixtures("one_core")

CPU = torch.device("cpu")


class Nothing(nn.Module):
    """Background everywhere."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([0 * image[:, 0] + value for value in (9.0, 0.0, 0.0)], dim=1)


@pytest.fixture
def fold(tmp_path: Path) -> Fold:
    """A fold that starts from three networks."""
    run = make_run(tmp_path, make_plan())
    preprocess(run, workers=1)
    stage, files = run.plan.stage(), []
    for seed in range(3):
        torch.manual_seed(seed)
        weights = build(stage.network, stage.in_channels, stage.heads).state_dict()
        files.append(f"source_small_{content_of(weights)}.safetensors")
        save_weights(run.path / files[-1], weights)
    outputs = ["background", "outer", "inner"]
    start = Initialization(
        source="model",
        file=files[0],
        source_channels=["mr"],
        source_outputs=outputs,
        channels={"mr": "mr"},
        outputs={name: name for name in outputs},
        ensemble=files,
        begin="best",
        keep="auto",
    )
    recipe = stage.recipe.model_copy(update={"initialization": start})
    configuration = stage.configuration.model_copy(update={"recipe": recipe})
    return replace(run.fold(stage, 0), stage=replace(stage, configuration=configuration))


def learned(fold: Fold) -> list[StoredCase]:
    folder = fold.run.preprocessed(fold.stage.configuration.data)
    return [StoredCase(folder, case) for case in fold.training_cases]


def scoring(monkeypatch: pytest.MonkeyPatch, *dice: float) -> list[list[str]]:
    """Whatever the networks are, these are their scores, in order; returns the cases of each measurement."""
    asked: list[list[str]] = []

    def score(path: Path, cases: Any, *_: Any) -> float:
        asked.append([case.id for case in cases])
        return dice[len(asked) - 1]

    monkeypatch.setattr(source_start, "_mean_dice", score)
    return asked


def test_what_segments_the_training_cases(fold: Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that reads the label off the image, among others that find nothing, is taken; and only once asked."""
    monkeypatch.setattr(
        source_start, "load_network", lambda path, *_: Perfect() if path.name == "1.safetensors" else Nothing()
    )
    found = choose_start(fold, learned(fold), 8, CPU)
    names = fold.stage.recipe.initialization.ensemble
    assert found is not None
    assert found.dice == {names[0]: 0.0, names[1]: 1.0, names[2]: 0.0, FOLDS_AVERAGE: 0.0}
    assert found.taken == names[1]
    assert sorted(found.cases) == sorted(fold.training_cases)
    assert not set(found.cases) & set(fold.validation_cases)
    assert start_file(fold).name == "1.safetensors"
    assert str(found).startswith("the tuning starts from number 2 of the source's 3 folds: mean Dice on")
    monkeypatch.setattr(source_start, "load_network", None)
    again = choose_start(fold, learned(fold), 1, CPU)
    assert again == replace(found, before=True)


def test_the_average_has_to_be_better(fold: Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring(monkeypatch, 0.5, 0.7, 0.7, 0.7)
    tie = choose_start(fold, learned(fold), 8, CPU)
    assert tie is not None
    assert tie.taken == fold.stage.recipe.initialization.ensemble[1]
    (fold.folder / START).unlink()
    scoring(monkeypatch, 0.5, 0.7, 0.7, 0.71)
    better = choose_start(fold, learned(fold), 8, CPU)
    assert better is not None
    assert better.taken == FOLDS_AVERAGE
    assert "the average of the source's 3 folds: mean Dice on" in str(better)
    assert "training cases 0.500, 0.700, 0.700, their average 0.710" in str(better)
    parts = [load_weights(fold.run.path / name) for name in fold.stage.recipe.initialization.ensemble]
    network = build(fold.stage.network, fold.stage.in_channels, fold.stage.heads)
    load_initial_weights(network, fold, lambda _: None)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, (parts[0][name] + parts[1][name] + parts[2][name]) / 3)


def test_as_many_cases_as_there_is_time_for(fold: Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scoring(monkeypatch, 0.1, 0.2, 0.3, 0.0)
    choose_start(fold, learned(fold), 2, CPU)
    assert [len(cases) for cases in asked] == [2, 2, 2, 2]
    (fold.folder / START).unlink()
    asked.clear()
    found = choose_start(fold, learned(fold), 0, CPU)
    assert found is not None
    assert asked == []
    assert found.taken == read_json(fold.folder / START)["taken"] == fold.stage.recipe.initialization.file


def test_the_average_is_of_the_folds_of_now(fold: Fold, tmp_path: Path) -> None:
    """Another source in the same run folder makes another average."""
    folder = fold.run.source_folder(fold.stage)
    first = load_weights(fitted_average(fold.stage, fold.run.path, folder))
    start = fold.stage.recipe.initialization
    recipe = fold.stage.recipe.model_copy(
        update={"initialization": start.model_copy(update={"ensemble": start.ensemble[:2]})}
    )
    configuration = fold.stage.configuration.model_copy(update={"recipe": recipe})
    second = load_weights(fitted_average(replace(fold.stage, configuration=configuration), fold.run.path, folder))
    assert any(not torch.equal(first[name], tensor) for name, tensor in second.items())


def with_swapped_outputs(fold: Fold) -> Fold:
    """The same fold with the source's outer for inner, and the reverse."""
    stage = fold.stage
    outputs = {"background": "background", "outer": "inner", "inner": "outer"}
    start = stage.recipe.initialization.model_copy(update={"outputs": outputs})
    recipe = stage.recipe.model_copy(update={"initialization": start})
    return replace(fold, stage=replace(stage, configuration=stage.configuration.model_copy(update={"recipe": recipe})))


def test_other_names_are_another_source(fold: Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fitted, averaged and compared with one mapping is not taken with another."""
    scoring(monkeypatch, 0.5, 0.7, 0.6, 0.1)
    choose_start(fold, learned(fold), 8, CPU)
    before = [load_weights(path(fold)) for path in (start_file, average_of)]
    swapped = with_swapped_outputs(fold)
    scoring(monkeypatch, 0.5, 0.7, 0.6, 0.1)
    found = choose_start(swapped, learned(swapped), 8, CPU)
    assert found is not None
    assert not found.before
    for old, new in zip(before, [load_weights(path(swapped)) for path in (start_file, average_of)], strict=True):
        heads = [name for name in new if old[name].shape[:1] == (3,) and not torch.equal(old[name], new[name])]
        assert heads
        assert all(torch.equal(old[name][[0, 2, 1]], new[name]) for name in heads)


def average_of(fold: Fold) -> Path:
    return fitted_average(fold.stage, fold.run.path, fold.run.source_folder(fold.stage))


def test_a_plan_that_names_its_fold(fold: Fold) -> None:
    """As plans of earlier versions do."""
    start = fold.stage.recipe.initialization.model_copy(update={"begin": "fold"})
    recipe = fold.stage.recipe.model_copy(update={"initialization": start})
    stage = replace(fold.stage, configuration=fold.stage.configuration.model_copy(update={"recipe": recipe}))
    named = Fold(Run(fold.run.path), stage, 0)
    assert choose_start(named, learned(named), 8, CPU) is None
    assert start_file(named).name == "0.safetensors"
    assert Initialization().begin == "fold"
