"""Figures of a segmentation on its image: prediction filled, reference outlined, three orthogonal views."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes

from autoseg.data.boxes import Box, bounding_box
from autoseg.data.counts import value_counts
from autoseg.evaluation.masks import dice
from autoseg.report.legend import LabelValues, Legend, area, present
from autoseg.report.style import MUTED, figure, png, rgb
from autoseg.utils.colours import colours
from autoseg.utils.files import atomic

#: Opacity of a filled prediction.
OPACITY = 0.45

#: For each axis of a canonical (z, y, x) array, perpendicular to the slice: the plane's name, and the directions at the
#: left, right, top and bottom in the radiological convention.
PLANES = (("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI"))

#: Least margin shown on each side of the structures, in mm.
CONTEXT_MM = 40.0

#: Dice coefficients in a heading, at most.
_IN_HEADING = 6

#: Inches of a letter of the heading, of a line, and of all that is neither picture nor legend beside one line.
_LETTER, _LINE, _REST = 0.088, 0.2, 0.8

#: Grey of the background where there is no image.
DARK = "0.13"

#: Dark outline that keeps lines and letters readable on any grey.
_HALO = [effects.withStroke(linewidth=2.6, foreground=(0, 0, 0, 0.55))]

#: The axes that run down and across a picture of a slice along each axis.
_DOWN_ACROSS = ((1, 2), (0, 2), (0, 1))


def overlay_png(
    image: np.ndarray | None,
    prediction: np.ndarray,
    reference: np.ndarray | None,
    spacing: tuple[float, float, float],
    names: Mapping[str, Sequence[int] | int],
    *,
    title: str = "",
    out: str | Path | None = None,
) -> bytes:
    """Draw a case in the three planes that show most of its structures; the legend names those that are seen there.

    Args:
        image: one channel ``(z, y, x)``; None if not available (the background is then plain).
        prediction: label values ``(z, y, x)``, filled.
        reference: label values, outlined; None where there is none.
        spacing: mm ``(z, y, x)``; pixels are drawn in proportion.
        names: structure → label value or values; later ones are drawn over earlier ones.
        title: heading, such as the case's name.
        out: file to write the PNG to, too.

    Returns:
        The PNG file's content.

    Example:
        >>> cube = np.zeros((8, 8, 8), np.uint8)
        >>> cube[2:6, 2:6, 2:6] = 1
        >>> overlay_png(None, cube, cube, (3.0, 1.0, 1.0), {"cube": 1})[1:4]
        b'PNG'
    """
    values: LabelValues = {name: [value] if isinstance(value, int) else value for name, value in names.items()}
    palette = dict(zip(values, colours(len(values)), strict=True))
    box = field_of_view(prediction, reference, spacing, values)
    planes = [
        Plane(axis, best_slice(prediction if reference is None else reference, prediction, axis, values), box, spacing)
        for axis in ([0] if prediction.shape[0] == 1 else [0, 1, 2])
    ]
    widths, highest = [plane.width for plane in planes], max(plane.height for plane in planes)
    width = 10.5 if len(planes) == 3 else 6.0
    maps = [prediction] if reference is None else [prediction, reference]
    legend = Legend.of([p.cut(labels) for labels in maps for p in planes], values, reference is not None, width)
    heading = _heading(title, prediction, reference, values, legend)
    lines = textwrap.wrap(heading, int((width - 0.3) / _LETTER), break_on_hyphens=False)
    around = _REST + legend.height + _LINE * max(len(lines) - 1, 0)
    with figure(width, min((width - 0.4) / sum(widths) * highest, 8.0) + around) as fig:
        axes = fig.subplots(1, len(planes), width_ratios=widths, squeeze=False)[0]
        for plane, ax in zip(planes, axes, strict=True):
            draw_image(ax, image, plane)
            _draw_filled(ax, prediction, plane, values, palette)
            if reference is not None:
                _draw_outlines(ax, reference, plane, values, palette)
            if len(planes) == 3:
                name_plane(ax, plane, prediction.shape[plane.axis])
        draw_scale(axes[0], widths[0])
        fig.suptitle("\n".join(lines), fontsize=11, x=0.012, ha="left")
        legend.draw(fig, {name: (*rgb(palette[name]), OPACITY + 0.35) for name in values})
        content = png(fig)
    if out is not None:
        with atomic(out) as temporary:
            temporary.write_bytes(content)
    return content


def field_of_view(
    prediction: np.ndarray,
    reference: np.ndarray | None,
    spacing: tuple[float, float, float],
    values: LabelValues,
) -> Box:
    """The box to show: the structures with :data:`CONTEXT_MM` or half their size on each side."""
    label_values = [value for several in values.values() for value in several]
    shown = np.isin(prediction, label_values)
    if reference is not None:
        shown |= np.isin(reference, label_values)
    parts = []
    for part, size, step in zip(bounding_box(shown), shown.shape, spacing, strict=True):
        if part.stop == part.start:  # nothing to show: all of the image
            parts.append(slice(0, size))
            continue
        margin = max(CONTEXT_MM / step, (part.stop - part.start) / 2)
        start, stop = int(part.start - margin), int(np.ceil(part.stop + margin))
        parts.append(slice(max(0, start), min(size, stop)))
    return parts[0], parts[1], parts[2]


def best_slice(reference: np.ndarray, prediction: np.ndarray, axis: int, values: LabelValues) -> int:
    """The slice along an axis with the largest area of the structures, each relative to its own largest area.

    By the reference; by the prediction if the reference has none of the structures, and the middle slice if neither
    has.
    """
    for labels in (reference, prediction):
        counts = [value_counts(one) for one in np.moveaxis(labels, axis, 0)]  # once, however many structures there are
        score = np.zeros(len(counts))
        for label_values in values.values():
            areas = np.array([area(count, label_values) for count in counts])
            score += areas / max(areas.max(), 1)
        if score.any():
            return int(score.argmax())
    return int(reference.shape[axis] // 2)


def grey_window(image: np.ndarray) -> tuple[float, float]:
    """Values shown black and white: the 1st and 99.5th percentile of the voxels that are not background."""
    finite = image[np.isfinite(image)]
    # Padding and removed skull have one value, the least or the most frequent: the corner's.
    inside = finite[finite != finite.flat[0]] if len(finite) else finite
    if not len(inside):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(inside, [1, 99.5]))
    return (min(low, float(finite.flat[0])), high) if high > low else (low - 1, low + 1)


@dataclass(frozen=True)
class Plane:
    """The visible part of a volume: a slice perpendicular to an axis, inside a box.

    Attributes:
        axis: perpendicular to the slice, of ``(z, y, x)``.
        index: of the slice.
        box: the visible part of the volume.
        spacing: mm ``(z, y, x)``.
    """

    axis: int
    index: int
    box: Box
    spacing: tuple[float, float, float]

    @property
    def down(self) -> int:
        """The axis that runs down the picture."""
        return _DOWN_ACROSS[self.axis][0]

    @property
    def across(self) -> int:
        """The axis that runs across the picture."""
        return _DOWN_ACROSS[self.axis][1]

    @property
    def height(self) -> float:
        """Of the visible part, in mm."""
        return (self.box[self.down].stop - self.box[self.down].start) * self.spacing[self.down]

    @property
    def width(self) -> float:
        """Of the visible part, in mm."""
        return (self.box[self.across].stop - self.box[self.across].start) * self.spacing[self.across]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the picture, in mm."""
        return 0.0, self.width, self.height, 0.0

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The visible part of a slice, its first row at the top (flipped where z is vertical, as z points up)."""
        plane = np.take(array, self.index, axis=self.axis)[self.box[self.down], self.box[self.across]]
        return plane if self.axis == 0 else plane[::-1]


def draw_image(ax: Axes, image: np.ndarray | None, plane: Plane) -> None:
    """Draw the visible part of a slice in grey; plain where there is no image."""
    ax.set_facecolor("black" if image is not None else DARK)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if image is not None:
        low, high = grey_window(image)
        ax.imshow(plane.cut(image), cmap="gray", vmin=low, vmax=high, extent=plane.extent, interpolation="bilinear")


def _draw_filled(ax: Axes, labels: np.ndarray, plane: Plane, values: LabelValues, palette: Mapping[str, str]) -> None:
    shown = plane.cut(labels)
    colour = np.zeros((*shown.shape, 4))
    for name, label_values in present(shown, values).items():
        colour[np.isin(shown, label_values)] = (*rgb(palette[name]), OPACITY)
    ax.imshow(colour, extent=plane.extent, interpolation="nearest")


def _draw_outlines(ax: Axes, labels: np.ndarray, plane: Plane, values: LabelValues, palette: Mapping[str, str]) -> None:
    # A frame of background closes outlines that reach the edge; positions are voxel centres.
    shown = np.pad(plane.cut(labels), 1)
    down, across = plane.spacing[plane.down], plane.spacing[plane.across]
    y = (np.arange(shown.shape[0]) - 0.5) * down
    x = (np.arange(shown.shape[1]) - 0.5) * across
    for name, label_values in present(shown, values).items():
        lines = ax.contour(x, y, np.isin(shown, label_values), levels=[0.5], colors=[palette[name]], linewidths=1.5)
        lines.set(path_effects=_HALO)
    ax.set(xlim=(0, x[-1] - 0.5 * across), ylim=(y[-1] - 0.5 * down, 0))


def name_plane(ax: Axes, plane: Plane, slices: int) -> None:
    """Label the plane: slice number, and letters of the directions at the left, right, top and bottom."""
    name, sides = PLANES[plane.axis]
    ax.set_title(f"{name}, slice {plane.index + 1} of {slices}", fontsize=8.5, color=MUTED)
    for side, x, y in zip(sides, (0.025, 0.975, 0.5, 0.5), (0.5, 0.5, 0.965, 0.035), strict=True):
        text = ax.text(x, y, side, transform=ax.transAxes, ha="center", va="center", fontsize=8)
        text.set(color="white", path_effects=_HALO)


def draw_scale(ax: Axes, width: float) -> None:
    """Draw a scale bar of a round length, at most a quarter of the width."""
    step = 10 ** np.floor(np.log10(width / 4))
    length = max(factor * step for factor in (1, 2, 5) if factor * step <= width / 4)
    bottom = ax.get_ylim()[0]
    x, y = width * 0.04, bottom * 0.955
    ax.plot([x, x + length], [y, y], color="white", linewidth=2, solid_capstyle="butt", path_effects=_HALO)
    text = ax.text(x + length / 2, y - 0.012 * bottom, f"{length:g} mm", fontsize=7.5, ha="center")
    text.set(color="white", path_effects=_HALO)


def _heading(
    title: str, prediction: np.ndarray, reference: np.ndarray | None, values: LabelValues, legend: Legend
) -> str:
    """The title, and the Dice of the structures, of many that of the first ones seen."""
    few = len(values) <= _IN_HEADING
    names = tuple(values) if few else legend.names[:_IN_HEADING]
    if reference is None or not names:
        return title
    scores = []
    for name in names:
        value = dice(np.isin(prediction, values[name]), np.isin(reference, values[name]))
        # No line ends between a name and its value.
        scores.append(f"{name}\N{NO-BREAK SPACE}absent" if np.isnan(value) else f"{name}\N{NO-BREAK SPACE}{value:.3f}")
    text = "Dice: " + ", ".join(scores) + ("" if few else " …")
    return f"{title}   {text}" if title else text
