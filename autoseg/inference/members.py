"""What takes part in a prediction: a run's trained folds, of one stage or of several that follow each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from autoseg import __version__
from autoseg.inference.chain import Stage
from autoseg.networks.weights import load_network
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.plans.target import Target
from autoseg.runs.run import Run
from autoseg.utils.errors import UsageError


@dataclass(frozen=True)
class Member:
    """One run's part in a prediction.

    Attributes:
        name: of the run, for messages.
        plan: what it was trained by.
        configuration: which of the plan's.
        networks: of its folds.
        brain_mask: whether its training cases had brain masks, which decide on cropping and normalization.
        detail: which configuration, folds and checkpoint, for the record.
        earlier: the stages before it, in order.
        target: what it speaks about, where that is not the plan's target.
    """

    name: str
    plan: Plan
    configuration: Configuration
    networks: list[nn.Module]
    brain_mask: bool = False
    detail: dict[str, object] = field(default_factory=dict)
    earlier: list[Stage] = field(default_factory=list)
    target: Target | None = None

    @property
    def stages(self) -> list[Stage]:
        """All of its stages, in order; often it is the only one."""
        own = Stage(self.configuration, self.plan.target_of(self.configuration), self.networks)
        return [*self.earlier, own]

    @property
    def result(self) -> Target:
        """What it speaks about."""
        return self.target or self.plan.target


def load_member(
    run: Run, configuration: str | None, folds: Sequence[int] | None, device: torch.device, checkpoint: str
) -> Member:
    """Load a run's trained folds, and those of the stages before.

    Args:
        run: the run folder.
        configuration: name; the recommended one where None, or one that is trained and segments as much.
        folds: numbers, taken of every stage; all trained ones where None.
        device: to compute on.
        checkpoint: name of the weights' file without its ending.

    Raises:
        AutosegError: weights are missing or unreadable.
        UsageError: no such configuration; nothing trained.
    """
    plan = run.plan
    name, chosen = plan.configuration(run.usual_configuration() if configuration is None else configuration)
    stages = plan.stages(name)
    of_stage = {stage: _folds(run, stage, folds) for stage in stages}
    networks = {
        stage: [
            load_network(run.fold(stage, fold) / f"{checkpoint}.safetensors", plan, plan.configurations[stage], device)
            for fold in numbers
        ]
        for stage, numbers in of_stage.items()
    }
    detail: dict[str, object] = {
        "configuration": name,
        "folds": of_stage[name],
        "checkpoint": checkpoint,
        "autoseg": __version__,
    }
    if len(stages) > 1:
        detail["stages"] = [{"configuration": stage, "folds": numbers} for stage, numbers in of_stage.items()]
    earlier = [
        Stage(plan.configurations[stage], plan.target_of(plan.configurations[stage]), networks[stage])
        for stage in stages[:-1]
    ]
    brain_mask = any(case.mask is not None for case in run.dataset.cases)
    return Member(str(run.path), plan, chosen, networks[name], brain_mask, detail, earlier, plan.result_of(name))


def _folds(run: Run, name: str, wanted: Sequence[int] | None) -> list[int]:
    available = run.trained_folds(name)
    if not available:
        raise UsageError(f"{run.path} has no trained fold of {name}; train it with 'autoseg train {run.path}'.")
    absent = sorted(set(wanted or ()) - set(available))
    if absent:
        raise UsageError(
            f"--folds {absent[0]} of {name} is not trained in {run.path}; trained: {', '.join(map(str, available))}."
        )
    return list(wanted or available)
