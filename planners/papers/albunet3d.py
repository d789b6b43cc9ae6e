"""Planner ``albunet3d``: ResNet34's convolutions as 1×k×k over volumes, joined by 3×1×1 ones (Wacker et al. 2019)."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.planners import Abilities, planner_can
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from planners.papers.albunet import plan_albunet

#: Patch and batch of the paper.
_PATCH = (24, 128, 128)
_BATCH = 24


@planner_can(Abilities(image_weights=True))
def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for AlbuNet3D.

    Raises:
        UsageError: unknown channels or regions are requested.
        AutosegError: timm is missing, or not even the smallest patch fits the budget.
    """
    return plan_albunet(fingerprint, request, "albunet3d", _PATCH, _BATCH, depth_layers=True)
