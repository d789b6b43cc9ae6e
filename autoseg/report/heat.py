"""A picture of a map of values from 0 to 1, such as raters' disagreement, on its image: three orthogonal views."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable

from autoseg.report.overlay import (
    Spacing,
    best_slice,
    draw_image,
    draw_scale,
    extent_of,
    field_of_view,
    name_plane,
    plane_of,
    plane_widths,
)
from autoseg.report.style import figure, png
from autoseg.utils.files import atomic

#: From here on a value decides what part of the image is shown, and which slices.
NOTABLE = 0.25

#: Colours of 0 to 1; what is near 0 is left transparent.
COLOURS = "inferno"


def heat_png(
    image: np.ndarray, heat: np.ndarray, spacing: Spacing, what: str, *, title: str = "", out: str | Path | None = None
) -> bytes:
    """Draw a map in the three planes that show most of its high values.

    Args:
        image: one channel ``(z, y, x)``.
        heat: values from 0 (transparent) to 1, of the same shape.
        spacing: mm ``(z, y, x)``.
        what: the values are, written at their scale.
        title: heading, such as the case's name.
        out: file to write the PNG to, too.

    Returns:
        The PNG file's content.
    """
    notable = (heat >= NOTABLE).astype(np.uint8)
    values = {what: [1]}
    planes = [0] if heat.shape[0] == 1 else [0, 1, 2]
    box = field_of_view(notable, None, spacing, values)
    widths, highest = plane_widths(box, spacing, planes)
    width = 11.5 if len(planes) == 3 else 6.5
    with figure(width, min((width - 1.2) / sum(widths) * highest, 8.0) + 0.8) as drawn:
        axes = drawn.subplots(1, len(planes), width_ratios=widths, squeeze=False)[0]
        for axis, ax in zip(planes, axes, strict=True):
            index = best_slice(notable, notable, axis, values)
            draw_image(ax, image, spacing, axis, index, box)
            plane = np.clip(plane_of(heat, axis, index, box), 0, 1)
            colour = matplotlib.colormaps[COLOURS](plane)
            colour[..., 3] = np.clip(2 * plane, 0, 1)
            ax.imshow(colour, extent=extent_of(plane, spacing, axis), interpolation="nearest")
            if len(planes) == 3:
                name_plane(ax, axis, index, heat.shape[axis])
        draw_scale(axes[0], widths[0])
        bar = drawn.colorbar(ScalarMappable(matplotlib.colors.Normalize(0, 1), COLOURS), ax=list(axes), shrink=0.8)
        bar.set_label(what, fontsize=8.5)
        drawn.suptitle(title, fontsize=11, x=0.012, ha="left")
        content = png(drawn)
    if out is not None:
        with atomic(out) as temporary:
            temporary.write_bytes(content)
    return content
