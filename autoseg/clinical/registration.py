"""Rigid co-registration of one series to another: Mattes mutual information, multi-resolution, several starts.

The measure is Mattes et al. 2003 (mutual information with smooth histograms), the optimizer regular-step gradient
descent, both as SimpleITK has them. Each start (as the headers say, centres of mass together, and both turned about
each axis) is optimized on a coarse grid; the best of them are refined. The finest level takes a regular sample of the
voxels, and all is done on one thread, so that the same exam gives the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import SimpleITK as sitk

from autoseg.utils.parallel import one_itk_thread

#: Side of a voxel at each level, mm, and the standard deviation of the smoothing, mm.
LEVELS = ((8.0, 4.0), (4.0, 2.0), (2.0, 1.0))

#: Bins of the joint histogram (ITK's recommendation for Mattes' measure is 32 to 50).
BINS = 40

#: Turns of the starts about each axis, degrees: half of the range of motions that is to be recovered.
TURNS = (-12.0, 12.0)

#: Starts that are refined.
REFINED = 3

#: Iterations of each level, at most.
LEVEL_ITERATIONS = (40, 80, 120)

#: Of each level: share of the voxels that the measure uses, first and smallest step (mm), and what a step is multiplied
#: by where the gradient turns. With 0.6 on the finest level it stopped 0.3 to 0.8 mm from the optimum, with 0.85 within
#: 0.1 mm.
DESCENT = ((1.0, 4.0, 0.08, 0.6), (1.0, 1.0, 0.02, 0.7), (0.1, 1.0, 0.002, 0.85))

#: Share of the best value that a start has to reach to be as good.
AS_GOOD = 0.98

#: Slices thicker than this many voxels of a level are interpolated.
THICK = 1.4

#: Share of the brightest voxels' level above which a voxel belongs to the head.
FOREGROUND = 0.1


@dataclass(frozen=True)
class Alignment:
    """How a moving image lies on a fixed one.

    Attributes:
        transform: takes a point of the fixed image's space to the moving image's.
        before: normalized mutual information (Studholme et al. 1999, 1 to 2) with the headers' positions.
        after: the same with the transform.
        start_spread: mm between where the refined starts that are as good put the head; small where they agree.
        halves_apart: mm between where two halves of the head put it, each aligned for itself; large where the pair is
            not one rigid body.
        moved: mean way of the head's points from where the headers put them, mm.
    """

    transform: sitk.Euler3DTransform
    before: float
    after: float
    start_spread: float
    halves_apart: float
    moved: float = 0.0

    def staying(self) -> "Alignment":
        """This one without a motion."""
        return replace(self, transform=sitk.Euler3DTransform(), after=self.before, moved=0.0)

    @property
    def figures(self) -> dict[str, float]:
        """Its numbers, for a file and the quality page."""
        return {
            "before": round(self.before, 5),
            "after": round(self.after, 5),
            "start_spread": round(self.start_spread, 2),
            "halves_apart": round(self.halves_apart, 2),
            "moved": round(self.moved, 2),
        }


@one_itk_thread()
def align_rigidly(fixed: sitk.Image, moving: sitk.Image) -> Alignment:
    """Find the rigid motion that puts a moving image on a fixed one, to about a millimetre; :func:`refine` fits it.

    Args:
        fixed: the reference; 3D.
        moving: the other; 3D.
    """
    pyramid = [(at_level(fixed, *level), at_level(moving, *level)) for level in LEVELS[:2]]
    masks = [head_mask(image) for image, _ in pyramid]
    centre, points = centre_of(masks[0]), points_of(masks[0])
    coarse = [_optimized(*pyramid[0], masks[0], start, level=0) for start in _starts(*pyramid[0], centre)]
    coarse.sort(key=lambda found: found[1])
    different = _different(coarse, points)[:REFINED]
    refined = [_optimized(*pyramid[1], masks[1], transform, level=1) for transform, _ in different]
    refined.sort(key=lambda found: found[1])
    best, value = refined[0]
    # Mattes' measure is negative: a start that reaches nearly the best value is as good.
    rivals = [one for one, reached in refined[1:] if reached < AS_GOOD * value]
    spread = max((distance(rival, best, points) for rival in rivals), default=0.0)
    lower, upper = (_optimized(*pyramid[1], half, best, level=1)[0] for half in _halves(masks[1]))
    return _measured(best, *pyramid[1], masks[1], (spread, distance(lower, upper, points)))


@one_itk_thread()
def refine(fixed: sitk.Image, moving: sitk.Image, found: Alignment, region: sitk.Image) -> Alignment:
    """Fit an alignment on the finest level, inside a region such as the brain, which moves as one body.

    Args:
        fixed: the reference.
        moving: the other.
        found: from :func:`align_rigidly`.
        region: uint8 mask on the reference's grid.

    Returns:
        The better of both by the measure inside the region, which both figures are of.
    """
    image, other = at_level(fixed, *LEVELS[2]), at_level(moving, *LEVELS[2])
    mask = sitk.Resample(region, image, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0)
    transform, _ = _optimized(image, other, mask, found.transform, level=2)
    checked = (found.start_spread, found.halves_apart)
    kept, better = (_measured(one, image, other, mask, checked) for one in (found.transform, transform))
    return better if better.after > kept.after else kept


def _measured(
    transform: sitk.Euler3DTransform,
    fixed: sitk.Image,
    moving: sitk.Image,
    mask: sitk.Image,
    checked: tuple[float, float],
) -> Alignment:
    """An alignment with its figures inside a mask."""
    still = sitk.Transform(3, sitk.sitkIdentity)
    before, after = (normalized_mutual_information(fixed, moving, one, mask) for one in (still, transform))
    return Alignment(transform, before, after, *checked, moved=distance(transform, still, points_of(mask)))


def at_level(image: sitk.Image, side: float, smoothing: float) -> sitk.Image:
    """An image of float voxels of about ``side`` mm along each axis.

    Axes of smaller voxels are smoothed and averaged, those of thicker slices interpolated by third-order splines:
    linear interpolation between thick slices blurs by how far it is from them, and the measure would follow that.
    """
    image = sitk.Cast(image, sitk.sitkFloat32)
    spacing = np.asarray(image.GetSpacing())
    for axis, mm in enumerate(spacing):
        if mm < side and image.GetSize()[axis] > 4:
            smoother = sitk.RecursiveGaussianImageFilter()
            smoother.SetDirection(axis)
            smoother.SetSigma(smoothing)
            image = smoother.Execute(image)
    factors = [max(1, min(round(side / mm), size // 4)) for mm, size in zip(spacing, image.GetSize(), strict=True)]
    # Not Shrink: of an even number of voxels it takes one beside the middle, whichever the rounding of positions gives.
    image = sitk.BinShrink(image, [int(factor) for factor in factors])
    if max(image.GetSpacing()) < THICK * side or min(image.GetSize()) < 4:
        return image
    old = np.asarray(image.GetSpacing())
    new = np.where(old < THICK * side, old, side)
    grid = sitk.ResampleImageFilter()
    grid.SetOutputSpacing(new.tolist())
    grid.SetSize([math.floor((size - 1) * a / b) + 1 for size, a, b in zip(image.GetSize(), old, new, strict=True)])
    grid.SetOutputOrigin(image.GetOrigin())
    grid.SetOutputDirection(image.GetDirection())
    grid.SetInterpolator(sitk.sitkBSpline)
    return grid.Execute(image)


def head_mask(image: sitk.Image) -> sitk.Image:
    """Voxels of the body: brighter than a tenth of the bright ones, closed and filled slice by slice."""
    bright = float(np.percentile(sitk.GetArrayViewFromImage(image), 98))
    mask = sitk.BinaryThreshold(image, FOREGROUND * bright, float("inf"), 1, 0)
    radius = [max(1, round(6.0 / mm)) for mm in image.GetSpacing()]
    return sitk.BinaryDilate(sitk.BinaryFillhole(mask), [min(r, 2) for r in radius])


def centre_of(mask: sitk.Image) -> np.ndarray:
    """Centre of mass of a mask, mm."""
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(mask)
    if not statistics.HasLabel(1):
        middle = [(size - 1) / 2 for size in mask.GetSize()]
        return np.asarray(mask.TransformContinuousIndexToPhysicalPoint(middle))
    return np.asarray(statistics.GetCentroid(1))


def points_of(mask: sitk.Image) -> np.ndarray:
    """Some hundred points of a mask ``(n, 3)``, mm."""
    found = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    if len(found) == 0:
        return centre_of(mask)[None]
    picked = found[:: max(1, len(found) // 300)]
    matrix = np.asarray(mask.GetDirection()).reshape(3, 3) * np.asarray(mask.GetSpacing())
    return picked @ matrix.T + np.asarray(mask.GetOrigin())


def distance(one: sitk.Transform, other: sitk.Transform, points: np.ndarray) -> float:
    """Mean distance of where two transforms put some points, mm."""
    moved = [np.linalg.norm(np.subtract(one.TransformPoint(p), other.TransformPoint(p))) for p in points.tolist()]
    return float(np.mean(moved))


def normalized_mutual_information(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, mask: sitk.Image
) -> float:
    """(H(A) + H(B)) / H(A, B) of two images inside a mask on the fixed image's grid (Studholme et al. 1999), 1 to 2."""
    there = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, math.nan, sitk.sitkFloat32))
    here = sitk.GetArrayViewFromImage(fixed)
    inside = (sitk.GetArrayViewFromImage(mask) > 0) & np.isfinite(there)
    if inside.sum() < BINS:
        return 1.0
    return nmi_of(here[inside], there[inside])


