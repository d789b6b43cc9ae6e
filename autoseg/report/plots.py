"""The report's plots: training curves and distributions of metrics, as SVG."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from autoseg.evaluation.metric import METRICS
from autoseg.evaluation.summary import Evaluation
from autoseg.report.collect import Curve
from autoseg.report.style import INK, figure, svg
from autoseg.utils.colours import colours

#: Number of points from which they are rasterized, to keep a report with thousands of cases small.
VECTOR_POINTS = 2000


def training_curves(curves: Sequence[Curve]) -> str:
    """Losses and validation Dice over the epochs, one colour for each fold; an SVG element."""
    palette = colours(len(curves))
    with figure(9.6, 3.3) as fig:
        left, right = fig.subplots(1, 2)
        for curve, colour in zip(curves, palette, strict=True):
            epochs = _epochs(curve)
            _line(left, epochs, curve.column("loss"), colour, f"fold {curve.fold}")
            _line(left, epochs, curve.column("validation_loss"), colour, "", style="--")
            _line(right, epochs, curve.column("validation_dice"), colour, f"fold {curve.fold}", marker="o")
        validated = any(np.isfinite(curve.column("validation_loss")).any() for curve in curves)
        left.set(xlabel="epoch", ylabel="training loss (dashed: validation)" if validated else "training loss")
        right.set(xlabel="epoch", ylabel="mean Dice, validation cases")
        for ax in (left, right):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        if not right.lines:
            right.text(0.5, 0.5, "no validation yet", transform=right.transAxes, ha="center")
        if len(curves) > 1:
            left.legend(fontsize=8.5)
        return svg(fig)


def distributions(evaluation: Evaluation, metrics: tuple[str, ...] = ("dice", "hd95")) -> str:
    """A box plot with every case's value, for each target and metric; an SVG element."""
    targets = evaluation.targets
    palette = colours(len(targets))
    random = np.random.default_rng(0)
    with figure(9.6, 1.1 + 0.42 * len(targets)) as fig:
        axes = fig.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
        fig.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
        for ax, metric in zip(axes, metrics, strict=True):
            for row, (target, colour) in enumerate(zip(targets, palette, strict=True)):
                values = evaluation.values(metric, target)
                values = values[np.isfinite(values)]
                if not len(values):
                    continue
                heights = row + random.uniform(-0.24, 0.24, len(values))
                many = len(evaluation.rows) > VECTOR_POINTS
                ax.scatter(values, heights, s=11, color=colour, alpha=0.55, linewidths=0, rasterized=many)
                _box(ax, values, row)
            ax.set_yticks(range(len(targets)), [_short(target) for target in targets], color=INK)
            ax.set_ylim(len(targets) - 0.5, -0.5)
            ax.set_xlabel(METRICS.find(metric).title)
            if METRICS.find(metric).kind == "distance":
                ax.set_xlim(left=0)
            ax.grid(False, axis="y")
        return svg(fig)


def _epochs(curve: Curve) -> np.ndarray:
    epochs = curve.column("epoch")
    return epochs if np.isfinite(epochs).all() else np.arange(1, len(epochs) + 1)


def _line(ax: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str, marker: str = "", style: str = "-") -> None:
    """A line over the values that are known; one without a label is not in the legend."""
    known = np.isfinite(y)
    if known.any():
        marker = marker if known.sum() <= 40 else ""
        ax.plot(
            x[known], y[known], style, color=colour, label=label or "_", linewidth=1.5, marker=marker, markersize=3.5
        )


def _box(ax: Axes, values: np.ndarray, row: int) -> None:
    """Quartiles as a box, whiskers to the last value within 1.5 times its width (Tukey 1977)."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    reach = 1.5 * (high - low)
    start, stop = values[values >= low - reach].min(), values[values <= high + reach].max()
    ax.barh(row, high - low, 0.6, left=low, fill=False, edgecolor=INK, linewidth=0.9)
    ax.plot([middle, middle], [row - 0.3, row + 0.3], color=INK, linewidth=1.8)
    for inner, outer in ((low, start), (high, stop)):
        ax.plot([inner, outer], [row, row], color=INK, linewidth=0.9)


def _short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
