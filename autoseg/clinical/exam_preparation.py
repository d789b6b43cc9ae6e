"""One exam through all steps: choose, orient, align, find the brain, resample, correct, take the labels along."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk

from autoseg.clinical.atlas import BrainMask, find_brain, template
from autoseg.clinical.choice import ChosenSeries, choose_reference, choose_series
from autoseg.clinical.exam_labels import ExamLabels, labels_in_output
from autoseg.clinical.exams import Exam
from autoseg.clinical.other_series import OtherSeries, Registered, doubts_of_frames, place_others
from autoseg.clinical.output_space import cut_to, output_grid, sampled_image
from autoseg.clinical.recognition import is_brain
from autoseg.clinical.registration import Alignment, align_rigidly, head_mask, refine
from autoseg.clinical.settings import ExamPreparation
from autoseg.clinical.transforms import PreparedCase, SpatialGrid, StoredSeries, affine_of, inverse_of
from autoseg.clinical.voxels import read_series
from autoseg.data.formats.simpleitk import to_sitk
from autoseg.data.image import read_image
from autoseg.preprocessing.bias_correction import correct_bias
from autoseg.utils.errors import AutosegError

#: Normalized mutual information that a motion has to gain on a series that shares the reference's grid: less is what
#: interpolation does to the measure.
LEAST_GAIN = 0.005

#: mm between where equally good starts put the head, and where its halves do: beyond, the alignment is flagged.
SPREAD, HALVES = 4.0, 4.0

#: Normalized mutual information of reference and aligned series below which the alignment is flagged.
LEAST_MEASURE = 1.02

#: Share of a label that is cut off, or lies outside of the brain mask, beyond which it is flagged: edges that two grids
#: draw differently are less.
LOST = 0.05

#: mm round the brain that the second fit of the alignment looks at.
AROUND_BRAIN = 4.0


@dataclass(frozen=True)
class PreparedExam:
    """An exam in the output space.

    Attributes:
        images: channel → image on the output grid, float32.
        labels: on the output grid.
        mask: brain mask on the output grid, or None.
        case: what is stored beside it.
        log: every step and its outcome, in sentences.
        originals: channel → series on its own grid, for the quality page.
        to_originals: channel → transform from a point of the output space to the series'.
    """

    images: dict[str, sitk.Image]
    labels: ExamLabels
    mask: sitk.Image | None
    case: PreparedCase
    log: tuple[str, ...]
    originals: dict[str, sitk.Image] = field(default_factory=dict)
    to_originals: dict[str, sitk.Transform] = field(default_factory=dict)


def prepare_exam(exam: Exam, name: str, settings: ExamPreparation, mapping: Mapping[str, str]) -> PreparedExam:
    """Prepare an exam.

    Args:
        exam: as found.
        name: of the case.
        settings: of all steps.
        mapping: channel → series that the user names.

    Raises:
        AutosegError: something about the exam stops it, as the end of a sentence about it.
    """
    if exam.fault:
        raise AutosegError(exam.fault)
    choice = choose_series(exam, mapping, settings.channels)
    log, flags = [*choice.reasons], [*exam.remarks, *choice.flags]
    log += [f"{series.name} {remark}" for series in choice.channels.values() for remark in series.remarks]
    first = choose_reference(choice.channels, settings.reference)
    originals = {channel: read_series(series) for channel, series in choice.channels.items()}
    reference = originals[first]
    log.append(f"the reference is {first} ({choice.channels[first].name}, {_mm(reference)})")
    found = _align_all(originals, first, choice, settings, log)
    brain = _brain(exam, choice, originals, first, settings)
    if brain is None:
        why = ", as asked for" if settings.skull_strip == "none" else ": nothing says that the exam is of a brain"
        log.append(f"no brain mask{why}")
    else:
        how = "by its file" if exam.brain_mask else f"its template's measure {brain.quality:.3f}"
        log.append(f"the brain is {brain.volume:.0f} ml, {how}")
        if brain.doubts:
            flags.append(f"the brain mask is doubtful: {brain.doubts}")
    aligned, measures = _refine_all(originals, first, choice, found, None if brain is None else brain.mask)
    flags += doubts_of(measures)
    log += [_moved(channel, choice, measure) for channel, measure in measures.items()]
    grid = cut_to(output_grid(reference, settings), brain.mask if brain else head_mask(reference), settings)
    case = _stored(name, choice, first, grid, aligned, measures)
    region = head_mask(reference) if brain is None else brain.mask
    registered = Registered(choice, first, reference, aligned, region, settings.coregister)
    flags += doubts_of_frames(registered)
    case = _with_others(case, place_others(registered, LEAST_MEASURE, HALVES), log)
    images = {c: sampled_image(image, grid, aligned[c], settings.interpolation) for c, image in originals.items()}
    mask = None if brain is None else brain.on(grid.empty())
    images = {channel: _finished(image, mask, settings) for channel, image in images.items()}
    labels = labels_in_output(exam.labels, exam.series, case, settings.labels)
    flags += doubts_of_labels(labels, mask)
    filled = _fill(images, settings, log)
    case = case.model_copy(update={"filled": filled, "flags": tuple(flags)})
    return PreparedExam(images, labels, mask, case, tuple(log), originals, aligned)


def _align_all(
    originals: Mapping[str, sitk.Image], first: str, choice: ChosenSeries, settings: ExamPreparation, log: list[str]
) -> dict[str, Alignment]:
    """The alignment of each channel but the reference, to about a millimetre; none where that is switched off."""
    if not settings.coregister:
        log.append("nothing is aligned, as asked for; positions are the headers'")
        return {}
    same = [c for c in originals if c != first and choice.channels[c].shares_grid_with(choice.channels[first])]
    if same:
        every = "all series share" if len(same) == len(originals) - 1 else f"{', '.join(same)} and {first} share"
        log.append(f"{every} one grid; they are moved only where the measure gains by it")
    return {c: align_rigidly(originals[first], image) for c, image in originals.items() if c != first}


def _refine_all(
    originals: Mapping[str, sitk.Image],
    first: str,
    choice: ChosenSeries,
    found: Mapping[str, Alignment],
    brain: sitk.Image | None,
) -> tuple[dict[str, sitk.Transform], dict[str, Alignment]]:
    """The transform of each channel from the output space to the series', and the alignments, fitted in the brain."""
    if brain is None:
        region = head_mask(sitk.Cast(originals[first], sitk.sitkFloat32))
    else:
        region = sitk.BinaryDilate(brain, [round(AROUND_BRAIN / mm) for mm in brain.GetSpacing()])
    transforms: dict[str, sitk.Transform] = dict.fromkeys(originals, sitk.Transform(3, sitk.sitkIdentity))
    measures = {}
    for channel, alignment in found.items():
        fitted = refine(originals[first], originals[channel], alignment, region)
        needed = LEAST_GAIN if choice.channels[channel].shares_grid_with(choice.channels[first]) else 0.0
        measures[channel] = fitted if fitted.after > fitted.before + needed else fitted.staying()
        transforms[channel] = measures[channel].transform
    return transforms, measures


