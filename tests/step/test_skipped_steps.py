"""A step whose loss or gradient is not finite leaves nothing behind."""

from typing import Any

import torch

from autoseg.networks import build
from autoseg.step.batch import Batch
from autoseg.step.training_step import TrainingStep
from tests.builders import make_network, step_setup
from tests.devices import Calls


def test_running_statistics_are_as_before() -> None:
    """Batch norm has seen the batch in the forward pass; one overflow would stay in its statistics for good."""
    setup = step_setup(make_network(3, norm="batch"), (1, 2, [8, 8, 8], 2), ema_decay=0.9)
    torch.manual_seed(0)
    network = build(setup.network, setup.in_channels, setup.target.heads)
    step = TrainingStep(network, setup.recipe, setup.target)
    good = setup.batch(torch.device("cpu"), random=True)
    assert bool(step(good).finite)
    before = {name: value.clone() for name, value in network.state_dict().items() if value.is_floating_point()}
    assert any("running_mean" in name and bool(value.any()) for name, value in before.items())
    bad = Batch(good.image.clone(), good.label, good.drawn, good.fields)
    bad.image[0, 0, 0, 0, 0] = torch.inf
    assert not bool(step(bad).finite)
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value), name
    assert all(bool(torch.isfinite(value).all()) for value in step.average.network.state_dict().values())
    assert bool(step(good).finite)
    assert any(not torch.equal(network.state_dict()[name], value) for name, value in before.items())


class Copies(Calls):
    """Notes what copies one of some tensors alone."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self._places = {tensor.data_ptr() for tensor in tensors}

    def counts(self, func: Any, args: Any, kwargs: Any) -> bool:
        copies = str(func).startswith(("aten.clone", "aten.copy_", "aten._to_copy"))
        return copies and args[0].data_ptr() in self._places


def test_running_statistics_are_kept_and_restored_all_at_once() -> None:
    """Not by two kernels more for each of them, of which an encoder of pictures has a hundred."""
    setup = step_setup(make_network(3, norm="batch"), (1, 2, [8, 8, 8], 2))
    network = build(setup.network, setup.in_channels, setup.target.heads)
    step = TrainingStep(network, setup.recipe, setup.target)
    batch = setup.batch(torch.device("cpu"), random=True)
    statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    assert len(statistics) > 4
    with Copies(statistics) as copies:
        step(batch)
    assert copies.found == []
