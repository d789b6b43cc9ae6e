"""How much of the memory budget a plan may fill, and the precision it is computed for."""

from autoseg.planning.memory import TrainingPrecision
from autoseg.step.precision import has_fast_bfloat16

#: Share of the budget that a plan may fill with tensors; the rest is for the allocator's fragmentation.
USABLE = 0.985


def precision(device: str) -> TrainingPrecision:
    """The precision that memory is computed for: 16 bits where training will use them."""
    if device == "cuda":
        return "fp16"
    if device == "cpu" and has_fast_bfloat16():
        return "bf16"
    return "fp32"
