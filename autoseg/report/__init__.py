"""Figures of segmentations and the HTML report of a run."""

from autoseg.report.html import write_report
from autoseg.report.overlay import overlay_png

__all__ = ["overlay_png", "write_report"]
