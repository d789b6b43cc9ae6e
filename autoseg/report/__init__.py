"""Figures of segmentations and the HTML report of a run.

Loaded when they are first used: a report needs torch, and a figure of an exam that is prepared does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoseg.report.html import write_report
    from autoseg.report.overlay import overlay_png

#: Name → module that has it.
_WHERE = {"overlay_png": "autoseg.report.overlay", "write_report": "autoseg.report.html"}

__all__ = ["overlay_png", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'autoseg.report' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
