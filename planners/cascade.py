"""Planner ``cascade``: nnU-Net's low resolution, then full resolution with what the low one found as further input."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.planners import Abilities, planner_can
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from planners.rules.configure import plan_cascade
from planners.unet import PLAIN_UNET


@planner_can(Abilities(decoders=True, widths=True))
def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for a cascade of two plain U-Nets.

    Raises:
        UsageError: unknown channels or regions are asked for, or the images have too few slices.
        AutosegError: not even the smallest patch fits the budget.
    """
    return plan_cascade(fingerprint, request, PLAIN_UNET, "cascade")
