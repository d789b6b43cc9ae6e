"""Colours and fonts shared by figures, plots and the page."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

#: Colours of structures, distinguishable with colour-blindness and on grey images (Okabe & Ito 2008).
_COLOURS = ("#E69F00", "#56B4E9", "#D6569B", "#009E73", "#F0E442", "#7A5CD6", "#D55E00", "#0072B2")

INK = "#1d2733"
MUTED = "#67727e"
LINE = "#dde3e8"

#: matplotlib's settings are global: one drawing at a time.
_LOCK = threading.Lock()


def colours(count: int) -> list[str]:
    """A colour for each of ``count`` structures; they repeat beyond :data:`_COLOURS`."""
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]


def rgb(colour: str) -> tuple[float, float, float]:
    """A ``#rrggbb`` colour as three numbers from 0 to 1."""
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A figure (size in inches) in the report's style, without a window; global settings are restored."""
    settings: Any = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": LINE,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": LINE,
        "grid.linewidth": 0.7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "legend.frameon": False,
        "svg.fonttype": "path",
    }
    with _LOCK, matplotlib.rc_context(settings):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(fig: Figure) -> str:
    """The figure as an SVG element for an HTML page."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def png(fig: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file's content."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()
