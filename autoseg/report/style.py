"""Colours and fonts shared by figures, plots and the page."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from autoseg.utils.colours import red_green_blue

INK = "#1d2733"
MUTED = "#67727e"
LINE = "#dde3e8"

#: Fonts for names in scripts that DejaVu Sans lacks, where they are installed.
_FOR_OTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "IPAexGothic",
    "NanumGothic",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
)

#: matplotlib's settings are global: one drawing at a time.
_LOCK = threading.Lock()


def rgb(colour: str) -> tuple[float, float, float]:
    """A ``#rrggbb`` colour as three numbers from 0 to 1."""
    red, green, blue = (component / 255 for component in red_green_blue(colour))
    return red, green, blue


@cache
def _families() -> list[str]:
    """DejaVu Sans, which comes with matplotlib: the same picture on every machine; then what is there for its gaps."""
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _FOR_OTHER_SCRIPTS if name in installed)]


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A figure (size in inches) in the report's style, without a window; global settings are restored."""
    settings: Any = {
        "font.family": "sans-serif",
        "font.sans-serif": _families(),
        "text.parse_math": False,  # a $ in a name is no formula
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
    with _LOCK, matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)  # a box is drawn for it
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
