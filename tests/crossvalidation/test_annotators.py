"""Raters learned separately, from the choice of who to the table of whom each decoder agrees with."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.crossvalidation.annotators import annotators_agreement
from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train
from autoseg.data.dataset import Dataset
from autoseg.evaluation.agreement import Agreement
from autoseg.inference import chain
from autoseg.planning.annotators import choose_annotators
from autoseg.planning.making import make_plan
from autoseg.planning.request import Request, ResolvedRequest
from autoseg.plans.files import save_plan
from autoseg.plans.overrides import override
from autoseg.preprocessing.dataset import preprocess
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import Run
from autoseg.utils.device import Compute
from autoseg.utils.errors import AutosegError, UsageError
from planners import unet
from tests import builders
from tests.builders import blob, make_dataset, make_fingerprint, make_run, write
from tests.inference.test_raters import Two, plan_of
from tests.planners.fingerprints import hippocampus

pytestmark = pytest.mark.usefixtures("one_core")


def larger(label: np.ndarray) -> np.ndarray:
    return np.where(label > 0, 2, 0).astype(np.int16)


def drawn_by(dataset: Dataset, *who: tuple[str, ...]) -> Dataset:
    """The blobs with what each case's raters drew: Ben calls all inner, everyone else draws the truth."""
    cases = []
    for case, names in zip(dataset.cases, who, strict=True):
        label = blob(shift=int(case.id[-1]) % 2)
        raters = {
            name: write(dataset.root / name / f"{case.id}.nii.gz", larger(label) if name == "ben" else label)
            for name in names
        }
        cases.append(case.model_copy(update={"raters": raters}))
    return dataset.model_copy(update={"cases": tuple(cases)})


BOTH = ("ann", "ben")


