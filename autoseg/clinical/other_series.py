"""The series of an exam that became no channel: how they lie to the output space, so that results go back to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import SimpleITK as sitk

from autoseg.clinical.choice import ChosenSeries
from autoseg.clinical.registration import align_rigidly, refine
from autoseg.clinical.series import Series
from autoseg.clinical.voxels import read_series
from autoseg.utils.errors import AutosegError


@dataclass(frozen=True)
class Registered:
    """The channels of an exam in the output space.

    Attributes:
        choice: which series they are.
        reference: channel that defines the output space.
        image: of the reference.
        transforms: channel → transform from a point of the output space to the series'.
        region: mask of the brain or head on the reference's grid, which a further series is fitted in.
        aligned: whether series are aligned; else the headers' positions hold.
    """

    choice: ChosenSeries
    reference: str
    image: sitk.Image
    transforms: Mapping[str, sitk.Transform]
    region: sitk.Image
    aligned: bool = True


@dataclass(frozen=True)
class OtherSeries:
    """What became of them.

    Attributes:
        placed: series and its transform from a point of the output space.
        unplaced: name of a series → why it has none.
        log: a sentence each.
    """

    placed: list[tuple[Series, sitk.Transform]] = field(default_factory=list)
    unplaced: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


def place_others(found: Registered, least_measure: float, most_apart: float) -> OtherSeries:
    """Find how the series that became no channel lie to the output space.

    A series on the grid of a channel takes that one's motion; else one of a channel's frame of reference takes the
    motion of the channel of this frame whose number is closest, as the patient lay then. A series of neither that could
    have been a channel is aligned to the reference, and has no place where that can't be trusted. Others (localizers,
    maps) have none.

    Args:
        found: the channels.
        least_measure: normalized mutual information that an alignment reaches at least.
        most_apart: mm that two halves of the head may be apart, aligned for themselves.
    """
    others = OtherSeries()
    channels = found.choice.channels
    frame = channels[found.reference].identity.frame
    for series, what in found.choice.found:
        if series in channels.values():
            continue
        nearest = None if not found.aligned else _of_one_frame(series, channels)
        if not found.aligned:
            others.placed.append((series, sitk.Transform(3, sitk.sitkIdentity)))
            if frame and series.identity.frame not in ("", frame):
                others.log.append(
                    f"{series.name} has another frame of reference than {found.reference}, and is not aligned"
                )
        elif nearest is not None:
            others.placed.append((series, found.transforms[nearest]))
            others.log.append(f"{series.name} lies as {nearest} ({channels[nearest].name}), whose frame it shares")
        elif not what.is_channel or series.facts.planes > 1:
            others.unplaced[series.name] = (
                f"it shares no frame of reference with a channel, and a series like it ({what.sequence}) is not aligned"
            )
        else:
            _align(series, found, (least_measure, most_apart), others)
    others.log.extend(f"{name} has no way to the output: {reason}" for name, reason in others.unplaced.items())
    return others


def doubts_of_frames(found: Registered) -> list[str]:
    """Why channels that nothing aligned may not lie on each other, in sentences without a stop."""
    channels = found.choice.channels
    frame = channels[found.reference].identity.frame
    apart = [name for name, one in channels.items() if frame and one.identity.frame not in ("", frame)]
    if found.aligned or not apart:
        return []
    return [
        f"{', '.join(apart)} and the reference have different frames of reference, as where the patient moved, and "
        "nothing was aligned (--no-coregister)"
    ]


def _of_one_frame(series: Series, channels: Mapping[str, Series]) -> str | None:
    """The channel whose motion a series shares."""
    for channel, one in channels.items():
        if series.shares_grid_with(one) and series.identity.frame == one.identity.frame:
            return channel
    frame = series.identity.frame
    same = [channel for channel, one in channels.items() if frame and one.identity.frame == frame]

    def between(channel: str) -> int:
        return abs((series.facts.number or 0) - (channels[channel].facts.number or 0))

    return min(same, key=between, default=None)


def _align(series: Series, found: Registered, limits: tuple[float, float], others: OtherSeries) -> None:
    try:
        image = read_series(series)
    except AutosegError as error:
        others.unplaced[series.name] = str(error).rstrip(".")
        return
    fitted = refine(found.image, image, align_rigidly(found.image, image), found.region)
    figures = f"normalized mutual information {fitted.before:.4f} before, {fitted.after:.4f} after"
    if fitted.after < limits[0] or fitted.halves_apart > limits[1]:
        others.unplaced[series.name] = f"it could not be aligned for sure ({figures})"
        return
    better = fitted if fitted.after > fitted.before else fitted.staying()
    others.placed.append((series, better.transform))
    others.log.append(f"{series.name}, which is no channel, is moved by {better.moved:.1f} mm; {figures}")
