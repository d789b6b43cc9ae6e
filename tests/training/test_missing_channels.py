"""Missing channels in training: zero into the network, and never all of a case's channels at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.plans.configuration import Previous
from autoseg.plans.plan import Plan
from autoseg.preprocessing.fields import PREVIOUS, StoredField
from autoseg.preprocessing.store import StoredCase
from autoseg.step.batch import Batch
from autoseg.step.training_step import StepOutcome, TrainingStep
from autoseg.training.missing_channels import kept_channels, only_channels
from autoseg.training.sampling import AUGMENTATION
from autoseg.training.training import Budget
from tests.builders import (
    augment,
    blob,
    make_configuration,
    make_plan,
    make_recipe,
    picture_of,
    still,
    store,
    train_in,
)
from tests.training.loading import loader_of, padded, patches_of

NOISY = still(noise_probability=1.0, noise_std=(0.5, 0.5), brightness_probability=1.0, gamma_probability=1.0)


@dataclass(frozen=True)
class Incomplete(StoredCase):
    """A stored case that lacks its last channel, which is zero."""

    @property
    def present(self) -> tuple[bool, ...]:
        return (*super().present[:-1], False)


# --- which are kept ---


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 5))),
    st.floats(0, 0.999),
    st.integers(0, 2**32),
)
def test_one_of_those_that_a_case_has_is_always_left(present: np.ndarray, probability: float, seed: int) -> None:
    present[:, 0] |= ~present.any(axis=1)  # no case has none
    kept = kept_channels(present, probability, np.random.default_rng(seed))
    assert not (kept & ~present).any()
    assert kept.any(axis=1).all()


def test_without_dropout_nothing_is_drawn() -> None:
    rng = np.random.default_rng(1)
    present = np.array([[True, False], [True, True]])
    assert np.array_equal(kept_channels(present, 0.0, rng), present)
    assert rng.random() == np.random.default_rng(1).random()


@pytest.mark.parametrize("probability", [0.2, 0.7])
def test_how_often(probability: float) -> None:
    """Of n channels each is dropped with p, but for the n-th part of the times that all would be: p − pⁿ/n."""
    present = np.tile([True, True, True, False], (60_000, 1))
    dropped = ~kept_channels(present, probability, np.random.default_rng(2))[:, :3]
    expected = probability - probability**3 / 3
    assert dropped.mean(axis=0) == pytest.approx([expected] * 3, abs=0.01)
    # One by one: two go together as often as chance has it, but for the times that all three would.
    both = (dropped[:, 0] & dropped[:, 1]).mean()
    assert both == pytest.approx(probability**2 - probability**3 * 2 / 3, abs=0.01)


def test_only_the_images_own_channels_are_dropped() -> None:
    image = torch.rand(2, 3, 4, 4) + 1
    kept = np.array([[True, False], [True, True]])
    found = only_channels(image, kept)
    assert not found[0, 1].any()
    found[0, 1] = image[0, 1]
    assert torch.equal(found, image)
    assert only_channels(image, np.ones((2, 2), bool)) is image


# --- in a training ---


def plan_with(channels: int = 2, **recipe: Any) -> Plan:
    recipe = {"augmentation": NOISY, "iterations_per_epoch": 6, **recipe}
    return make_plan(
        make_configuration(recipe=make_recipe(**recipe)),
        channels=[f"c{number}" for number in range(channels)],
        allow_missing_channels=True,
    )


def stored(folder: Path, channels: int = 2, count: int = 3) -> list[StoredCase]:
    found = []
    for number in range(count):
        label = blob(shift=number % 2)
        image = np.stack([picture_of(label, channel) for channel in range(channels)])
        found.append(store(folder, f"case{number}", label, image))
    return found


def lacking_last(folder: Path, name: str) -> StoredCase:
    label = blob()
    store(folder, name, label, np.stack([picture_of(label), np.zeros(label.shape)]))
    return Incomplete(folder, name)


def seen(
    folder: Path, plan: Plan, cases: list[StoredCase], monkeypatch: pytest.MonkeyPatch, name: str = "small"
) -> torch.Tensor:
    """Every image that the network of a training of six steps is given: ``(samples, channel, *patch)``."""
    images: list[torch.Tensor] = []
    real = TrainingStep.__call__

    def watched(step: TrainingStep, batch: Batch) -> StepOutcome:
        images.append(batch.image.clone())
        return real(step, batch)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "__call__", watched)
        train_in(folder, plan.stage(name), cases, [], Budget(iterations=6))
    return torch.cat(images)


def test_what_a_case_lacks_is_zero_whatever_the_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = seen(tmp_path / "f", plan_with(), [lacking_last(tmp_path / "data", "c")], monkeypatch)
    assert not images[:, 1].any()
    assert images[:, 0].flatten(1).std(dim=1).min() > 0
    # The same voxels of a case that has them, where noise makes something of the zeros.
    whole = StoredCase(tmp_path / "data", "c")
    assert seen(tmp_path / "g", plan_with(), [whole], monkeypatch)[:, 1].flatten(1).any(dim=1).all()


def test_dropped_channels_are_zero_and_the_others_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = stored(tmp_path / "data", 3)
    whole = seen(tmp_path / "whole", plan_with(3), cases, monkeypatch)
    dropped = seen(tmp_path / "dropped", plan_with(3, channel_dropout=0.6), cases, monkeypatch)
    kept = dropped.flatten(2).any(dim=2)
    assert kept.any(dim=1).all()
    assert 0.2 < kept.float().mean() < 0.8
    assert torch.equal(dropped, torch.where(kept.reshape(*kept.shape, 1, 1, 1), whole, 0.0))


def test_a_case_keeps_one_of_the_channels_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [lacking_last(tmp_path / "data", "c")]
    images = seen(tmp_path / "f", plan_with(channel_dropout=0.9), cases, monkeypatch)
    assert images[:, 0].flatten(1).any(dim=1).all()
    assert not images[:, 1].any()


def test_what_a_stage_before_hands_on_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(
        channels=("c0", "c1"),
        configurations={
            "low": make_configuration(data="low"),
            "full": make_configuration(
                recipe=make_recipe(augmentation=NOISY, channel_dropout=0.9), previous=Previous(configuration="low")
            ),
        },
        recommended="full",
    )
    plain = plan.model_copy(deep=True)
    plain.configurations["full"] = make_configuration(
        recipe=make_recipe(augmentation=NOISY), previous=Previous(configuration="low")
    )
    cases: list[StoredCase] = [
        StoredCase(case.folder, case.id, (StoredField(PREVIOUS, store(tmp_path / "low", case.id, blob()), "low"),))
        for case in stored(tmp_path / "data")
    ]
    with_dropout = seen(tmp_path / "f", plan, cases, monkeypatch, "full")
    without = seen(tmp_path / "g", plain, cases, monkeypatch, "full")
    assert with_dropout.shape[1] == 4
    assert torch.equal(with_dropout[:, 2:], without[:, 2:])
    assert with_dropout[:, 2:].any()
    assert (~with_dropout[:, :2].flatten(2).any(dim=2)).any()


def test_complete_cases_without_dropout_train_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network is given is what the augmentation made, and its own randomness starts from the next draw."""
    cases, plan = stored(tmp_path / "data"), plan_with()
    configuration = plan.configurations["small"]
    seeds: list[int] = []
    manual_seed = torch.manual_seed
    with monkeypatch.context() as patched:
        patched.setattr(torch, "manual_seed", lambda number: (seeds.append(number), manual_seed(number))[1])
        images = seen(tmp_path / "f", plan, cases, monkeypatch)
    patch, augmentation = configuration.patch_size, configuration.recipe.augmentation
    loader = loader_of(cases, patches_of(patch, sampling=configuration.recipe.sampling, augmentation=augmentation))
    for step in range(6):
        batch = padded(loader, step)
        rng = np.random.default_rng([0, AUGMENTATION, step])
        image, label = torch.from_numpy(batch["image"]), torch.from_numpy(batch["label"])
        image, _ = augment(image, label, patch, augmentation, rng)
        assert torch.equal(images[2 * step : 2 * step + 2], image)
        assert int(rng.integers(2**62)) in seeds
