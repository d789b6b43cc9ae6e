"""The legend of a picture: the structures that are seen in it, in as many rows and columns as their names need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from autoseg.data.counts import value_counts
from autoseg.report.style import MUTED

#: Structures named, at most, and names in a row.
MOST_NAMES, MOST_COLUMNS = 18, 6

#: Inches of a letter, of the rest of an entry, of a row, and of the margins of the figure together.
_LETTER, _ENTRY, _ROW, _MARGINS = 0.075, 0.6, 0.2, 0.2

#: Structure → label values.
LabelValues = Mapping[str, Sequence[int]]


def area(counts: Mapping[int, int], label_values: Iterable[int]) -> int:
    """Voxels of a structure among those of each label value."""
    return sum(counts.get(value, 0) for value in set(label_values))


def present(shown: np.ndarray, values: LabelValues) -> LabelValues:
    """The structures that a slice of a label map has."""
    counts = value_counts(shown)
    return {name: several for name, several in values.items() if area(counts, several)}


@dataclass(frozen=True)
class Legend:
    """What a picture's legend names.

    Attributes:
        names: structures, in order.
        more: number of further ones that are seen.
        outlined: whether a reference is outlined.
        width: of the figure in inches.
    """

    names: tuple[str, ...]
    more: int
    outlined: bool
    width: float

    @classmethod
    def of(cls, slices: Sequence[np.ndarray], values: LabelValues, outlined: bool, width: float) -> "Legend":
        """The structures that some slices have; of more than :data:`MOST_NAMES` those with the largest areas."""
        counts = [value_counts(one) for one in slices]
        areas = {name: sum(area(count, several) for count in counts) for name, several in values.items()}
        seen = [name for name in values if areas[name]]
        largest = set(sorted(seen, key=lambda name: -areas[name])[:MOST_NAMES])
        return cls(tuple(name for name in seen if name in largest), len(seen) - len(largest), outlined, width)

    @property
    def labels(self) -> list[str]:
        """The text of its entries; a name that is longer than the figure is wide is cut off."""
        most = int((self.width - _MARGINS - _ENTRY) / _LETTER)
        labels = [name if len(name) <= most else f"{name[: most - 1]}…" for name in self.names]
        return labels + ([f"and {self.more} more"] if self.more else []) + (["outline: reference"] * self.outlined)

    @property
    def columns(self) -> int:
        """Names in a row."""
        longest = max(map(len, self.labels), default=0)
        fit = int((self.width - _MARGINS) / (_ENTRY + _LETTER * longest))
        return max(1, min(fit, len(self.labels), MOST_COLUMNS))

    @property
    def height(self) -> float:
        """Inches that it takes."""
        return -(-len(self.labels) // self.columns) * _ROW

    def draw(self, fig: Figure, fills: Mapping[str, tuple[float, float, float, float]]) -> None:
        """Draw it below the pictures.

        Args:
            fig: of its width.
            fills: structure → red, green, blue and opacity.
        """
        handles: list[Patch | Line2D] = [Patch(facecolor=fills[name]) for name in self.names]
        handles += [Patch(facecolor="none")] if self.more else []
        handles += [Line2D([], [], color=MUTED, linewidth=1.8)] if self.outlined else []
        if handles:
            fig.legend(handles, self.labels, loc="outside lower left", ncols=self.columns, fontsize=9)
