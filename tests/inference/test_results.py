"""Results on disk: one more kind is one registered writer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.data.dataset import Case, ChannelFile
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.prediction import Prediction
from autoseg.inference.predictor import Predictor
from autoseg.inference.results.record import Record
from autoseg.inference.results.writer import RESULTS, ResultWriter, beside, chosen_writers
from autoseg.utils.errors import UsageError
from autoseg.utils.files import read_json
from tests.builders import blob, loaded, picture_of, write
from tests.inference.test_opinions import Constant, member, softmax

CPU = torch.device("cpu")


class FoldSpread(ResultWriter):
    """The standard deviation of the first output over the folds."""

    fractions = True
    groups = ("fold",)

    def names(self, ensemble: Ensemble) -> list[str]:
        return ["spread"]

    def volumes(self, prediction: Prediction) -> dict[str, np.ndarray]:
        return {"spread": prediction.opinions["fold"].standard_deviation()[0].numpy()}

    def provenance(self, ensemble: Ensemble) -> dict[str, str]:
        return {"spread": "over the folds"}


class RunSpread(FoldSpread):
    """The standard deviation of the first output over the runs."""

    groups = ("run",)

    def volumes(self, prediction: Prediction) -> dict[str, np.ndarray]:
        return {"spread": prediction.opinions["run"].standard_deviation()[0].numpy()}


class Counted(Constant):
    """Counts how often it is applied."""

    calls = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(image)


@pytest.mark.parametrize("runs", [1, 2])
def test_opinions_by_run_need_no_further_prediction(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = [Counted(0, 2, 0), Counted(0, 0, 0)][:runs]
    predictor = Predictor([member(network) for network in networks], CPU)
    case = loaded(picture_of(blob()))
    predictor.predict_case(case)
    alone = [network.calls for network in networks]
    monkeypatch.setitem(RESULTS._things, "run_spread", RunSpread())
    found = predictor.predict_case(case, ["run_spread"]).opinions["run"]
    assert [network.calls for network in networks] == [2 * calls for calls in alone]
    assert found.count == runs
    inside = found.standard_deviation()[0][blob() > 0].numpy()
    assert inside == pytest.approx(np.std([softmax(0, 2, 0)[0], softmax(0, 0, 0)[0]][:runs]), abs=1e-6)


@pytest.fixture
def spread() -> Iterator[str]:
    RESULTS.register("fold_spread", FoldSpread())
    yield "fold_spread"
    del RESULTS._things["fold_spread"]


def case_at(path: Path, name: str = "p") -> Case:
    return Case(id=name, channels={"mr": ChannelFile(path=write(path, picture_of(blob())))})


def test_one_more_kind(spread: str, tmp_path: Path) -> None:
    """A writer of a package of its own: written beside the label map, recorded, and never over a scan."""
    predictor = Predictor([member(Constant(0, 2, 0), Constant(0, 0, 0))], CPU)
    case, out = case_at(tmp_path / "p.nii.gz"), tmp_path / "out"
    assert not predictor.predict([case], out, [spread]).failed
    assert sorted(file.name for file in out.iterdir()) == ["p.nii.gz", "p_spread.nii.gz", "predictions.json"]
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "p_spread.nii.gz")))
    assert found[blob() > 0] == pytest.approx(np.std([softmax(0, 2, 0)[0], softmax(0, 0, 0)[0]]), abs=1e-6)
    assert '"spread": "over the folds"' in (out / "predictions.json").read_text()
    taken = case_at(out / "p_spread.nii.gz")
    with pytest.raises(UsageError, match=r"would overwrite .*p_spread"):
        predictor.predict([taken], out, [spread])
    assert not predictor.predict([taken], out).failed  # nothing else has that name


def test_known_results() -> None:
    assert {"label", "probabilities", "raters", "disagreement"} <= set(RESULTS.names())
    ensemble = Ensemble([member(Constant(0, 0, 0))], CPU)
    writers = chosen_writers(["probabilities", "label", "probabilities"], ensemble)
    assert [writer.names(ensemble) for writer in writers] == [["probability_outer", "probability_inner"], [""]]
    with pytest.raises(UsageError, match=r"--results maps.* unknown.*; choose one of label"):
        chosen_writers(["maps"], ensemble)
    with pytest.raises(UsageError, match="did not learn the same raters separately"):
        chosen_writers(["disagreement"], ensemble)


def test_fractions_go_where_they_can_be_kept() -> None:
    assert beside(Path("x/p.png"), "p", "disagreement") == Path("x/p_disagreement.tiff")
    for name in ("label", "probabilities"):
        assert RESULTS.find(name).path(Path("x/p.png"), "p", "probability_a").suffix == (
            ".png" if name == "label" else ".tiff"
        )


def test_two_commands_record_their_cases_in_turn(tmp_path: Path) -> None:
    made = {"runs": [{"run": "run", "configuration": "small"}]}
    files = {name: tmp_path / f"{name}.nii.gz" for name in "ab"}
    first, second = [Record.of(tmp_path, made, [name]).begun({name: [file]}) for name, file in files.items()]
    for file in files.values():
        file.touch()
    first.write({"a": {"seconds": 1.0}}, ["a"], {})
    second.write({"b": {"seconds": 2.0}}, ["b"], {})
    first.ended().write({"a": {"seconds": 1.0}}, ["a"], {})
    told = read_json(tmp_path / "predictions.json")
    assert told["cases"] == {"a": {"seconds": 1.0}, "b": {"seconds": 2.0}}
    assert told["files"] == ["a.nii.gz", "b.nii.gz"]
    # What a command itself said of a case does not outlive that case's failure.
    files["b"].unlink()
    second.ended().write({"b": {"seconds": 2.0}}, [], {"b": "the disk is full."})
    told = read_json(tmp_path / "predictions.json")
    assert (list(told["cases"]), told["files"]) == (["a"], ["a.nii.gz"])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"source": "kept, as it is"}, True),
        ({"source": "kept, in other words"}, True),
        ({"source_share": 2.0}, False),
        ({"run": "moved"}, True),
        ({"run": "moved", "weights": {}}, False),
        ({"weights": {}}, True),
        ({"weights": {"small/fold_1": "two", "small/fold_2": "three"}}, True),
        ({"weights": {"small/fold_0": "one", "small/fold_1": "trained again"}}, False),
        ({"configuration": "large"}, False),
    ],
)
def test_results_are_known_by_the_weights_of_their_folds(tmp_path: Path, change: dict[str, object], same: bool) -> None:
    """By the place of their run, where no fold is common, or where an earlier version noted none."""
    weights = {"small/fold_0": "one", "small/fold_1": "two"}
    one = {"run": "run", "configuration": "small", "weights": weights, "source": "kept, as it is", "source_share": 1.0}
    (tmp_path / "a.nii.gz").touch()
    record = Record.of(tmp_path, {"runs": [one | change]}, ["a"]).begun({"a": [tmp_path / "a.nii.gz"]})
    record.write({"a": {}}, ["a"], {})
    found = Record.of(tmp_path, {"runs": [one]}, ["a", "b"])
    assert list(found.earlier) == (["a"] if same else [])
    if same:
        found.refuse_keeping()
    else:
        with pytest.raises(UsageError, match=r"holds results of 1 of these cases, as a, by another model"):
            found.refuse_keeping()
