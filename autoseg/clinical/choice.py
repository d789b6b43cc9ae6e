"""Which series of an exam become channels, and which of them is the reference."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from autoseg.clinical.exams import Exam
from autoseg.clinical.recognition import BRAIN_SEQUENCES, Recognised, recognise_sequence
from autoseg.clinical.series import Series
from autoseg.data.file_names import plain_name
from autoseg.utils.errors import AutosegError

#: Channels in the order in which the reference is chosen among scans of one resolution.
_REFERENCE_ORDER = ("t1c", "t1", "flair", "t2")

#: Names of other files of a case, which no channel's file can have.
NO_CHANNELS = ("label", "brain_mask")

#: Resolutions within this factor count as equal.
_TIE = 1.1


@dataclass(frozen=True)
class ChosenSeries:
    """The channels of an exam.

    Attributes:
        channels: channel → series.
        found: every usable series and what it is.
        reasons: for each series, what it was taken for and why, in sentences.
        flags: what is doubtful, with the option that settles it.
    """

    channels: dict[str, Series]
    found: tuple[tuple[Series, Recognised], ...]
    reasons: tuple[str, ...]
    flags: tuple[str, ...]


def choose_series(exam: Exam, mapping: Mapping[str, str], wanted: Sequence[str] | None) -> ChosenSeries:
    """Choose a series for each channel.

    Args:
        exam: with its series.
        mapping: channel → series that the user names, by its name, number, UID, description or a pattern of one.
        wanted: channels to look for; None for all sequences of a brain, and CT.

    Raises:
        AutosegError: a named series is not there, or can't be used; no channel is found; a series that would be a
            channel can't be used.
    """
    usable = [series for series in exam.series if not series.fault]
    found = [(series, recognise_sequence(series.facts)) for series in usable]
    named = _all_named(exam, mapping)
    reasons: list[str] = []
    flags: list[str] = []
    for series in exam.series:
        if series.fault:
            one = recognise_sequence(series.facts)
            # A damaged localizer matters to nobody; a damaged T2 may be the better of two.
            lines = flags if one.is_channel else reasons
            lines.append(f"{series.name} ({one.sequence}) can't be used: {series.fault}")
    candidates: dict[str, list[tuple[Series, Recognised]]] = defaultdict(list)
    for series, one in found:
        if series in named.values():
            continue
        reasons.append(f"{series.name} is {one.sequence}: {one.reason}")
        if one.is_channel or (wanted is not None and one.sequence in wanted):
            candidates[one.sequence].append((series, one))
        elif one.sequence == "unknown":
            flags.append(
                f"what {series.name} is can't be told ({one.reason}); --channel NAME={_key(series, exam)} says it"
            )
    channels = dict(named)
    reasons += [f"{series.name} is {channel}: --channel says so" for channel, series in named.items()]
    order: Sequence[str] = wanted or (*BRAIN_SEQUENCES, *sorted(set(candidates) - set(BRAIN_SEQUENCES)))
    for channel in order:
        if channel in channels or channel not in candidates:
            continue
        ranked = sorted(candidates[channel], key=lambda entry: _rank(*entry))
        series, one = ranked[0]
        channels[channel] = series
        if not one.certain:
            flags.append(
                f"{series.name} may not be {channel} ({one.reason}); "
                f"--channel {channel}={_key(series, exam)} settles it"
            )
        if len(ranked) > 1:
            others = ", ".join(other.name for other, _ in ranked[1:])
            reasons.append(f"{series.name} is taken for {channel} and not {others}: {_why_better(ranked)}")
            if channel == "t1" and "t1c" not in candidates and "t1c" not in mapping and not one.derived:
                flags.append(
                    f"{series.name} and {others} are all T1 and none says contrast; "
                    f"--channel t1c={_key(ranked[1][0], exam)} would make one of them t1c"
                )
    _refuse_lost(exam, channels, wanted or (*BRAIN_SEQUENCES, "ct"))
    if not channels:
        told = "; ".join(reasons) or "it has no usable series"
        raise AutosegError(f"none of its series is a channel ({told}); --channel NAME=SERIES names one")
    channels = dict(sorted(channels.items(), key=lambda item: _place(item[0], wanted or ("t1", "t1c", "t2", "flair"))))
    return ChosenSeries(channels, tuple(found), tuple(reasons), tuple(flags))


def choose_reference(channels: Mapping[str, Series], wanted: str | None) -> str:
    """The channel to which the others are aligned: the named one, or that of the highest resolution.

    A scan with thinner slices is of higher resolution than one with smaller pixels (Wacker et al. 2019, section IV C).

    Args:
        channels: of an exam.
        wanted: a channel, or the name of its series.

    Raises:
        AutosegError: the exam has no such channel.
    """
    if wanted is not None:
        for channel, series in channels.items():
            if wanted in (channel, series.name, series.name.removeprefix("series ")):
                return channel
        raise AutosegError(f"it has no {wanted} to be the reference (--reference); it has {', '.join(channels)}")
    coarsest = {channel: max(series.grid.spacing) for channel, series in channels.items()}
    finest = [channel for channel, mm in coarsest.items() if mm <= _TIE * min(coarsest.values())]
    volumes = {channel: channels[channel].voxel_volume for channel in finest}
    best = [channel for channel, mm in volumes.items() if mm <= _TIE * min(volumes.values())]
    return min(best, key=lambda channel: _place(channel, _REFERENCE_ORDER))


def _place(channel: str, order: Sequence[str]) -> int:
    return order.index(channel) if channel in order else len(order)


def _rank(series: Series, one: Recognised) -> tuple[object, ...]:
    """Smaller is better: sure, measured once, not derived, before contrast, of high resolution, with many slices."""
    return (not one.certain, one.repeated, one.derived, one.after_agent, *_resolution(series), -series.grid.size[2])


def _resolution(series: Series) -> tuple[float, float]:
    """Smaller is finer."""
    return round(max(series.grid.spacing), 1), series.voxel_volume


def _why_better(ranked: Sequence[tuple[Series, Recognised]]) -> str:
    (best, one), (other, second) = ranked[0], ranked[1]
    if one.certain != second.certain:
        return "it is surer what it is"
    if one.repeated != second.repeated:
        return "the other was measured several times, the first perhaps before contrast"
    if one.derived != second.derived:
        return "the other is derived"
    if one.after_agent != second.after_agent:
        return "the other was measured after contrast"
    spacing = "×".join(f"{mm:.2g}" for mm in best.grid.spacing)
    if _resolution(best) != _resolution(other):
        return f"its voxels, {spacing} mm, are the smallest"
    return "it has more slices" if best.grid.size[2] > other.grid.size[2] else "both are alike and it comes first"


def _key(series: Series, exam: Exam) -> str:
    """What ``--channel`` finds this series of an exam by, and no other."""
    number = series.facts.number
    alone = number is not None and sum(other.facts.number == number for other in exam.series) == 1
    return str(number) if alone else series.name.removeprefix("series ")


def _all_named(exam: Exam, mapping: Mapping[str, str]) -> dict[str, Series]:
    """Channel → the series that the user names for it."""
    named: dict[str, Series] = {}
    for channel, wanted in mapping.items():
        if plain_name(channel) in NO_CHANNELS or plain_name(channel).startswith("structure_"):
            raise AutosegError(
                f"--channel {channel}={wanted}: a file of the case is called {channel}; name it otherwise"
            )
        series = _named(exam, channel, wanted)
        if other := next((other for other, one in named.items() if one == series), None):
            raise AutosegError(
                f"--channel {other}={mapping[other]} and {channel}={wanted} name one series, {series.name}; "
                f"--fill {channel}={other} makes a copy"
            )
        named[channel] = series
    return named


def _named(exam: Exam, channel: str, wanted: str) -> Series:
    def fits(series: Series) -> bool:
        names = (
            series.name,
            series.name.removeprefix("series "),
            "" if series.facts.number is None else str(series.facts.number),
            series.identity.series,
            series.facts.description,
            *(path.name for path in series.files[:1] if not series.dicom),
        )
        return any(name and (name == wanted or fnmatch(name.lower(), wanted.lower())) for name in names)

    hits = [series for series in exam.series if fits(series)]
    usable = [series for series in hits if not series.fault]
    if len(usable) == 1:
        return usable[0]
    if hits and not usable:
        raise AutosegError(f"{hits[0].name}, that --channel {channel}={wanted} names, can't be used: {hits[0].fault}")
    names = ", ".join(series.name for series in (usable or exam.series))
    what = "finds several of its series" if usable else "finds none of its series"
    raise AutosegError(f"--channel {channel}={wanted} {what} ({names})")


def _refuse_lost(exam: Exam, channels: Mapping[str, Series], order: Sequence[str]) -> None:
    """A damaged series of a sequence that no other series has is a fault of the exam, not a sequence it lacks."""
    for series in exam.series:
        if series.fault:
            one = recognise_sequence(series.facts)
            if one.is_channel and one.sequence in order and one.sequence not in channels:
                raise AutosegError(f"{series.name} ({one.sequence}) can't be used: {series.fault}")