def nmi_of(one: np.ndarray, other: np.ndarray) -> float:
    """Normalized mutual information of paired values, in 40 bins between their 0.5th and 99.5th percentiles."""
    limits = [np.percentile(values, (0.5, 99.5)) for values in (one, other)]
    clipped = [np.clip(values, *limit) for values, limit in zip((one, other), limits, strict=True)]
    counts, _, _ = np.histogram2d(clipped[0], clipped[1], bins=BINS)
    joint = counts / counts.sum()
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / max(_entropy(joint.ravel()), 1e-12)


def _entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def _starts(fixed: sitk.Image, moving: sitk.Image, centre: np.ndarray) -> list[sitk.Euler3DTransform]:
    shift = centre_of(head_mask(moving)) - centre
    turns = np.zeros((1 + 3 * len(TURNS), 3))
    for row, (axis, degrees) in enumerate(((axis, turn) for axis in range(3) for turn in TURNS), start=1):
        turns[row, axis] = math.radians(degrees)
    starts = []
    for translation in (np.zeros(3), shift):
        for turn in turns:
            start = sitk.Euler3DTransform()
            start.SetCenter(centre.tolist())
            start.SetRotation(*turn.tolist())
            start.SetTranslation(translation.tolist())
            starts.append(start)
    return starts