def test_who_is_learned(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plain = make_dataset(tmp_path)
    dataset = drawn_by(plain, BOTH, ("ann",), ("eve",), BOTH)
    assert choose_annotators(plain, []) == (plain, ())
    assert choose_annotators(dataset, ["all"]) == (dataset, ("ann", "ben", "eve"))
    chosen, names = choose_annotators(dataset, ["ben", "ann"])
    assert names == ("ben", "ann")
    assert [case.id for case in chosen.cases] == ["case_0", "case_1", "case_3"]
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 4 cases were annotated by none of ben, ann, left out: case_2." in said
    for wanted, message in (
        (["ann", "bob"], "--raters bob is unknown; the dataset has ann, ben, eve"),
        (["ann", "ann"], "--raters ann is only one; give two or more, or all"),
    ):
        with pytest.raises(UsageError, match=message):
            choose_annotators(dataset, wanted)
    with pytest.raises(UsageError, match="names no raters of its cases"):
        choose_annotators(plain, ["all"])
    odd = dataset.cases[0].model_copy(update={"raters": dict.fromkeys(("a/b", "c"), tmp_path)})
    with pytest.raises(UsageError, match="a/b can't be part of a file's name"):
        choose_annotators(dataset.model_copy(update={"cases": (odd,)}), ["all"])


def test_decoders_are_paid_for_with_patch_or_batch() -> None:
    """Given no more memory than the single network takes, three decoders see less at a time."""
    single = unet.plan(hippocampus(), ResolvedRequest(gpu_memory_gb=4)).configurations["3d_fullres"]
    assert single.memory is not None
    budget = single.memory.total / 1e9
    plan = unet.plan(hippocampus(), ResolvedRequest(gpu_memory_gb=budget, annotators=("ann", "ben", "eve")))
    assert plan.raters == ["ann", "ben", "eve"]
    for configuration in plan.configurations.values():
        assert configuration.network.answers == 3
        assert configuration.memory is not None
        assert configuration.memory.total <= budget * 1e9
    apart = plan.configurations["3d_fullres"]
    assert apart.parameters > 1.3 * single.parameters
    seen = [np.prod(c.patch_size) * c.batch_size for c in (single, apart)]
    assert 0.2 * seen[0] < seen[1] < 0.9 * seen[0]


def test_planners_without_decoders_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = builders.make_plan(planner="vnet")
    monkeypatch.setattr("autoseg.planning.making.find_planner", lambda _: lambda *_: plan)
    with pytest.raises(
        UsageError, match=r"--raters: planner vnet learns from one label map.*--planner cascade, .*unet"
    ):
        make_plan(hippocampus(), Request(planner="vnet", annotators=tuple(BOTH)))


def test_a_plan_and_its_networks_agree() -> None:
    plan = plan_of(*BOTH)
    for assignment, message in (
        ("configurations.small.network.decoders=3", r"answers for 3 rater\(s\), but the plan names 2"),
        ("raters=[]", r"answers for 2 rater\(s\), but the plan names 0"),
        ('raters=["ann"]', "two different ones or more"),
        ('raters=["ann","ann"]', "two different ones or more"),
        ('raters=["ann","../ben"]', "can't name a folder"),
    ):
        with pytest.raises((AutosegError, UsageError), match=message):
            override(plan, [assignment])
    swapped = plan.model_copy(update={"raters": ["ben", "ann"]})
    assert plan.stage().identity != swapped.stage().identity


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Case 3 was not drawn by Ben."""
    plan = plan_of(*BOTH)
    run = make_run(tmp_path, plan)
    dataset = drawn_by(run.dataset, BOTH, BOTH, BOTH, ("ann",))
    return Run.create(run.path, plan, make_fingerprint(dataset), dataset, run.splits)


def test_trained_and_validated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preprocess(run, workers=1)
    assert [StoredCase(folder, f"case_{n}").drawn for n in range(4)] == [[True, True]] * 3 + [[True, False]]
    assert np.array_equal(StoredCase(folder, "case_0").annotations(), [blob(), larger(blob())])
    evaluation = train(run, length=Length(epochs=1), compute=Compute("cpu"))
    assert len(evaluation.cases) == 4
    monkeypatch.setattr(chain, "load_network", lambda *_: Two(run.plan.target))
    for path in (run.path.parent / "data").rglob("*.nii.gz"):
        path.unlink()  # validated against what was preprocessed
    (run.fold("small", 0).folder / "done.json").unlink()
    train(run, length=Length(epochs=1), compute=Compute("cpu"))
    fold = run.fold("small", 0).validation
    case = run.split(0)["validation"][0]
    label = blob(shift=int(case[-1]) % 2)
    for name, wanted in (("ann", label), ("ben", larger(label))):
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(fold / "raters" / name / f"{case}.nii.gz")))
        assert np.array_equal(found, wanted)
    agreed = Agreement.read(fold / "raters")
    assert (agreed.raters, agreed.models) == (BOTH, ("decoder ann", "decoder ben", "mean of decoders"))
    between = 2 * (label == 2).sum() / ((label == 2).sum() + (label > 0).sum())
    for decoder in BOTH:
        for rater in BOTH:
            expected = 1.0 if decoder == rater else between
            assert agreed.values(f"decoder {decoder}", rater, "inner")[case] == pytest.approx(expected)
    assert agreed.values(*BOTH, "inner")[case] == pytest.approx(between)


def test_folds_are_put_together(run: Run) -> None:
    train(run, length=Length(epochs=1), compute=Compute("cpu"))
    found = annotators_agreement(run, run.plan.stage("small"))
    assert found is not None
    assert found.rows == Agreement.read(run.path / "small" / "crossval" / "raters").rows
    assert len(found.values("decoder ann", "ann", "outer")) == 4
    assert set(found.values("mean of decoders", "ben", "outer")) == {"case_0", "case_1", "case_2"}
    save_plan(run.plan.model_copy(update={"raters": ["ben", "ann"]}), run.path / "plan.json")
    run = Run.open(run.path)
    assert annotators_agreement(run, run.plan.stage("small")) is None
