"""How far a cohort lies from the cases that a source was trained on, as far as their fingerprints know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from autoseg.data.fingerprint import CaseFingerprint, Fingerprint, Intensity
from autoseg.plans.target import Target

#: A property of a case, or None where it has none.
_Property = Callable[[CaseFingerprint], float | None]


@dataclass(frozen=True)
class Gap:
    """One property of the source's cases and of the cohort's.

    Attributes:
        name: in words, with its unit.
        source: median, smallest and largest of the source's cases; of a source without cases median, 0.5th and 99.5th
            percentile of their voxels together.
        cohort: likewise.
        outside: share of the cohort's cases that lie outside the source's range, 0 to 1.
    """

    name: str
    source: tuple[float, float, float]
    cohort: tuple[float, float, float]
    outside: float


def gaps(
    cohort: Fingerprint,
    source: Fingerprint,
    channels: Mapping[str, str],
    outputs: Mapping[str, str],
    targets: tuple[Target, Target],
) -> list[Gap]:
    """Compare a cohort with a source: spacing, field of view, intensities of each channel, volume of each structure.

    Args:
        cohort: its fingerprint.
        source: that of the source. One that was imported knows no cases, and at most the intensities of their voxels
            together, which alone are compared then.
        channels: channel of the cohort → channel of the source.
        outputs: label or region of the cohort → that of the source.
        targets: of the cohort and of the source: the label values of each output.
    """
    if not source.cases:
        return _gaps_of_voxels(cohort, source, channels)
    properties: dict[str, tuple[_Property, _Property]] = {}
    for axis, name in enumerate("zyx"):
        properties[f"spacing {name}, mm"] = _both(_spacing(axis))
    for axis, name in enumerate("zyx"):
        properties[f"field of view {name}, mm"] = _both(_extent(axis))
    for own, other in channels.items():
        properties[f"{own}, median intensity"] = (
            _intensity(own, "percentile_50"),
            _intensity(other, "percentile_50"),
        )
        properties[f"{own}, standard deviation"] = (_intensity(own, "std"), _intensity(other, "std"))
    values = [{output.name: output.values for output in target.outputs} for target in targets]
    for own, other in outputs.items():
        if own in values[0] and other in values[1]:
            properties[f"{own}, ml"] = (_volume(values[0][own]), _volume(values[1][other]))
    found = []
    for name, (of_cohort, of_source) in properties.items():
        ours, theirs = _known(cohort, of_cohort), _known(source, of_source)
        if len(ours) and len(theirs):
            found.append(Gap(name, _range(theirs), _range(ours), _outside(ours, _range(theirs))))
    return found


def _gaps_of_voxels(cohort: Fingerprint, source: Fingerprint, channels: Mapping[str, str]) -> list[Gap]:
    """The intensities of all cases' voxels together, where nothing is known of a source's single cases."""
    found = []
    for own, other in channels.items():
        ours = _known(cohort, _intensity(own, "percentile_50"))
        if len(ours) and own in cohort.intensities and other in source.intensities:
            theirs = _of_voxels(source.intensities[other])
            found.append(
                Gap(f"{own}, median intensity", theirs, _of_voxels(cohort.intensities[own]), _outside(ours, theirs))
            )
    return found


def _of_voxels(pooled: Intensity) -> tuple[float, float, float]:
    return pooled.percentile_50, pooled.percentile_00_5, pooled.percentile_99_5


def _outside(values: np.ndarray, within: tuple[float, float, float]) -> float:
    """The share of values beyond the ends of a range."""
    _, low, high = within
    margin = 1e-6 * max(abs(low), abs(high))
    return float(np.mean((values < low - margin) | (values > high + margin)))


def _both(of: _Property) -> tuple[_Property, _Property]:
    return of, of


def _spacing(axis: int) -> _Property:
    return lambda case: case.spacing[axis]


def _extent(axis: int) -> _Property:
    return lambda case: case.spacing[axis] * case.shape[axis]


def _intensity(channel: str, statistic: str) -> _Property:
    def of(case: CaseFingerprint) -> float | None:
        # Those of a case without labelled voxels are of another part of the image.
        known = case.intensities.get(channel) if any(case.label_voxels.values()) else None
        return None if known is None else float(getattr(known, statistic))

    return of


def _volume(values: list[int]) -> _Property:
    def of(case: CaseFingerprint) -> float | None:
        voxels = sum(case.label_voxels.get(value, 0) for value in values)
        return voxels * float(np.prod(case.spacing)) / 1000 if voxels else None

    return of


def _known(fingerprint: Fingerprint, of: _Property) -> np.ndarray:
    return np.array([value for case in fingerprint.cases if (value := of(case)) is not None], float)


def _range(values: np.ndarray) -> tuple[float, float, float]:
    return float(np.median(values)), float(values.min()), float(values.max())
