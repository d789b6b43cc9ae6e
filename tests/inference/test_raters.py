"""Predictions of several raters: each one's, their mean, and their disagreement, against probabilities by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from autoseg.data.dataset import Case, ChannelFile
from autoseg.inference.chain import TrainedStage
from autoseg.inference.members import Member
from autoseg.inference.predictor import Predictor
from autoseg.inference.results.writer import beside
from autoseg.plans.plan import Plan
from autoseg.plans.target import Target
from autoseg.postprocessing.steps import Step
from autoseg.report.pictures import disagreement_picture
from autoseg.utils.errors import UsageError
from tests.builders import (
    LABELS,
    REGIONS,
    Perfect,
    blob,
    loaded,
    make_configuration,
    make_network,
    make_plan,
    picture_of,
    write,
)

CPU = torch.device("cpu")
RATERS = ("label", "raters", "disagreement")


def plan_of(*raters: str, target: Target = LABELS) -> Plan:
    network = make_network(decoders=max(len(raters), 1))
    return make_plan(make_configuration(network=network), raters=list(raters), target=target)


def member(network: nn.Module, *more: nn.Module, raters: tuple[str, ...] = ("ann", "ben"), **plan: Target) -> Member:
    chosen = plan_of(*raters, **plan)
    return Member("run", [TrainedStage(chosen.stage("small"), [network, *more])])


class Two(nn.Module):
    """Ann reads the label off the image; for Ben all that is anything is inner."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.reads = Perfect(target)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        seen = image[:, :1]
        return torch.cat([self.reads(seen), self.reads(torch.where(seen >= 100, 200 + seen % 100, seen))], dim=1)


