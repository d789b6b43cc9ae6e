"""Pictures of segmentations and the HTML report of a run."""

from autoseg.report.overlay import overlay_png

__all__ = ["overlay_png"]
