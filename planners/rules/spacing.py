"""Target spacing, order of axes and shapes at that spacing (Isensee et al. 2021, supplementary note 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.data.fingerprint import Fingerprint

#: An axis is strongly anisotropic where its spacing exceeds this many times the others' and its number of voxels is
#: this many times smaller (nnU-Net's threshold).
ANISOTROPY = 3.0

#: Percentile of the spacings taken along a strongly anisotropic axis instead of the median: a finer grid, so that the
#: best-resolved cases are not blurred.
PERCENTILE = 10

#: Factor between two resolutions tried for the low-resolution stage.
COARSENING = 1.03

#: Two spacings closer than this share are the same.
SAME = 1e-3


@dataclass(frozen=True)
class VoxelGrid:
    """The full-resolution grid of a dataset, in the order of axes that the network sees.

    Attributes:
        transpose: canonical axes in the order the network sees them.
        spacing: target spacing in mm.
        shape: median shape after cropping and resampling, voxels.
        slice_spacing: of each case along the first axis, mm.
        spacing_reason: why this spacing.
        transpose_reason: why this order.
    """

    transpose: tuple[int, int, int]
    spacing: tuple[float, float, float]
    shape: tuple[float, float, float]
    slice_spacing: tuple[float, ...]
    spacing_reason: str
    transpose_reason: str

    @property
    def same_slices(self) -> bool:
        """Whether every case already has the target's slice distance."""
        return all(abs(s - self.spacing[0]) <= SAME * self.spacing[0] for s in self.slice_spacing)


def full_resolution(fingerprint: Fingerprint) -> VoxelGrid:
    """Choose target spacing and order of axes."""
    spacings = np.asarray([case.spacing for case in fingerprint.cases], float)
    shapes = np.asarray([case.cropped_shape for case in fingerprint.cases], float)
    target = np.median(spacings, axis=0)
    why = "median of the cases' spacings"
    if fingerprint.dimension == 3:
        target, why = _refine_anisotropic(target, why, spacings, shapes)
    resampled = np.median(shapes * spacings / target, axis=0)
    order = (0, 1, 2)
    order_why = "the first axis already has the lowest resolution"
    worst = int(np.argmax(target))
    single = [axis for axis in range(3) if np.median(shapes[:, axis]) <= 1]
    if fingerprint.dimension == 2:
        order_why = "pictures: nothing to reorder"
    elif single:
        rest = [axis for axis in range(3) if axis != single[0]]
        order = (single[0], rest[0], rest[1])
        order_why = f"the cases are single slices along axis {'zyx'[single[0]]}, which comes first"
    elif target[worst] > target[0] * (1 + SAME):
        rest = [axis for axis in range(3) if axis != worst]
        order = (worst, rest[0], rest[1])
        order_why = f"axis {'zyx'[worst]} has the lowest resolution ({target[worst]:.3g} mm) and comes first"
    return VoxelGrid(
        transpose=order,
        spacing=(float(target[order[0]]), float(target[order[1]]), float(target[order[2]])),
        shape=(float(resampled[order[0]]), float(resampled[order[1]]), float(resampled[order[2]])),
        slice_spacing=tuple(float(s) for s in spacings[:, order[0]]),
        spacing_reason=why,
        transpose_reason=order_why,
    )


def _refine_anisotropic(
    target: np.ndarray, why: str, spacings: np.ndarray, shapes: np.ndarray
) -> tuple[np.ndarray, str]:
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    size = np.median(shapes * spacings / target, axis=0)
    coarse = target[worst] > ANISOTROPY * target[others].max()
    few = size[worst] * ANISOTROPY < size[others].min()
    if not (coarse and few):
        return target, why
    target = target.copy()
    fine = float(np.percentile(spacings[:, worst], PERCENTILE))
    # Never finer than the axes in the plane: nothing there was ever resolved.
    target[worst] = max(fine, float(target[others].max()))
    return target, (
        f"median of the cases' spacings; {PERCENTILE}th percentile along {'zyx'[worst]}, whose spacing is more than "
        f"{ANISOTROPY:g} times the others'"
    )


def coarsen(spacing: Sequence[float], shape: Sequence[float]) -> tuple[list[float], list[float]]:
    """One step towards a lower resolution.

    Axes more than twice as fine as the coarsest go first; where there are none, all go together.

    Args:
        spacing: mm.
        shape: voxels at this spacing.

    Returns:
        The next spacing in mm, and the shape there.
    """
    now = np.asarray(spacing, float)
    fine = now.max() / now > 2
    new = np.where(fine if fine.any() else True, now * COARSENING, now)
    return [float(v) for v in new], [float(v) for v in np.asarray(shape, float) * now / new]
