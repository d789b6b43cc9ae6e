"""Pictures of a segmentation on its image: prediction filled, reference outlined, three orthogonal views."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from autoseg.data.boxes import Box, bounding_box
from autoseg.evaluation.metrics import dice
from autoseg.report.style import MUTED, colours, figure, png, rgb
from autoseg.utils.files import atomic

#: How much of the image a filled prediction covers.
OPACITY = 0.45

#: By the axis of a canonical (z, y, x) array that a picture cuts: the plane's name, and what lies at the left, right,
#: top and bottom in the radiological convention.
PLANES = (("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI"))

#: Least width of the surroundings shown on each side of the structures, in mm.
CONTEXT_MM = 40.0

#: Grey of the background where there is no image.
DARK = "0.13"

#: Dark rim that sets lines and letters off from any grey.
_HALO = [effects.withStroke(linewidth=2.6, foreground=(0, 0, 0, 0.55))]

Spacing = tuple[float, float, float]
Values = Mapping[str, Sequence[int]]


def overlay_png(
    image: np.ndarray | None,
    prediction: np.ndarray,
    reference: np.ndarray | None,
    spacing: Spacing,
    names: Mapping[str, Sequence[int] | int],
    *,
    title: str = "",
    out: str | Path | None = None,
) -> bytes:
    """Draw a case in the three planes that show most of its structures.

    Args:
        image: one channel ``(z, y, x)``; None where it is not at hand (the background is then plain).
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
    values: Values = {name: [value] if isinstance(value, int) else value for name, value in names.items()}
    palette = dict(zip(values, colours(len(values)), strict=True))
    planes = [0] if prediction.shape[0] == 1 else [0, 1, 2]
    box = field_of_view(prediction, reference, spacing, values)
    widths, highest = plane_widths(box, spacing, planes)
    width = 10.5 if len(planes) == 3 else 6.0
    with figure(width, min((width - 0.4) / sum(widths) * highest, 8.0) + 1.0) as drawn:
        axes = drawn.subplots(1, len(planes), width_ratios=widths, squeeze=False)[0]
        for axis, ax in zip(planes, axes, strict=True):
            index = best_slice(prediction if reference is None else reference, prediction, axis, values)
            draw_image(ax, image, spacing, axis, index, box)
            _draw_filled(ax, prediction, spacing, axis, index, box, values, palette)
            if reference is not None:
                _draw_outlines(ax, reference, spacing, axis, index, box, values, palette)
            if len(planes) == 3:
                name_plane(ax, axis, index, prediction.shape[axis])
        draw_scale(axes[0], widths[0])
        drawn.suptitle(_title(title, prediction, reference, values), fontsize=11, x=0.012, ha="left")
        handles: list[Patch | Line2D] = [
            Patch(facecolor=(*rgb(palette[name]), OPACITY + 0.35), label=name) for name in values
        ]
        if reference is not None:
            handles.append(Line2D([], [], color=MUTED, linewidth=1.8, label="outline: reference"))
        drawn.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), 6), fontsize=9)
        content = png(drawn)
    if out is not None:
        with atomic(out) as temporary:
            temporary.write_bytes(content)
    return content


def field_of_view(prediction: np.ndarray, reference: np.ndarray | None, spacing: Spacing, values: Values) -> Box:
    """The box that is shown: the structures with :data:`CONTEXT_MM` or half their size on each side."""
    wanted = [value for several in values.values() for value in several]
    shown = np.isin(prediction, wanted)
    if reference is not None:
        shown |= np.isin(reference, wanted)
    parts = []
    for part, size, step in zip(bounding_box(shown), shown.shape, spacing, strict=True):
        if part.stop == part.start:  # nothing to show: all of the image
            parts.append(slice(0, size))
            continue
        margin = max(CONTEXT_MM / step, (part.stop - part.start) / 2)
        start, stop = int(part.start - margin), int(np.ceil(part.stop + margin))
        parts.append(slice(max(0, start), min(size, stop)))
    return parts[0], parts[1], parts[2]


def best_slice(reference: np.ndarray, prediction: np.ndarray, axis: int, values: Values) -> int:
    """The slice along an axis that shows most, every structure having the same weight whatever its size.

    The reference decides; the prediction does where the reference has none of the structures, and the middle
    slice is taken where neither has.
    """
    others = tuple(other for other in range(3) if other != axis)
    for labels in (reference, prediction):
        score = np.zeros(labels.shape[axis])
        for wanted in values.values():
            area = np.isin(labels, wanted).sum(axis=others)
            score += area / max(area.max(), 1)
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


def plane_widths(box: Box, spacing: Spacing, planes: Sequence[int]) -> tuple[list[float], float]:
    """Width of each plane's visible part, and the height of the highest, in mm."""
    sizes = [(part.stop - part.start) * step for part, step in zip(box, spacing, strict=True)]
    return [sizes[_axes(axis)[1]] for axis in planes], max(sizes[_axes(axis)[0]] for axis in planes)