def _optimized(
    fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, start: sitk.Transform, level: int
) -> tuple[sitk.Euler3DTransform, float]:
    """The transform reached from a start, and the measure there (the lower the better)."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    share, step, smallest, relaxation = DESCENT[level]
    if share < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, smallest, LEVEL_ITERATIONS[level], relaxation)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.Euler3DTransform(start)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # the images do not overlap from this start
        return sitk.Euler3DTransform(start), math.inf
    return transform, float(method.GetMetricValue())


def _different(
    found: Sequence[tuple[sitk.Euler3DTransform, float]], points: np.ndarray
) -> list[tuple[sitk.Euler3DTransform, float]]:
    """The candidates, best first, without those that end within 2 mm of a better one."""
    kept: list[tuple[sitk.Euler3DTransform, float]] = []
    for transform, value in found:
        if math.isfinite(value) and all(distance(transform, other, points) > 2.0 for other, _ in kept):
            kept.append((transform, value))
    return kept or list(found[:1])


def _halves(mask: sitk.Image) -> list[sitk.Image]:
    """The lower and the upper half of a mask, along the axis of the body."""
    axes = np.abs(np.asarray(mask.GetDirection()).reshape(3, 3))
    along = int(axes[2].argmax())
    array = sitk.GetArrayFromImage(mask)
    line = 2 - along
    counts = array.sum(axis=tuple(axis for axis in range(3) if axis != line))
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    halves = []
    for start, stop in pairwise((0, middle, array.shape[line])):
        half = np.zeros_like(array)
        window = tuple(slice(start, stop) if axis == line else slice(None) for axis in range(3))
        half[window] = array[window]
        image = sitk.GetImageFromArray(half)
        image.CopyInformation(mask)
        halves.append(image)
    return halves
