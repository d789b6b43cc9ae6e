"""Onto which intensities images are mapped for a source: those of the images that its weights were trained on."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.data.landmarks import landmarks
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import LANDMARKS
from autoseg.runs.run import SOURCE, UNTOUCHED, Run
from autoseg.transfer.source_landmarks import source_landmarks
from autoseg.utils.errors import UsageError
from autoseg.utils.files import write_json
from tests.builders import blob, keep_share, make_plan, make_run, make_tuned_plan, picture_of, write
from tests.cli.test_plan_source import pretend_trained

OWN = {"mr": [10.0 * number for number in range(LANDMARKS)]}


def model_of(root: Path, plan: Plan) -> Run:
    """A trained run whose own images have the intensities of ``OWN``."""
    run = pretend_trained(make_run(root, plan), folds=(0, 1))
    known = run.fingerprint.model_copy(update={"landmarks": OWN})
    write_json(run.path / "fingerprint.json", known.model_dump(mode="json"))
    return Run.open(run.path)


def found(run: Run) -> dict[str, list[float]]:
    stage = run.plan.stage()
    return source_landmarks(run, stage, ["mr"], bool(run.kept_source(stage)), workers=1)


@pytest.mark.parametrize("share", [SOURCE, UNTOUCHED])
def test_a_source_that_keeps_its_own(tmp_path: Path, share: float) -> None:
    """What that one's images were like is what images are harmonized to, or is not known."""
    harmonized = model_of(tmp_path / "harmonized", make_tuned_plan())
    keep_share(harmonized, share)
    assert found(harmonized) == dict(harmonized.plan.preprocessing.harmonize) != OWN
    plain = model_of(tmp_path / "plain", make_tuned_plan(preprocessing={}))
    keep_share(plain, share)
    with pytest.raises(UsageError, match="keeps the source that it was fine-tuned from"):
        found(plain)
    # One that was tuned knows the images that it was tuned on.
    keep_share(plain, 0.5)
    assert found(plain) == OWN


def test_measured_where_the_fingerprint_has_none(tmp_path: Path) -> None:
    """The mean of the cases', of the channels that are asked for; some that no image has are refused."""
    run = pretend_trained(make_run(tmp_path, make_plan(channels=("mr", "t2")), cases=2))
    images = [picture_of(blob(), seed) for seed in (1, 2)]
    for case, image in zip(run.dataset.cases, images, strict=True):
        write(case.channels["mr"].path, image)
    wanted = np.mean([landmarks(image.ravel()) for image in images], axis=0)
    assert found(run)["mr"] == pytest.approx(wanted.tolist(), rel=1e-6)
    with pytest.raises(UsageError, match=r"no training image of .* has t2; leave it out"):
        source_landmarks(run, run.plan.stage(), ["mr", "t2"], keeps=False, workers=1)
