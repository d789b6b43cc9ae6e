"""Planner ``unet``: nnU-Net's plain U-Net, two convolutions a stage."""

from autoseg.fingerprint import Fingerprint
from autoseg.plan import Plan
from autoseg.planning import Request
from planners.configure import plan_family
from planners.topology import Family

FAMILY = Family("unet", lambda stage: 2, 2, "two convolutions a stage (Isensee et al. 2021)")


def plan(fingerprint: Fingerprint, request: Request) -> Plan:
    """Plan a dataset for a plain U-Net.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: not even the smallest patch fits the budget.
    """
    return plan_family(fingerprint, request, FAMILY)
