"""Planner ``unet``: nnU-Net's plain U-Net, two convolutions a stage."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.making import Request
from autoseg.plans.plan import Plan
from planners.rules.configure import plan_family
from planners.rules.topology import Family

FAMILY = Family("unet", lambda stage: 2, 2, "two convolutions a stage (Isensee et al. 2021)")


def plan(fingerprint: Fingerprint, request: Request) -> Plan:
    """Plan a dataset for a plain U-Net.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: not even the smallest patch fits the budget.
    """
    return plan_family(fingerprint, request, FAMILY)