def _axes(axis: int) -> tuple[int, int]:
    """The axes that run down and across a picture of a slice along ``axis``."""
    return ((1, 2), (0, 2), (0, 1))[axis]


def plane_of(array: np.ndarray, axis: int, index: int, box: Box) -> np.ndarray:
    """The visible part of a slice, its first row at the top (z points up, so slices along z are turned over)."""
    down, across = _axes(axis)
    plane = np.take(array, index, axis=axis)[box[down], box[across]]
    return plane if axis == 0 else plane[::-1]


def extent_of(plane: np.ndarray, spacing: Spacing, axis: int) -> tuple[float, float, float, float]:
    """Left, right, bottom and top in mm, from the top left corner."""
    down, across = _axes(axis)
    return 0.0, plane.shape[1] * spacing[across], plane.shape[0] * spacing[down], 0.0


def draw_image(ax: Axes, image: np.ndarray | None, spacing: Spacing, axis: int, index: int, box: Box) -> None:
    """Draw the visible part of a slice in grey; plain where there is no image."""
    ax.set_facecolor("black" if image is not None else DARK)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if image is not None:
        low, high = grey_window(image)
        plane = plane_of(image, axis, index, box)
        extent = extent_of(plane, spacing, axis)
        ax.imshow(plane, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")


def _draw_filled(
    ax: Axes,
    labels: np.ndarray,
    spacing: Spacing,
    axis: int,
    index: int,
    box: Box,
    values: Values,
    palette: Mapping[str, str],
) -> None:
    plane = plane_of(labels, axis, index, box)
    colour = np.zeros((*plane.shape, 4))
    for name, wanted in values.items():
        colour[np.isin(plane, wanted)] = (*rgb(palette[name]), OPACITY)
    ax.imshow(colour, extent=extent_of(plane, spacing, axis), interpolation="nearest")


def _draw_outlines(
    ax: Axes,
    labels: np.ndarray,
    spacing: Spacing,
    axis: int,
    index: int,
    box: Box,
    values: Values,
    palette: Mapping[str, str],
) -> None:
    # A frame of background closes outlines that reach the edge; positions are voxel centres.
    plane = np.pad(plane_of(labels, axis, index, box), 1)
    down, across = _axes(axis)
    y = (np.arange(plane.shape[0]) - 0.5) * spacing[down]
    x = (np.arange(plane.shape[1]) - 0.5) * spacing[across]
    for name, wanted in values.items():
        mask = np.isin(plane, wanted)
        if mask.any():
            drawn = ax.contour(x, y, mask, levels=[0.5], colors=[palette[name]], linewidths=1.5)
            drawn.set(path_effects=_HALO)
    ax.set(xlim=(0, x[-1] - 0.5 * spacing[across]), ylim=(y[-1] - 0.5 * spacing[down], 0))


def name_plane(ax: Axes, axis: int, index: int, slices: int) -> None:
    """Which slice of how many, and letters at the left, right, top and bottom."""
    name, sides = PLANES[axis]
    ax.set_title(f"{name}, slice {index + 1} of {slices}", fontsize=8.5, color=MUTED)
    for side, x, y in zip(sides, (0.025, 0.975, 0.5, 0.5), (0.5, 0.5, 0.965, 0.035), strict=True):
        text = ax.text(x, y, side, transform=ax.transAxes, ha="center", va="center", fontsize=8)
        text.set(color="white", path_effects=_HALO)


def draw_scale(ax: Axes, width: float) -> None:
    """A bar of a round length, a quarter of the picture at most."""
    step = 10 ** np.floor(np.log10(width / 4))
    length = max(factor * step for factor in (1, 2, 5) if factor * step <= width / 4)
    bottom = ax.get_ylim()[0]
    x, y = width * 0.04, bottom * 0.955
    ax.plot([x, x + length], [y, y], color="white", linewidth=2, solid_capstyle="butt", path_effects=_HALO)
    text = ax.text(x + length / 2, y - 0.012 * bottom, f"{length:g} mm", fontsize=7.5, ha="center")
    text.set(color="white", path_effects=_HALO)


def _title(title: str, prediction: np.ndarray, reference: np.ndarray | None, values: Values) -> str:
    if reference is None:
        return title
    scores = []
    for name, wanted in values.items():
        value = dice(np.isin(prediction, wanted), np.isin(reference, wanted))
        scores.append(f"{name} absent" if np.isnan(value) else f"{name} {value:.3f}")
    text = "Dice: " + ", ".join(scores[:6]) + (" …" if len(scores) > 6 else "")
    return f"{title}   {text}" if title else text