def _brain(
    exam: Exam, choice: ChosenSeries, originals: Mapping[str, sitk.Image], first: str, settings: ExamPreparation
) -> BrainMask | None:
    reference = originals[first]
    if exam.brain_mask is not None:
        return _given(exam, choice, originals, first)
    if settings.brain_mask is not None and settings.skull_strip != "atlas":
        raise AutosegError(
            f"no file of it fits --brain-mask {settings.brain_mask}; add the mask, or find it with --skull-strip atlas"
        )
    brain = is_brain([(series.facts, one) for series, one in choice.found])
    if settings.skull_strip == "none" or (settings.skull_strip == "auto" and not brain):
        return None
    return find_brain(reference, template(settings.atlas))


def _given(exam: Exam, choice: ChosenSeries, originals: Mapping[str, sitk.Image], first: str) -> BrainMask:
    """The brain mask of a file, which lies on the reference's voxels, in any order of their axes."""
    assert exam.brain_mask is not None
    image = read_image(exam.brain_mask)
    if not image.geometry.same_voxels(choice.channels[first].grid):
        raise AutosegError(f"its brain mask does not lie on the grid of its reference, {first}; resample it there")
    mask = sitk.Cast(to_sitk((image.array[0] > 0).astype(np.uint8), image.geometry), sitk.sitkUInt8)
    mask = sitk.Resample(mask, originals[first], sitk.Transform(), sitk.sitkNearestNeighbor)
    volume = float(sitk.GetArrayViewFromImage(mask).sum()) * float(np.prod(mask.GetSpacing())) / 1000
    return BrainMask(mask, float("inf"), volume)


