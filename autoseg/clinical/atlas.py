"""Brain mask of an exam by registering a skull-stripped template: rigid, affine, then a coarse B-spline.

The template's own brain, its voxels above a threshold, says where the measure looks: outside of it a skull-stripped
template says nothing. The template is the fixed image while its brain is placed; then the exam is, looked at in a band
round the placed brain, so that the template's edge, brain against nothing, finds the exam's.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autoseg.clinical.registration import (
    BINS,
    at_level,
    centre_of,
    head_mask,
    nmi_of,
)
from autoseg.data.dicom import CLINICAL
from autoseg.data.image import read_image
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.parallel import one_itk_thread

#: Share of the template's 98th percentile above which a voxel is brain.
THRESHOLD = 0.1

#: mm between control points of the B-spline.
CONTROL_POINTS = 50.0

#: mm round the placed brain that the measure looks at where the exam is the fixed image.
BAND = 10.0

#: Share of the voxels there that the B-spline uses, and its iterations.
SHARE, BENDS = 0.1, 25

#: Normalized mutual information of the exam and the placed template below which a mask is flagged: good masks of two
#: exams have 1.078 and 1.087 on T1c and 1.051 on T2, the same moved by 15 mm 1.031 to 1.037 and 1.017 to 1.021.
LEAST_QUALITY = 1.042

#: ml of a human brain's mask, with ventricles and cerebellum: outside of this range a mask is flagged.
VOLUMES = (800.0, 2100.0)


@dataclass(frozen=True)
class BrainMask:
    """A brain mask and how far it can be trusted.

    Attributes:
        mask: uint8, on the grid of the image it was made for.
        quality: normalized mutual information of image and placed template in a band round and in the brain; infinite
            for a mask of a file.
        volume: ml.
        placed: the template's brain and its transform, where it was found with one; it is smoother than ``mask``, whose
            slices may be thick.
    """

    mask: sitk.Image
    quality: float
    volume: float
    placed: tuple[sitk.Image, sitk.Transform] | None = None

    def on(self, grid: sitk.Image) -> sitk.Image:
        """The mask on another grid in the same space, uint8."""
        image, transform = self.placed or (self.mask, sitk.Transform(3, sitk.sitkIdentity))
        weight = sitk.Resample(sitk.Cast(image, sitk.sitkFloat32), grid, transform, sitk.sitkLinear, 0.0)
        return sitk.Cast(weight > 0.5, sitk.sitkUInt8)

    @property
    def doubts(self) -> str:
        """Why it may be wrong; ``""`` where nothing speaks against it."""
        if self.quality < LEAST_QUALITY:
            return f"the template fits badly (normalized mutual information {self.quality:.3f} < {LEAST_QUALITY})"
        if not VOLUMES[0] <= self.volume <= VOLUMES[1]:
            return f"it is {self.volume:.0f} ml; a brain is {VOLUMES[0]:.0f} to {VOLUMES[1]:.0f} ml"
        return ""


def template(path: Path | None) -> sitk.Image:
    """The skull-stripped template: a file, or nilearn's ICBM 152 T1 (2009a, symmetric; Fonov et al. 2011).

    Raises:
        UsageError: no file is given and nilearn is not installed.
        AutosegError: the file can't be read.
    """
    if path is None:
        path = _shipped()
    read_image(path)  # refuses with one sentence what is no image
    return sitk.ReadImage(str(path), sitk.sitkFloat32)


def _shipped() -> Path:
    try:
        import nilearn.datasets
    except ImportError:
        raise UsageError(
            f"--skull-strip atlas needs the template that nilearn ships: {CLINICAL}, name another skull-stripped one "
            "with --atlas FILE, or give --skull-strip none."
        ) from None
    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    path = Path(nilearn.datasets.__file__).parent / "data" / name
    if not path.is_file():
        raise AutosegError(
            f"this version of nilearn ships no {name}; name a skull-stripped template with --atlas FILE."
        )
    return path


@one_itk_thread()
def find_brain(image: sitk.Image, atlas: sitk.Image) -> BrainMask:
    """The brain in a head scan, T1-like if possible.

    Args:
        image: 3D, with skull.
        atlas: the template, skull-stripped.
    """
    values = sitk.GetArrayViewFromImage(atlas)
    brain = sitk.BinaryThreshold(atlas, THRESHOLD * float(np.percentile(values[values > 0], 98)), math.inf, 1, 0)
    brain = sitk.BinaryMorphologicalClosing(brain, [3, 3, 3])
    inverse = _fitted(image, atlas, brain, sitk.AffineTransform(_placed(image, atlas, brain).GetInverse()))
    bent = _bent(image, atlas, brain, inverse)
    warp = sitk.CompositeTransform(3)
    warp.AddTransform(inverse)
    warp.AddTransform(bent)
    weight = sitk.Resample(sitk.Cast(brain, sitk.sitkFloat32), image, warp, sitk.sitkLinear, 0.0)
    mask = sitk.Cast(weight > 0.5, sitk.sitkUInt8)
    volume = float(sitk.GetArrayViewFromImage(mask).sum()) * math.prod(image.GetSpacing()) / 1000
    return BrainMask(mask, fit_of(image, atlas, brain, warp), volume, (brain, warp))


def fit_of(image: sitk.Image, atlas: sitk.Image, brain: sitk.Image, warp: sitk.Transform) -> float:
    """Normalized mutual information of an image and the template in a band round and in the brain.

    Args:
        image: of the exam.
        atlas: skull-stripped template.
        brain: its mask.
        warp: takes a point of the image's space to the template's.
    """
    coarse = at_level(image, 3.0, 1.5)
    there = sitk.GetArrayFromImage(sitk.Resample(at_level(atlas, 3.0, 1.5), coarse, warp, sitk.sitkLinear, 0.0))
    inside = sitk.GetArrayFromImage(_band(brain, coarse, warp)) > 0
    here = sitk.GetArrayViewFromImage(coarse)
    return nmi_of(here[inside], there[inside]) if inside.sum() > BINS else 1.0


def _placed(image: sitk.Image, atlas: sitk.Image, brain: sitk.Image) -> sitk.AffineTransform:
    """Rigid from several starts, then affine: takes a point of the template to the image."""
    best: tuple[float, sitk.Similarity3DTransform] | None = None
    fixed, moving = at_level(atlas, 6.0, 3.0), at_level(image, 6.0, 3.0)
    mask = _on(brain, fixed)
    head = head_mask(moving)
    centre = centre_of(brain)
    top = _top_of(head)
    # The brain lies some 85 mm below the top of a head; a scan that goes down to the neck has a low centre of mass.
    middle = centre_of(head)
    targets = [middle, np.array([middle[0], middle[1], top - 85.0])]
    for target in targets:
        for pitch in (-25.0, 0.0, 25.0):
            start = sitk.Similarity3DTransform()
            start.SetCenter(centre.tolist())
            start.SetRotation([1.0, 0.0, 0.0], math.radians(pitch))
            start.SetTranslation((target - centre).tolist())
            value = _run(fixed, moving, mask, start, 3.0)
            if best is None or value < best[0]:
                best = value, sitk.Similarity3DTransform(start)
    assert best is not None
    affine = sitk.AffineTransform(3)
    affine.SetCenter(centre.tolist())
    affine.SetMatrix(best[1].GetMatrix())
    affine.SetTranslation(best[1].GetTranslation())
    fixed, moving = at_level(atlas, 4.0, 2.0), at_level(image, 4.0, 2.0)
    _run(fixed, moving, sitk.BinaryDilate(_on(brain, fixed), [1, 1, 1]), affine, 1.0)
    return affine


def _fitted(image: sitk.Image, atlas: sitk.Image, brain: sitk.Image, inverse: sitk.AffineTransform) -> sitk.Transform:
    """The inverse of the placement, fitted with the exam as the fixed image; twice, as the band moves with it."""
    fixed, moving = at_level(image, 4.0, 2.0), at_level(atlas, 4.0, 2.0)
    for _ in range(2):
        _run(fixed, moving, _band(brain, fixed, inverse), inverse, 1.0)
    return inverse


def _band(brain: sitk.Image, fixed: sitk.Image, inverse: sitk.Transform) -> sitk.Image:
    placed = sitk.Cast(sitk.Resample(brain, fixed, inverse, sitk.sitkNearestNeighbor, 0), sitk.sitkUInt8)
    return sitk.BinaryDilate(placed, [max(1, round(BAND / mm)) for mm in fixed.GetSpacing()])


def _bent(image: sitk.Image, atlas: sitk.Image, brain: sitk.Image, inverse: sitk.Transform) -> sitk.Transform:
    """A coarse B-spline on the image's grid, before the inverse of the placement."""
    fixed, moving = at_level(image, 3.0, 1.5), at_level(atlas, 3.0, 1.5)
    extent = [size * mm for size, mm in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    mesh = [max(1, round(mm / CONTROL_POINTS)) for mm in extent]
    bent = sitk.BSplineTransformInitializer(fixed, mesh, 3)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(_band(brain, fixed, inverse))
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SHARE, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMovingInitialTransform(inverse)
    method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-5, numberOfIterations=BENDS)
    method.SetInitialTransform(bent, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:
        return sitk.Transform(3, sitk.sitkIdentity)
    return bent


def _run(fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, transform: sitk.Transform, step: float) -> float:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, step / 100, 100, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:
        return math.inf
    return float(method.GetMetricValue())


def _on(mask: sitk.Image, grid: sitk.Image) -> sitk.Image:
    return sitk.Resample(mask, grid, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0)


def _top_of(head: sitk.Image) -> float:
    """The highest z (LPS, towards the head) of a mask."""
    found = np.argwhere(sitk.GetArrayViewFromImage(head) > 0)
    if len(found) == 0:
        return 0.0
    matrix = np.asarray(head.GetDirection()).reshape(3, 3) * np.asarray(head.GetSpacing())
    return float((found[:, ::-1] @ matrix.T + np.asarray(head.GetOrigin()))[:, 2].max())
