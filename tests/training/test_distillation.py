"""A teacher's scores beside a case: moved with it, and counted where it speaks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.networks.weights import load_network
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Distillation
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.fields import TEACHER as TEACHER_FIELD
from autoseg.preprocessing.fields import StoredField
from autoseg.preprocessing.store import StoredCase, save
from autoseg.step.distillation import distillation_loss
from autoseg.step.terms import softened_divergence
from autoseg.training.training import Budget, training_identity
from tests.builders import (
    LABELS,
    REGIONS,
    augment,
    augment_maps,
    blob,
    make_configuration,
    make_network,
    make_plan,
    make_recipe,
    still,
    store,
)
from tests.training.loading import loader_of, padded, patches_of
from tests.training.test_augmentation import WILD
from tests.training.test_loop import same_weights, train

pytestmark = pytest.mark.usefixtures("one_core")

TEACHER = Distillation(weight=0.5, temperature=3.0, teacher="any")


def certain(label: np.ndarray) -> np.ndarray:
    """Log-probabilities of a teacher that is all but sure of a label map, float16 ``(3, z, y, x)``."""
    scores = np.full((3, *label.shape), -8.0, np.float16)
    for head in range(3):
        scores[head][label == head] = 0
    return scores


def taught(case: StoredCase, folder: Path, scores: np.ndarray, teacher: str = "t") -> StoredCase:
    folder.mkdir(parents=True, exist_ok=True)
    kept = PreprocessedCase(scores, np.zeros(case.shape, np.int16), case.trace)
    save(folder, case.id, kept, "key")
    field = StoredField(TEACHER_FIELD, StoredCase(folder, case.id), teacher)
    return StoredCase(case.folder, case.id, (field,))


def augment_taught(batch, label, patch, augmentation, rng, heads):  # type: ignore[no-untyped-def]
    """Image, label and the teacher's channels, which are the last ``heads + 1`` of the batch."""
    moved, maps = augment_maps(batch, label[:, None], patch, augmentation, rng, fields=heads + 1)
    return moved[:, : -heads - 1], maps[:, 0], moved[:, -heads - 1 :]


# --- a case ---


def test_scores_are_a_field(tmp_path: Path) -> None:
    case = store(tmp_path / "data", "c", blob())
    scores = np.random.default_rng(0).normal(size=(3, *case.shape)).astype(np.float16)
    found = taught(case, tmp_path / "teacher", scores)
    box = (slice(1, 6), slice(2, 9), slice(3, 7))
    for part in ((), box):
        values = found.field(TEACHER_FIELD, part)
        where = (slice(None), *part)
        assert values.dtype == np.float32
        assert np.array_equal(found.image(part), case.image(part))
        assert np.array_equal(values[:3], scores[where].astype(np.float32))
        assert np.array_equal(values[3], np.ones_like(values[0]))
    assert np.array_equal(found.label(box), case.label(box))
    # Scores may be computed anew on another device; another teacher makes other training data.
    again = taught(case, tmp_path / "again", scores + np.float16(0.001))
    other = taught(case, tmp_path / "other", scores, "u")
    assert found.content == again.content
    assert len({case.content, found.content, other.content}) == 3


def test_what_is_loaded_beyond_the_image_is_marked(tmp_path: Path) -> None:
    case = taught(store(tmp_path / "data", "c", blob()), tmp_path / "teacher", certain(blob()))
    batch = padded(loader_of([case], patches_of((8, 8, 8), size=(20, 20, 20))), 0)
    image, inside = batch["image"], batch["fields"][TEACHER_FIELD][:, -1] == 1
    assert np.array_equal(image[:, 0] != 0, inside)  # the picture is zero nowhere
    assert inside.sum() == 2 * np.prod(case.shape)  # a box around all of it


# --- moved with the image ---


