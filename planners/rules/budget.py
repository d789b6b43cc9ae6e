"""How much of the memory budget a plan may fill, and the precision it is computed for."""

from autoseg.planning.memory import TrainingPrecision

#: Share of the budget that a plan may fill with tensors; the rest is for the allocator's fragmentation.
USABLE = 0.985


def precision(device: str) -> TrainingPrecision:
    """The precision that memory is computed for: on a CPU the one that takes most, whichever will be fastest."""
    return "fp16" if device == "cuda" else "fp32"
