"""Figure of a map with values from 0 to 1, such as disagreement, on its image: three orthogonal views."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable

from autoseg.report.overlay import Plane, best_slice, draw_image, draw_scale, field_of_view, name_plane
from autoseg.report.style import figure, png
from autoseg.utils.files import atomic

#: Values from this threshold on determine the field of view and the slices.
NOTABLE = 0.25

#: Colours of 0 to 1; values near 0 are transparent.
_COLOUR_MAP = "inferno"


def heat_png(
    image: np.ndarray,
    heat: np.ndarray,
    spacing: tuple[float, float, float],
    what: str,
    *,
    title: str = "",
    out: str | Path | None = None,
) -> bytes:
    """Draw a map in the three planes that show most of its high values.

    Args:
        image: one channel ``(z, y, x)``.
        heat: values from 0 (transparent) to 1, of the same shape.
        spacing: mm ``(z, y, x)``.
        what: name of the values, written at their scale.
        title: heading, such as the case's name.
        out: file to write the PNG to, too.

    Returns:
        The PNG file's content.
    """
    notable = (heat >= NOTABLE).astype(np.uint8)
    values = {what: [1]}
    box = field_of_view(notable, None, spacing, values)
    planes = [
        Plane(axis, best_slice(notable, notable, axis, values), box, spacing)
        for axis in ([0] if heat.shape[0] == 1 else [0, 1, 2])
    ]
    widths, highest = [plane.width for plane in planes], max(plane.height for plane in planes)
    width = 11.5 if len(planes) == 3 else 6.5
    with figure(width, min((width - 1.2) / sum(widths) * highest, 8.0) + 0.8) as fig:
        axes = fig.subplots(1, len(planes), width_ratios=widths, squeeze=False)[0]
        for plane, ax in zip(planes, axes, strict=True):
            draw_image(ax, image, plane)
            shown = np.clip(plane.cut(heat), 0, 1)
            colour = matplotlib.colormaps[_COLOUR_MAP](shown)
            colour[..., 3] = np.clip(2 * shown, 0, 1)
            ax.imshow(colour, extent=plane.extent, interpolation="nearest")
            if len(planes) == 3:
                name_plane(ax, plane, heat.shape[plane.axis])
        draw_scale(axes[0], widths[0])
        bar = fig.colorbar(ScalarMappable(matplotlib.colors.Normalize(0, 1), _COLOUR_MAP), ax=list(axes), shrink=0.8)
        bar.set_label(what, fontsize=8.5)
        fig.suptitle(title, fontsize=11, x=0.012, ha="left")
        content = png(fig)
    if out is not None:
        with atomic(out) as temporary:
            temporary.write_bytes(content)
    return content