@pytest.mark.parametrize("loaded", [(13, 12, 11), (14, 15)])
def test_scores_move_with_the_image_and_keep_their_values(loaded: tuple[int, ...]) -> None:
    """A teacher that says what the image shows says so afterwards, too, where only places change."""
    dimensions = len(loaded)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(6, 1, *loaded)).astype(np.float32))
    label = torch.from_numpy(rng.integers(0, 3, (6, *loaded)).astype(np.int16))
    batch = torch.cat([image, 2 * image, torch.ones_like(image)], dim=1)
    axes = list(range(dimensions))
    moves = still(
        rotation_probability=0.7, scaling_probability=0.7, elastic_probability=0.7, mirror_axes=axes, rotation_axes=axes
    )
    patch = [9] * dimensions
    new, new_label, said = augment_taught(batch, label, patch, moves, np.random.default_rng(5), heads=1)
    assert said.shape == (6, 2, *patch)
    torch.testing.assert_close(said[:, :1], 2 * new)
    # Image and label are what they are without a teacher, whatever else happens to the intensities.
    for augmentation in (moves, WILD.model_copy(update={"mirror_axes": axes, "rotation_axes": axes})):
        new, new_label, said = augment_taught(batch, label, patch, augmentation, np.random.default_rng(5), heads=1)
        alone, alone_label = augment(image, label, patch, augmentation, np.random.default_rng(5))
        assert torch.equal(new_label, alone_label)
        if augmentation is moves:
            assert torch.equal(new, alone)
    assert torch.isfinite(said).all()
    assert (said[:, 1] >= 0).all()
    assert (said[:, 1] <= 1 + 1e-5).all()


def test_intensities_are_changed_as_without_a_teacher() -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(4, 2, 8, 8, 8)).astype(np.float32))
    label = torch.zeros((4, 8, 8, 8), dtype=torch.int16)
    loud = still(
        brightness_probability=1,
        contrast_probability=1,
        gamma_probability=1,
        gamma_invert_probability=1,
        blur_probability=1,
        low_resolution_probability=1,
    )
    scores = torch.from_numpy(rng.normal(size=(4, 3, 8, 8, 8)).astype(np.float32))
    batch = torch.cat([image, scores, torch.ones_like(image[:, :1])], dim=1)
    new, _, said = augment_taught(batch.clone(), label, (8, 8, 8), loud, np.random.default_rng(1), heads=3)
    alone, _ = augment(image.clone(), label, (8, 8, 8), loud, np.random.default_rng(1))
    assert torch.equal(new, alone)
    assert not torch.equal(new, image)
    assert torch.equal(said[:, :3], scores)


# --- the loss ---


