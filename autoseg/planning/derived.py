"""What of a plan follows from its other values: memory of a training step, and numbers of parameters."""

from autoseg.networks import parameters_of
from autoseg.planning.memory import TrainingPrecision, step_memory
from autoseg.plans.configuration import Memory
from autoseg.plans.plan import Plan
from autoseg.plans.stage import Stage
from autoseg.step.setup import StepSetup


def refresh(plan: Plan) -> Plan:
    """The plan with memory and numbers of parameters computed anew, after values they depend on were changed."""
    configurations = {}
    for stage in plan.stages:
        memory = compute_memory(stage, plan.device)
        trainable, with_statistics = parameters_of(stage.network, stage.in_channels, stage.heads)
        configurations[stage.name] = stage.configuration.model_copy(
            update={
                "memory": memory,
                "parameters": trainable,
                "parameters_with_statistics": with_statistics,
                "reasons": {
                    **stage.configuration.reasons,
                    "memory": f"computed for one training step in {memory.precision}: {memory.total / 1e9:.2f} GB",
                },
            }
        )
    return plan.model_copy(update={"configurations": configurations})


def compute_memory(stage: Stage, device: str) -> Memory:
    """Memory of one training step of a stage, in the precision it was planned for.

    Args:
        stage: that is trained.
        device: kind of device that trains it.
    """
    recipe, planned = stage.recipe, stage.configuration.memory
    precision: TrainingPrecision = planned.precision if planned else "fp32"
    if recipe.precision != "auto":
        precision = recipe.precision
    return step_memory(StepSetup.of(stage), precision, device)
