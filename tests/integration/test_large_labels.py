"""Label values of an atlas, which take 32 bits, from end to end."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.crossvalidation.jobs import train
from autoseg.data.checks import check
from autoseg.data.image import read_image
from autoseg.data.label_maps import LARGEST_LABEL, label_values
from autoseg.evaluation.folders import evaluate
from autoseg.inference.predictor import Predictor
from autoseg.plans.target import Output, Target
from autoseg.postprocessing.choice import postprocess
from autoseg.runs.run import Run
from autoseg.utils.device import Compute
from tests.builders import blob, make_dataset, make_fingerprint, make_plan

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.mark.parametrize(("outer", "inner"), [(40000, 614454277), (2, LARGEST_LABEL)])
def test_values_of_32_bits_are_trained_predicted_and_measured(tmp_path: Path, outer: int, inner: int) -> None:
    dataset = make_dataset(tmp_path / "data")
    for number, case in enumerate(dataset.cases):
        label = np.choose(blob(shift=number % 2), [0, outer, inner]).astype(np.uint32)
        assert isinstance(case.label, Path)
        sitk.WriteImage(sitk.GetImageFromArray(label), str(case.label))
    dataset = dataset.model_copy(update={"labels": {"outer": outer, "inner": inner}})
    assert [problem for problem in check(dataset, workers=1) if "same voxels" not in problem.what] == []
    outputs = [Output(name="outer", values=[outer], paint=outer), Output(name="inner", values=[inner], paint=inner)]
    names = [case.id for case in dataset.cases]
    run = Run.create(
        tmp_path / "run",
        make_plan(target=Target(kind="labels", outputs=outputs)),
        make_fingerprint(dataset),
        dataset,
        [{"train": names[1:], "validation": names[:1]}],
    )
    evaluation = train(run, compute=Compute("cpu"))
    assert list(evaluation.cases) == ["case_0"]
    postprocess(run)
    outcome = Predictor.load(run.path, device="cpu").predict(list(dataset.cases), tmp_path / "out")
    assert outcome.failed == {}
    for path in outcome.written.values():
        assert set(np.unique(label_values(read_image(path)))) <= {0, outer, inner}
    assert len(evaluate(tmp_path / "out", dataset).cases) == 4
