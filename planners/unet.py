"""Planner ``unet``: nnU-Net's plain U-Net, two convolutions a stage."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.planners import Abilities, planner_can
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from planners.rules.configure import plan_family
from planners.rules.topology import Family

PLAIN_UNET = Family("unet", lambda stage: 2, 2, "two convolutions a stage (Isensee et al. 2021)")


@planner_can(Abilities(default=True, decoders=True, widths=True))
def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for a plain U-Net.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: not even the smallest patch fits the budget.
    """
    return plan_family(fingerprint, request, PLAIN_UNET)
