"""Learning from several raters: the loss by hand, what is stored, loaded and moved, and a training from end to end."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.inference.decoding import mean_of_answers
from autoseg.networks.weights import load_weights
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Loss, Optimizer
from autoseg.plans.target import Target
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.fields import ANNOTATIONS
from autoseg.preprocessing.store import StoredCase, save
from autoseg.step.losses import deep_supervision_loss, training_loss
from autoseg.training.training import Budget
from tests.builders import (
    LABELS,
    REGIONS,
    blob,
    loaded,
    make_configuration,
    make_network,
    make_plan,
    make_recipe,
    picture_of,
    store,
    train_in,
)
from tests.training.loading import loader_of, padded, patches_of

CPU = torch.device("cpu")


def larger(label: np.ndarray) -> np.ndarray:
    """As a rater draws who calls everything around the inner part inner, too."""
    return np.where(label > 0, 2, 0).astype(np.int16)


def logits(heads: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((3, heads, *[side] * 3), generator=generator) for side in (8, 4, 2)]


def maps(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 3, (3, 8, 8, 8), generator=torch.Generator().manual_seed(seed)).to(torch.int16)


@pytest.mark.parametrize("target", [LABELS, REGIONS])
@pytest.mark.parametrize("loss", [Loss(), Loss(batch_dice=False), Loss(dice_weight=0, focal_weight=1, ce_weight=0)])
def test_raters_who_agree_cost_what_one_does(target: Target, loss: Loss) -> None:
    outputs, label = logits(target.heads), maps()
    single = deep_supervision_loss(outputs, label, loss, target)
    assert training_loss(outputs, label, loss, target) == single
    twice = [torch.cat([level, level], dim=1) for level in outputs]
    both = torch.stack([label, label], dim=1)
    assert training_loss(twice, both, loss, target).item() == pytest.approx(single.item(), rel=1e-6)
    assert training_loss(twice[0], both, loss, target).item() == pytest.approx(
        deep_supervision_loss(outputs[0], label, loss, target).item(), rel=1e-6
    )


def test_that_all_drew_is_not_told_of_each(tmp_path: Path) -> None:
    """A batch then has the loss of one of which nothing is said, and is computed like it."""
    label = blob()
    cases = [put(tmp_path, "x", label, label, larger(label)), put(tmp_path, "y", label, label, None)]
    for chosen, told in ((cases, True), (cases[:1], False)):
        loader = loader_of(chosen, patches_of((8, 8, 8), 4))
        assert all((loader.batch(number).drawn is not None) == told for number in range(3))
    outputs = [torch.cat(pair, dim=1) for pair in zip(logits(3), logits(3, 1), strict=True)]
    drawings = torch.stack([maps(2), maps(3)], dim=1)
    all_of_them = np.ones((3, 2), bool)
    assert training_loss(outputs, drawings, Loss(), LABELS, all_of_them) == training_loss(
        outputs, drawings, Loss(), LABELS
    )


@pytest.mark.parametrize("batch_dice", [False, True])
def test_each_drawing_counts_alike_and_no_other(batch_dice: bool) -> None:
    loss = Loss(batch_dice=batch_dice)
    outputs = [torch.cat(pair, dim=1).requires_grad_() for pair in zip(logits(3), logits(3, 1), strict=True)]
    label = torch.stack([maps(2), maps(3)], dim=1)
    drawn = np.array([[True, True], [True, False], [True, False]])
    found = training_loss(outputs, label, loss, LABELS, drawn)
    first = deep_supervision_loss([level[:, :3] for level in outputs], label[:, 0], loss, LABELS)
    second = deep_supervision_loss([level[:1, 3:] for level in outputs], label[:1, 1], loss, LABELS)
    assert found.item() == pytest.approx((3 * first.item() + second.item()) / 4, rel=1e-6)
    label[1:, 1] = 7  # nothing that anybody drew
    assert training_loss(outputs, label, loss, LABELS, drawn) == found
    found.backward()
    gradient = outputs[0].grad
    assert gradient is not None
    assert not gradient[1:, 3:].any()
    assert gradient[:1, 3:].any()
    nobody = np.array([[True, False]] * 3)
    assert training_loss(outputs, label, loss, LABELS, nobody).item() == pytest.approx(first.item(), rel=1e-6)


def test_the_mean_is_one_of_probabilities() -> None:
    given = torch.randn((6, 4, 5, 6), generator=torch.Generator().manual_seed(1))
    found = torch.softmax(mean_of_answers(given, LABELS), dim=0)
    assert torch.allclose(found, (torch.softmax(given[:3], 0) + torch.softmax(given[3:], 0)) / 2, atol=1e-6)
    found = torch.sigmoid(mean_of_answers(given, REGIONS))
    assert torch.allclose(found, torch.sigmoid(given).reshape(3, 2, 4, 5, 6).mean(0), atol=1e-6)
    assert torch.equal(mean_of_answers(given[:3], LABELS), given[:3])


def plan_of(raters: tuple[str, ...] = ("ann", "ben"), **recipe: object) -> Plan:
    network = make_network(decoders=max(len(raters), 1))
    configuration = make_configuration(network=network, recipe=make_recipe(**recipe))
    return make_plan(configuration, raters=list(raters))


def put(folder: Path, name: str, label: np.ndarray, *raters: np.ndarray | None) -> StoredCase:
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_of(("a", "b", "c")[: len(raters)])
    case = loaded(picture_of(label), label, annotations=raters)
    save(folder, name, preprocess_case(case, plan.stage("small")), "key")
    return StoredCase(folder, name)


def test_what_is_stored(tmp_path: Path) -> None:
    label = blob()
    plain = store(tmp_path / "plain", "c", label)
    case = put(tmp_path / "raters", "c", label, larger(label), None, label)
    assert np.array_equal(case.label(), label)
    assert np.array_equal(case.annotations(), [larger(label), np.zeros_like(label), label])
    box = (slice(1, 6), slice(2, 9), slice(0, 5))
    assert np.array_equal(case.annotations(box)[2], label[box])
    assert (case.drawn, plain.drawn) == ([True, False, True], [])
    # A patch may be centred where anybody drew: all of the blob is inner for the one, outer only for the other.
    inner, outer = {tuple(p) for p in case.foreground[2]}, {tuple(p) for p in case.foreground[1]}
    assert inner == {tuple(p) for p in np.argwhere(label > 0)}
    assert outer == {tuple(p) for p in np.argwhere(label == 1)}
    assert case.label_voxels == {1: int((label == 1).sum()), 2: int((label > 0).sum())}
    # An ordinary case is what it always was, and what others drew is part of what a training saw.
    assert sorted(path.name for path in plain.folder.iterdir()) == [
        "c.foreground.npz", "c.image.npy", "c.json", "c.label.npy"
    ]  # fmt: skip
    assert set(plain.info) == {"key", "content", "shape", "trace", "arrays"}
    assert len({plain.content, case.content, put(tmp_path / "r2", "c", label, larger(label), label, None).content}) == 3
    again = put(tmp_path / "raters", "c", label)
    assert again.drawn == []
    assert not (tmp_path / "raters" / "c.raters.npy").exists()


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_patches_hold_what_each_drew_there(tmp_path: Path, patch: tuple[int, ...]) -> None:
    label = blob()
    cases = [put(tmp_path, "x", label, label, larger(label)), put(tmp_path, "y", label, label, None)]
    loader = loader_of(cases, patches_of(patch, size=[12] * len(patch)))
    for number in range(4):
        batch = padded(loader, number)
        assert "label" not in batch
        maps = batch["fields"][ANNOTATIONS]
        assert maps.shape == (2, 2, *[12] * len(patch))
        seen = np.floor(batch["image"][:, 0] / 100)
        assert np.array_equal(maps[:, 0], seen)
        for sample, drew in enumerate(batch["drawn"]):
            assert drew[0]
            wanted = larger(seen[sample]) if drew[1] else np.zeros_like(seen[sample])
            assert np.array_equal(maps[sample, 1], wanted)
        assert batch["drawn"][:, 1].sum() == 1  # each case once


def test_decoders_differ_by_what_their_raters_drew_alone(tmp_path: Path) -> None:
    label = blob()
    agreeing = [put(tmp_path / "alike", name, label, label, label) for name in "xyz"]
    differing = [put(tmp_path / "apart", name, label, label, larger(label)) for name in "xyz"]
    sparse = [put(tmp_path / "few", name, label, label, None if name == "x" else larger(label)) for name in "xyz"]
    plan = plan_of(optimizer=Optimizer(learning_rate=0.05), iterations_per_epoch=40, ema_decay=0.9)
    wild = {"rotation_probability": 0.5, "scaling_probability": 0.5, "mirror_axes": [0, 1, 2]}
    configuration = plan.configurations["small"]
    turned = configuration.recipe.model_copy(
        update={"augmentation": configuration.recipe.augmentation.model_copy(update=wild)}
    )
    for name, cases, config, steps in (
        ("alike", agreeing, configuration.model_copy(update={"recipe": turned}), 6),
        ("apart", differing, configuration, 80),
        ("few", sparse, configuration, 6),
    ):
        stage = make_plan(config, raters=plan.raters).stage()
        state = train_in(tmp_path / name, stage, cases[:-1], cases[-1:], Budget(iterations=steps))
        assert np.isfinite(state.history[-1]["loss"])
    alike, apart, few = (load_weights(tmp_path / name / "weights.safetensors") for name in ("alike", "apart", "few"))
    decoder = [name for name in alike if name.startswith("decoders.0.")]
    assert decoder
    for found, same in ((alike, True), (apart, False), (few, False)):
        pairs = [(found[name], found[name.replace("decoders.0", "decoders.1")]) for name in decoder]
        assert all(torch.equal(a, b) for a, b in pairs) == same