class Constant(nn.Module):
    """The same logits everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        shape = (len(image), len(self.logits), *image.shape[2:])
        return torch.tensor(self.logits).reshape(1, -1, *[1] * (image.ndim - 2)).expand(shape)


def probabilities(logits: torch.Tensor, target: Target) -> torch.Tensor:
    """Of the outputs, the heads being the first axis."""
    return torch.sigmoid(logits) if target.kind == "regions" else torch.softmax(logits, 0)[1:]


@pytest.mark.parametrize("target", [LABELS, REGIONS])
def test_each_rater_the_mean_and_the_disagreement(target: Target) -> None:
    image = picture_of(blob())
    found = Predictor([member(Two(target), target=target)], CPU).predict_case(loaded(image), results=RATERS)
    assert list(found.answers) == ["ann", "ben"]
    assert np.array_equal(found.answers["ann"], blob())
    assert np.array_equal(found.answers["ben"], np.where(blob() > 0, 2, 0))
    logits = Two(target)(torch.from_numpy(image)[None, None])[0]
    each = torch.stack([probabilities(part, target) for part in logits.split(target.heads)])
    assert found.disagreement is not None
    assert found.disagreement.dtype == np.float32
    assert found.disagreement == pytest.approx(2 * each.std(0, correction=0).amax(0).numpy(), abs=1e-5)
    assert found.probabilities == {}
    said = Predictor([member(Two(target), target=target)], CPU).predict_case(loaded(image), results=["probabilities"])
    for index, output in enumerate(target.outputs):
        assert said.probabilities[output.name] == pytest.approx(each.mean(0)[index].numpy(), abs=1e-5)
    assert (said.answers, said.disagreement) == ({}, None)
    assert np.array_equal(said.label, found.label)


def test_folds_and_runs_are_averaged_rater_by_rater() -> None:
    """Folds by their logits, runs by their probabilities; the two raters never mix."""
    first = member(Constant(0, 2, 0, 3, 0, 0), Constant(0, 4, 0, 1, 0, 0))  # logits of ann: 0 3 0, of ben: 2 0 0
    second = member(Constant(0, 0, 1, 0, 0, 0))
    found = Predictor([first, second], CPU).predict_case(loaded(picture_of(blob())), (*RATERS, "probabilities"))
    ann = (torch.softmax(torch.tensor([0.0, 3, 0]), 0) + torch.softmax(torch.tensor([0.0, 0, 1]), 0)) / 2
    ben = (torch.softmax(torch.tensor([2.0, 0, 0]), 0) + torch.softmax(torch.zeros(3), 0)) / 2
    assert (found.answers["ann"] == int(ann.argmax())).all()
    assert (found.answers["ben"] == int(ben.argmax())).all()
    assert found.probabilities["outer"] == pytest.approx(float((ann + ben)[1] / 2), abs=1e-6)
    assert found.disagreement == pytest.approx(float((ann - ben)[1:].abs().max()), abs=1e-5)
    single = member(Constant(0, 0, 5), raters=())
    mixed = Predictor([first, single], CPU).predict_case(loaded(picture_of(blob())), ["probabilities"])
    alone = (torch.softmax(torch.tensor([0.0, 3, 0]), 0) + torch.softmax(torch.tensor([2.0, 0, 0]), 0)) / 2
    expected = (alone + torch.softmax(torch.tensor([0.0, 0, 5]), 0)) / 2
    assert mixed.probabilities["inner"] == pytest.approx(float(expected[2]), abs=1e-6)
    for others in ([single], [first, single], [first, member(Constant(*[0.0] * 6), raters=("ann", "eve"))]):
        with pytest.raises(UsageError, match="did not learn the same raters separately"):
            Predictor(others, CPU).predict_case(loaded(picture_of(blob())), results=RATERS)


def test_post_processing_is_of_each_and_of_the_mean() -> None:
    label = blob()
    label[9, 0, 12:] = 1
    steps = [Step(kind="largest_component", output=name, mm3=None) for name in ("outer", "inner")]
    found = Predictor([member(Two(LABELS))], CPU, postprocessing=steps).predict_case(
        loaded(picture_of(label)), results=RATERS
    )
    assert not any(part[9].any() for part in (found.label, *found.answers.values()))
    assert all(part.any() for part in (found.label, *found.answers.values()))


def test_files(tmp_path: Path) -> None:
    scan = write(tmp_path / "in" / "p.nii.gz", picture_of(blob()), spacing=(0.9, 1.1, 2.0))
    case = Case(id="p", channels={"mr": ChannelFile(path=scan)})
    source = Predictor([member(Two(LABELS))], CPU)
    out = tmp_path / "out"
    assert not source.predict([case], out, results=RATERS).failed
    names = ["p.nii.gz", "p_disagreement.nii.gz", "p_rater_ann.nii.gz", "p_rater_ben.nii.gz", "predictions.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    found = source.predict_case(case, results=RATERS)
    for name, wanted in (("rater_ben", found.answers["ben"]), ("disagreement", found.disagreement)):
        image = sitk.ReadImage(str(out / f"p_{name}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(image), wanted)
        assert image.GetSpacing() == pytest.approx((0.9, 1.1, 2.0))
    said = json.loads((out / "predictions.json").read_text())
    assert said["mean_of_raters"] == ["ann", "ben"]
    assert "standard deviation" in said["disagreement"]
    assert not source.predict([case], tmp_path / "plain").failed
    assert not (tmp_path / "plain" / "p_disagreement.nii.gz").exists()
    assert "disagreement" not in json.loads((tmp_path / "plain" / "predictions.json").read_text())
    assert beside(Path("x/p.png"), "p", "disagreement") == Path("x/p_disagreement.tiff")
    taken = case.model_copy(update={"channels": {"mr": ChannelFile(path=out / "p_rater_ann.nii.gz")}})
    with pytest.raises(UsageError, match=r"would overwrite .*p_rater_ann"):
        source.predict([taken], out, results=RATERS)
    disagreement_picture(case, out / "p_disagreement.nii.gz", plan_of("ann", "ben"), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[1:4] == b"PNG"
