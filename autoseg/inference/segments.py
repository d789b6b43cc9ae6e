"""Segments: what a label map holds, with names, values, colours and codes, for formats that say so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.plans.target import Target
from autoseg.utils.colours import colours


@dataclass(frozen=True)
class Segment:
    """A label or region of a label map.

    Attributes:
        name: of the plan's output.
        values: label values that it is made of.
        colour: ``#rrggbb``.
        code: ``SCHEME:VALUE:MEANING``, or ``""`` where the plan gives none.
    """

    name: str
    values: tuple[int, ...]
    colour: str
    code: str = ""

    def mask(self, label: np.ndarray) -> np.ndarray:
        """Where a label map ``(z, y, x)`` has it, bool."""
        return np.isin(label, self.values)


def segments_of(target: Target, scheme: Mapping[int, int] | None = None) -> list[Segment]:
    """The outputs of a target as segments; regions overlap.

    Args:
        target: of the plan.
        scheme: label value of the plan → value in the file; None where they are the same. Outputs that it makes the
            same are one segment, called as the first.
    """
    usual = colours(len(target.outputs))
    found: dict[object, Segment] = {}
    for index, output in enumerate(target.outputs):
        values = tuple(dict.fromkeys((scheme or {}).get(value, value) for value in output.values))
        segment = Segment(output.name, values, output.colour or usual[index], output.code or "")
        found.setdefault(index if scheme is None else frozenset(values), segment)
    return list(found.values())


def exclusive_segments(
    target: Target, names: Mapping[int, str], scheme: Mapping[int, int] | None = None
) -> list[Segment]:
    """One segment a value that a label map of the target may hold: for formats in which segments don't overlap.

    Args:
        target: of the plan.
        names: label value → name among the training data's labels.
        scheme: as for :func:`segments_of`.

    Returns:
        Of labels, the outputs. Of regions, the parts that a label map tells apart, each called as the training data's
        label of its value, else after the region painted with it.
    """
    painted = {output.paint: output for output in target.outputs}
    usual = dict(zip(painted, colours(len(painted)), strict=True))
    found: dict[int, Segment] = {}
    for paint, output in painted.items():
        value = (scheme or {}).get(paint, paint)
        name = output.name if target.kind == "labels" else names.get(paint, output.name)
        found.setdefault(value, Segment(name, (value,), output.colour or usual[paint], output.code or ""))
    return [found[value] for value in sorted(found)]


def overlapping(segments: Sequence[Segment]) -> bool:
    """Whether two of them share a label value."""
    values = [value for segment in segments for value in segment.values]
    return len(set(values)) < len(values)
