"""What every plan of a published system must hold."""

import torch

from autoseg.data.fingerprint import Fingerprint
from autoseg.networks import build
from autoseg.planning.planners import Planner
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from autoseg.plans.reasons import explanations


def planned(planner: Planner, data: Fingerprint, device: str = "cuda", gigabytes: float = 8.0) -> Plan:
    """A plan that is valid, whose network answers at the announced size, and whose step fits the budget."""
    plan = planner(data, ResolvedRequest(device=device, gpu_memory_gb=gigabytes))
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan
    for stage in plan.stages:
        name, configuration, channels, heads = stage.name, stage.configuration, stage.in_channels, stage.heads
        network, patch = configuration.network, configuration.patch_size
        with torch.device("meta"):
            given = torch.empty(configuration.batch_size, channels, *network.input_size(patch))
            answer = build(network, channels, heads)(given)
        answer = answer[0] if isinstance(answer, list) else answer
        assert answer.shape == (configuration.batch_size, heads, *network.output_size(patch))
        assert configuration.memory is not None
        assert configuration.memory.total <= 0.985 * gigabytes * 1e9
        assert configuration.recipe.ema_decay == 0
        explained = {path for path, _, _ in explanations(plan)}
        for value in ("patch_size", "batch_size", "recipe.optimizer.name", "recipe.loss.dice_weight", "recipe.epochs"):
            assert f"configurations.{name}.{value}" in explained
    return plan
