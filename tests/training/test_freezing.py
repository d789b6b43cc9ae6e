"""What is frozen does not move, and what is not, does; rates fall from the heads to the first layer."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from autoseg.networks import build
from autoseg.networks.parts import depths, own_tensors
from autoseg.networks.weights import load_weights
from autoseg.plans.families import MultiView
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Freeze, Optimizer
from autoseg.step.optimizer import build_optimizer, layer_groups, set_rate
from autoseg.step.variant import Variant
from autoseg.training import callbacks
from autoseg.training.freezing import frozen_names, set_frozen
from autoseg.training.near_source import STEPS_BETWEEN, LowRank, PullToSource, nearest_of_rank
from autoseg.training.training import Budget, Training
from tests.builders import blob, make_configuration, make_network, make_plan, make_recipe, store, train_in
from tests.devices import NO_GPU, waits_noted

CPU = torch.device("cpu")
RATE = Optimizer(name="sgd", learning_rate=0.05, momentum=0.0, weight_decay=0.0)


def train(folder: Path, iterations: int, norm: str = "instance", **recipe: Any) -> dict[str, torch.Tensor]:
    """The weights after so many steps; of 0 steps, those that the training starts from."""
    chosen = make_recipe(ema_decay=0.0, optimizer=RATE, **recipe)
    plan: Plan = make_plan(make_configuration(recipe=chosen, network=make_network(norm=norm)))
    configuration = plan.configurations["small"]
    if iterations == 0:
        torch.manual_seed(0)
        network = build(configuration.network, 1, plan.target.heads)
        return {name: tensor.detach().clone() for name, tensor in own_tensors(network).items()}
    cases = [store(folder / "data", f"c{n}", blob()) for n in range(2)]
    train_in(folder / "fold", plan.stage(), cases, [], Budget(iterations=iterations))
    return load_weights(folder / "fold" / "weights.safetensors")


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("part", ["encoder", "body"])
def test_what_is_frozen_stays_and_the_rest_moves(tmp_path: Path, part: str, norm: str) -> None:
    start = train(tmp_path, 0, norm)
    changed = moved(start, train(tmp_path, 3, norm, freeze=Freeze(part=part)))
    heads = {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"}
    if part == "body":
        assert changed == heads  # running statistics of batch norms are among what stays
    else:
        assert heads < changed
        assert not any(name.startswith("encoder.") for name in changed)
        assert any(name.startswith("decoder.stages") for name in changed)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_without_kernels_only_scales_shifts_and_biases_move(tmp_path: Path, norm: str) -> None:
    start = train(tmp_path, 0, norm)
    changed = moved(start, train(tmp_path, 3, norm, freeze=Freeze(part="kernels")))
    assert changed
    assert all(start[name].ndim <= 1 for name in changed)
    assert any(name.endswith("norm.weight") for name in changed)
    assert any(name.endswith("running_mean") for name in changed) == (norm == "batch")


def test_pulled_back_by_hand() -> None:
    """Rate 0.1 and pull 2: a fifth of the way back a step, of what is trained."""
    network = nn.Linear(1, 2)
    pull = PullToSource(2.0)
    training: Any = SimpleNamespace(
        step=SimpleNamespace(network=network, optimizer=torch.optim.SGD(network.parameters(), 0.1))
    )
    pull.on_build(training, network, fresh=True)
    start = [parameter.detach().clone() for parameter in network.parameters()]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    network.bias.requires_grad_(False)
    for left in (0.8, 0.64):
        pull.after_step(training, None)  # type: ignore[arg-type]
        torch.testing.assert_close(network.weight.detach(), start[0] + left)
        torch.testing.assert_close(network.bias, start[1] + 1)


def test_what_weights_are_pulled_to_lies_as_they_do() -> None:
    """Else a GPU would draw back one tensor after the other."""
    network, pull, variant = nn.Conv3d(2, 3, 3), PullToSource(2.0), Variant(channels_last=True)
    training: Any = SimpleNamespace(
        step=SimpleNamespace(network=network, optimizer=torch.optim.SGD(network.parameters(), 0.1), variant=variant)
    )
    pull.on_build(training, network, fresh=True)
    start = network.weight.detach().clone()
    variant.prepare(network)
    pull.on_start(training)
    assert pull._start["weight"].stride() == network.weight.stride() != start.stride()
    assert torch.equal(pull._start["weight"], start)


def test_thawed_after_its_share_of_the_budget(tmp_path: Path) -> None:
    start = train(tmp_path, 0)
    first = "encoder.stages.0.0.convs.0.conv.weight"
    frozen = Freeze(part="body", until=0.5)
    assert first in moved(start, train(tmp_path, 4, freeze=frozen))  # steps 3 and 4 move it
    network = build(make_network(norm="batch"), 1, 3).train()
    names = frozen_names(frozen, make_network(norm="batch"), network, 1, 3)
    set_frozen(network, names, True)
    held = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert set(held) == names
    assert not any(part.training for part in network.modules() if isinstance(part, torch.nn.BatchNorm3d))
    set_frozen(network, names, False)
    assert all(p.requires_grad for p in network.parameters())
    assert all(part.training for part in network.modules() if isinstance(part, torch.nn.BatchNorm3d))


def test_an_interrupted_training_with_thawing_goes_on_exactly(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    recipe = make_recipe(freeze=Freeze(part="encoder", until=0.5), optimizer=Optimizer(layer_decay=0.1))
    plan = make_plan(make_configuration(recipe=recipe))
    cases = [store(tmp_path / "data", f"c{n}", blob()) for n in range(2)]

    def go(name: str, **more: Any) -> dict[str, torch.Tensor]:
        train_in(tmp_path / name, plan.stage(), cases, [], Budget(iterations=4), **more)
        return load_weights(tmp_path / name / "weights.safetensors")

    whole = go("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "SAVE_INTERVAL", 0.0)
        patch.setattr(callbacks, "SAVE_SHARE", math.inf)
        calls = []

        def stop(progress: float, note: str) -> None:
            calls.append(progress)
            if len(calls) == 3:
                raise Stop

        with pytest.raises(Stop):
            go("parts", report=stop)
    parts = go("parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_nothing_is_frozen_by_default() -> None:
    network = build(make_network(), 1, 3)
    assert frozen_names(Freeze(), make_network(), network, 1, 3) == set()


def test_a_network_without_encoder_has_none_to_freeze() -> None:
    with pytest.raises(ValidationError, match=r"recipe\.freeze\.part is encoder, but the family multiview has none"):
        make_configuration(
            (8, 8, 8), network=MultiView(features=[8]), recipe=make_recipe(freeze=Freeze(part="encoder"))
        )


def test_rates_by_hand() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    places = {name: int(name[0]) / 2 for name, _ in network.named_parameters()}
    optimizer = build_optimizer(layer_groups(network, places, 0.01), RATE)
    set_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.05, 0.5])
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2, 2]


def test_the_first_layer_moves_less(tmp_path: Path) -> None:
    """One step of SGD: each parameter moves by its rate times its gradient, so by its share of the usual move."""
    start = train(tmp_path, 0)
    same = train(tmp_path / "same", 1, gradient_clip=0)
    decayed = RATE.model_copy(update={"layer_decay": 0.1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.training.test_freezing.RATE", decayed)
        less = train(tmp_path / "less", 1, gradient_clip=0)
    places = depths(make_network(), 1, 3, [8, 8, 8])
    for name, place in places.items():
        usual, now = same[name] - start[name], less[name] - start[name]
        torch.testing.assert_close(now, 0.1 ** (1 - place) * usual, atol=1e-7, rtol=1e-3)
    assert len({place for place in places.values() if place < 1}) > 0


def test_nearest_of_rank_is_the_truncated_singular_value_decomposition() -> None:
    change = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    u, s, v = np.linalg.svd(change.flatten(1).numpy(), full_matrices=False)
    wanted = (u[:, :2] * s[:2]) @ v[:2]
    np.testing.assert_allclose(nearest_of_rank(change, 2).flatten(1).numpy(), wanted, atol=1e-5)
    assert nearest_of_rank(change, 6) is change


class Metal(torch.Tensor):
    """A tensor of a Mac's GPU, as far as the decomposition asks."""

    @property
    def device(self) -> torch.device:
        return torch.device("mps")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def double(self) -> torch.Tensor:
        raise TypeError("the MPS framework doesn't support float64")


