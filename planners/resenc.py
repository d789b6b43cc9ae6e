"""Planner ``resenc``: a U-Net with a residual encoder (Isensee et al. 2024, "nnU-Net Revisited")."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.planners import Abilities, planner_can
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from planners.rules.configure import plan_family
from planners.rules.topology import Family

#: Residual blocks of the first stages; deeper ones have as many as the last.
BLOCKS = (1, 3, 4, 6)

RESIDUAL_UNET = Family(
    "resenc",
    lambda stage: BLOCKS[min(stage, len(BLOCKS) - 1)],
    1,
    "1, 3, 4, 6, 6, … residual blocks and a light decoder (Isensee et al. 2024)",
)


@planner_can(Abilities(decoders=True, widths=True))
def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for a U-Net with a residual encoder.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: not even the smallest patch fits the budget.
    """
    return plan_family(fingerprint, request, RESIDUAL_UNET)