def doubts_of(measures: Mapping[str, Alignment]) -> list[str]:
    """Why alignments can not be trusted, in sentences without a stop.

    Args:
        measures: channel → alignment.
    """
    flags = []
    for channel, found in measures.items():
        if found.after < LEAST_MEASURE:
            flags.append(
                f"{channel} could not be aligned for sure: its normalized mutual information with the reference is "
                f"{found.after:.3f}, below {LEAST_MEASURE}"
            )
        elif found.halves_apart > HALVES:
            flags.append(
                f"{channel} and the reference are not one rigid body: two halves of the head, each aligned for itself, "
                f"put it {found.halves_apart:.1f} mm apart"
            )
        elif found.start_spread > SPREAD:
            flags.append(f"{channel} has two alignments that are as good, {found.start_spread:.1f} mm apart")
    return flags


def doubts_of_labels(labels: ExamLabels, mask: sitk.Image | None) -> list[str]:
    """What labels lost on their way, in sentences without a stop.

    Args:
        labels: on the output grid.
        mask: brain mask on that grid, or None.
    """
    flags = [*labels.doubts]
    if labels.lost > LOST:
        flags.append(
            f"{labels.lost:.0%} of its labelled volume is not in the output, cut off or too small for its voxels"
        )
    brain = None if mask is None else sitk.GetArrayViewFromImage(mask) > 0
    for name, image in {"its label": labels.label, **labels.structures}.items():
        if image is None or brain is None:
            continue
        drawn = sitk.GetArrayViewFromImage(image) > 0
        outside = np.count_nonzero(drawn & ~brain) / max(1, np.count_nonzero(drawn))
        if outside > LOST:
            flags.append(f"{outside:.0%} of {name} lies outside of the brain mask, where the images are 0")
    return flags


def _moved(channel: str, choice: ChosenSeries, found: Alignment) -> str:
    figures = f"normalized mutual information {found.before:.4f} before, {found.after:.4f} after"
    if found.moved == 0:
        return f"{channel} ({choice.channels[channel].name}) stays where it is; {figures}"
    return f"{channel} ({choice.channels[channel].name}) is moved by {found.moved:.1f} mm; {figures}"


def _stored(
    name: str,
    choice: ChosenSeries,
    first: str,
    grid: SpatialGrid,
    aligned: Mapping[str, sitk.Transform],
    measures: Mapping[str, Alignment],
) -> PreparedCase:
    series = {}
    for channel, one in choice.channels.items():
        found = measures.get(channel)
        series[one.name] = StoredSeries(
            channel=channel,
            grid=SpatialGrid.of(one.grid),
            to_output=inverse_of(affine_of(aligned[channel])),
            measure={} if found is None else found.figures,
        )
    return PreparedCase(case=name, reference=choice.channels[first].name, output=grid, series=series)


def _with_others(case: PreparedCase, others: OtherSeries, log: list[str]) -> PreparedCase:
    """The case with the series that became no channel."""
    log += others.log
    further = {
        one.name: StoredSeries(grid=SpatialGrid.of(one.grid), to_output=inverse_of(affine_of(transform)))
        for one, transform in others.placed
    }
    return case.model_copy(update={"series": {**case.series, **further}, "unplaced": others.unplaced})


def _finished(image: sitk.Image, mask: sitk.Image | None, settings: ExamPreparation) -> sitk.Image:
    """Bias correction and removal of what is not brain."""
    if settings.n4:
        array = sitk.GetArrayFromImage(image)
        region = head_mask(image) if mask is None else mask
        corrected = sitk.GetImageFromArray(correct_bias(array, sitk.GetArrayFromImage(region) > 0))
        corrected.CopyInformation(image)
        image = corrected
    return image if mask is None else sitk.Mask(image, mask)


def _fill(images: dict[str, sitk.Image], settings: ExamPreparation, log: list[str]) -> dict[str, str]:
    filled = {}
    for channel, source in settings.fill.items():
        if channel not in images and source in images and source not in filled:
            images[channel] = images[source]
            filled[channel] = source
            log.append(f"it has no {channel}; {source} stands in for it (--fill)")
    return filled


def _mm(image: sitk.Image) -> str:
    return "×".join(f"{mm:.3g}" for mm in image.GetSpacing()) + " mm"
