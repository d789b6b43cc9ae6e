"""Lengths in passes over the cases, and augmentation that is switched off."""

import numpy as np
import pytest
import torch

from autoseg.planning.request import ResolvedRequest
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.recipe import Augmentation, Recipe, Sampling
from planners.rules.mirroring import flips
from planners.rules.protocol import changed, in_passes, kept_as_ours, lasting, still, training_cases
from planners.rules.task import Task, exclusive, open_task, whole_of
from tests.builders import augment
from tests.planners.fingerprints import brats, fingerprint, hippocampus


def task(cases: int = 100, device: str = "cuda") -> Task:
    return open_task(fingerprint((40, 40, 40), cases=cases), ResolvedRequest(device=device, gpu_memory_gb=8.0))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (EvaluationRules(), 80),  # four of five folds
        (EvaluationRules(test_share=0.2), 64),  # four fifths of 80
        (EvaluationRules(test_share=0.12, validation_share=0.2), 68),  # 850 : 250 : 150
    ],
)
def test_training_cases_of_a_fold(rules: EvaluationRules, expected: int) -> None:
    assert training_cases(task(), rules) == expected


def test_a_pass_by_hand() -> None:
    """64 cases in batches from ten of them take 7 steps; 2,500 steps are 357 passes, and 500 between validations 71."""
    recipe = Recipe(epochs=10, iterations_per_epoch=250, sampling=Sampling(cases_per_batch=10))
    found = in_passes(recipe, task(), EvaluationRules(test_share=0.2), batch=60)
    assert (found.epoch_length, found.iterations_per_epoch, found.epochs) == ("pass", 7, 357)
    assert found.validate_every == 71
    assert found.steps_of_epoch(64, 60) == 7
    slower = in_passes(recipe, task(device="cpu"), EvaluationRules(test_share=0.2), batch=60)
    assert slower.validate_every == 36
    assert Recipe.model_validate(found.model_dump()) == found


def test_a_papers_own_length() -> None:
    found = lasting(Recipe(), task(), (50, 100), "a paper")
    assert (found.epochs, found.iterations_per_epoch, found.validate_every) == (50, 100, 1)
    assert lasting(Recipe(), task(device="cpu"), (50, 100), "a paper").validate_every == 2
    assert found.reasons["validate_cases"].startswith(f"ours, for time: {found.validate_cases} at most")


def test_still_changes_nothing() -> None:
    image, label = torch.rand(20, 2, 8, 8, 8), torch.zeros(20, 8, 8, 8)
    new, _ = augment(image.clone(), label, [8, 8, 8], still("none"), np.random.default_rng(0))
    assert torch.equal(new, image)
    bent = changed(still("none"), {"elastic_probability": 1.0}, {"elastic_probability": "a paper"})
    assert bent.reasons["elastic_probability"] == "a paper"
    assert bent.reasons["noise_probability"] == "none"
    new, _ = augment(image.clone(), label, [8, 8, 8], bent, np.random.default_rng(0))
    assert not torch.equal(new, image)


def test_what_is_kept_says_whose_it_is() -> None:
    """Values stay, and a reason that one has already follows."""
    recipe = Recipe(
        augmentation=Augmentation(
            gamma_probability=0.15, elastic_probability=0, reasons={"gamma_probability": "few steps"}
        )
    )
    found = kept_as_ours(recipe, augmentation="ours; a paper: none", sampling="ours; a paper: anywhere")
    values = {"reasons", "augmentation", "sampling"}
    assert found.model_dump(exclude=values) == recipe.model_dump(exclude=values)
    assert found.augmentation.model_dump(exclude={"reasons"}) == recipe.augmentation.model_dump(exclude={"reasons"})
    assert found.sampling.foreground_share == recipe.sampling.foreground_share
    assert found.sampling.reasons == {"foreground_share": "ours; a paper: anywhere"}
    reasons = found.augmentation.reasons
    assert reasons["gamma_probability"] == "ours; a paper: none. few steps"
    assert reasons["rotation_probability"] == reasons["mirror_axes"] == "ours; a paper: none"
    assert "elastic_probability" not in reasons


def test_flips_leave_sides_alone() -> None:
    assert flips(["tumor"], (0, 1, 2)) == [0, 1, 2]
    assert flips(["kidney_left", "spleen"], (0, 1, 2)) == [0, 1]
    assert flips(["kidney_left"], (2, 0, 1)) == [1, 2]


def test_one_structure_where_a_paper_has_one() -> None:
    asked = ResolvedRequest(device="cuda", gpu_memory_gb=8.0)
    assert whole_of(brats(), asked).regions == ("whole_tumor",)
    named = ResolvedRequest(device="cuda", gpu_memory_gb=8.0, regions=("tumor_core",))
    assert whole_of(brats(), named).regions == ("tumor_core",)
    assert whole_of(hippocampus(), asked).regions == ()
    whole = exclusive(open_task(brats(), whole_of(brats(), asked)))
    assert (whole.target.kind, whole.target.heads) == ("labels", 2)
    assert whole.target.outputs[0].values == [1, 2, 4]
    several = exclusive(open_task(brats(), asked))
    assert (several.target.kind, several.target.heads) == ("regions", 3)