def test_nearest_of_rank_without_numbers_of_64_bits() -> None:
    change = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    found = nearest_of_rank(change.as_subclass(Metal), 2)
    assert torch.equal(found.as_subclass(torch.Tensor), nearest_of_rank(change, 2))


def test_changes_of_kernels_stay_of_low_rank() -> None:
    """Of all that are trained; scales, shifts and biases are free, frozen kernels untouched."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 5, 3), nn.BatchNorm3d(5), nn.Conv3d(5, 4, 1))
    training = cast(Training, SimpleNamespace(step=SimpleNamespace(network=network), device=CPU))
    low = LowRank(1)
    low.on_build(training, network, fresh=True)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    network[2].weight.requires_grad_(False)
    for _ in range(3):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        low.after_step(training, None)  # type: ignore[arg-type]
    change = (network[0].weight - before["0.weight"]).detach().flatten(1)
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 1
    assert torch.linalg.matrix_rank((network[2].weight - before["2.weight"]).flatten(1)) > 1
    assert (network[1].bias != before["1.bias"]).all()
    # The moving average of many such changes is of any rank; what is saved is not.
    average = copy.deepcopy(network)
    with torch.no_grad():
        average[0].weight.add_(torch.randn_like(average[0].weight))
        average[2].weight.copy_(before["2.weight"])
    kept = average[0].weight.detach().clone()
    saved = low.on_end(training, average)
    for layer in (0, 2):
        change = (saved[layer].weight - before[f"{layer}.weight"]).flatten(1)  # type: ignore[index, operator]
        assert torch.linalg.matrix_rank(change.detach(), rtol=1e-4) <= 1
    assert torch.equal(average[0].weight, kept)


@pytest.mark.parametrize(
    ("device", "said", "every"),
    [
        ("cpu", "cpu", 1),
        ("cpu", "cuda", STEPS_BETWEEN),
        pytest.param("cuda", "cuda", STEPS_BETWEEN, marks=[pytest.mark.gpu, NO_GPU]),
    ],
)
def test_a_gpu_is_not_made_to_wait_after_each_step(device: str, said: str, every: int) -> None:
    """Decompositions wait for it; on a CPU, whose steps are long, changes are of low rank after each."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 5, 3), nn.Conv3d(5, 4, 1)).to(device)
    state = SimpleNamespace(iteration=0)
    training: Any = SimpleNamespace(step=SimpleNamespace(network=network), state=state, device=torch.device(said))
    low, waited = LowRank(1), []
    low.on_build(training, network, fresh=True)
    start = network[0].weight.detach().clone()
    for number in range(1, 2 * STEPS_BETWEEN + 1):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        state.iteration = number
        with waits_noted(device) as waits:
            low.after_step(training, None)  # type: ignore[arg-type]
        if waits:
            waited.append(number)
            change = (network[0].weight - start).detach().flatten(1).cpu()
            assert torch.linalg.matrix_rank(change, rtol=1e-4) == 1
    assert waited == list(range(every, 2 * STEPS_BETWEEN + 1, every))