def random_outputs(heads: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    said = torch.cat([torch.randn(2, heads, 4, 4, 4), torch.ones(2, 1, 4, 4, 4)], dim=1)
    return torch.randn(2, heads, 4, 4, 4), said


@pytest.mark.parametrize("target", [LABELS, REGIONS])
def test_only_the_full_resolution_and_each_opinion_there(target) -> None:
    logits, said = random_outputs(target.heads)
    label = torch.zeros((2, 4, 4, 4), dtype=torch.int16)
    one = distillation_loss(logits, label, said, TEACHER, target)
    assert one.item() == pytest.approx(
        0.5 * softened_divergence(logits, said[:, :-1], target.kind, 3.0).item(), rel=1e-6
    )
    lower = torch.randn(2, target.heads, 2, 2, 2)
    assert distillation_loss([logits, lower], label, said, TEACHER, target).item() == one.item()
    assert distillation_loss([logits, logits], label, said, TEACHER, target).item() == pytest.approx(2 * one.item())


def test_voxels_without_a_say() -> None:
    """Those of the ignore label, and those that are not wholly inside the image."""
    logits, said = random_outputs()
    label = torch.zeros((2, 4, 4, 4), dtype=torch.int16)
    label[:, 0] = 9
    said[:, -1, :, 0] = 0.9
    target = LABELS.model_copy(update={"ignore": 9})
    logits.requires_grad_()
    value = distillation_loss(logits, label, said, TEACHER, target)
    value.backward()
    assert logits.grad is not None
    reached = logits.grad.abs().sum(1) > 0
    assert not reached[:, 0].any()
    assert not reached[:, :, 0].any()
    assert reached[:, 1:, 1:].all()
    expected = 0.5 * softened_divergence(logits[:, :, 1:, 1:], said[:, :-1, 1:, 1:], "labels", 3.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    label[:] = 9
    assert distillation_loss(logits, label, said, TEACHER, target).item() == 0


# --- training ---


def plan_with(distillation: Distillation | None, **recipe: Any) -> Plan:
    recipe = {"ema_decay": 0.0, "validate_every": 1000, "schedule": {"name": "constant"}, **recipe}
    return make_plan(make_configuration(recipe=make_recipe(distillation=distillation, **recipe)))


@pytest.fixture
def lessons(tmp_path: Path) -> list[StoredCase]:
    """Cases whose teacher says that all is the label ``outer``, but for the last one, which is validated."""
    cases = [store(tmp_path / "data", f"c{n}", blob()) for n in range(3)]
    return [taught(case, tmp_path / "teacher", certain(np.ones_like(blob()))) for case in cases[:-1]] + [cases[-1]]


def test_the_student_says_what_its_teacher_says(tmp_path: Path, lessons: list[StoredCase]) -> None:
    def outer(weight: float) -> float:
        """Mean probability of the label after a short training."""
        teacher = Distillation(weight=weight, temperature=2, teacher="t")
        plan = plan_with(teacher, optimizer={"name": "adamw", "learning_rate": 0.03})
        folder = tmp_path / f"weight_{weight:g}"
        train(folder, plan, lessons, Budget(iterations=15))
        network = load_network(folder / "weights.safetensors", plan.stage("small"), torch.device("cpu"))
        image = torch.from_numpy(lessons[-1].image())[None, :, :8, :12, :12]
        return float(torch.softmax(network(image), dim=1)[:, 1].mean())

    label = float((blob() == 1).mean())
    assert outer(1e-9) < 2 * label
    assert outer(50) > 0.7


def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path, lessons: list[StoredCase]) -> None:
    plan = plan_with(TEACHER, augmentation=WILD, schedule={"name": "constant", "warmup": 0})
    train(tmp_path / "once", plan, lessons, Budget(iterations=4))
    train(tmp_path / "twice", plan, lessons, Budget(iterations=2))
    train(tmp_path / "twice", plan, lessons, Budget(iterations=4))
    assert same_weights(tmp_path / "once", tmp_path / "twice")


def test_weight_0_trains_as_without_a_teacher(tmp_path: Path, lessons: list[StoredCase]) -> None:
    silent = plan_with(Distillation(weight=0, teacher="t"), augmentation=WILD)
    plain = [StoredCase(case.folder, case.id) for case in lessons]
    train(tmp_path / "f", silent, plain, Budget(iterations=3))
    train(tmp_path / "g", plan_with(None, augmentation=WILD), plain, Budget(iterations=3))
    assert same_weights(tmp_path / "f", tmp_path / "g")


@pytest.mark.parametrize(
    ("dimensions", "patch"),
    [(2, (8, 8)), (3, (8, 8, 8))],
)
def test_slices_and_volumes(tmp_path: Path, lessons: list[StoredCase], dimensions: int, patch: tuple[int, ...]) -> None:
    recipe = make_recipe(distillation=TEACHER, validate_every=1000)
    plan = make_plan(make_configuration(patch, recipe=recipe, network=make_network(dimensions)))
    state = train(tmp_path / "f", plan, lessons, Budget(iterations=2))
    assert np.isfinite(state.history[-1]["loss"])


def test_the_teacher_is_part_of_the_identity(tmp_path: Path, lessons: list[StoredCase]) -> None:
    def identity(distillation: Distillation | None) -> str:
        plan = plan_with(distillation)
        return training_identity(plan.stage("small"), lessons[-1:], 0)

    said = TEACHER.model_copy(update={"reasons": {"weight": "because"}})
    assert identity(said) == identity(TEACHER)
    changes = [{"teacher": "other"}, {"weight": 0.6}, {"temperature": 2.5}]
    others = [TEACHER.model_copy(update=change) for change in changes]
    assert len({identity(each) for each in (None, TEACHER, *others)}) == 5
