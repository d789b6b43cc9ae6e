"""N4: the smooth brightness field of an MR scan, estimated and divided away (Tustison et al. 2010).

Everything about the fit is as in the paper and in ITK's defaults: up to four levels of B-splines of third order, each
with twice the control points of the one before, at most 50 iterations a level until the field changes by less than
0.001, a histogram of 200 bins sharpened with a full width at half maximum of 0.15.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import SimpleITK as sitk

#: The field is smooth, so it is estimated on every fourth voxel of an axis (the paper's, as in most pipelines) …
SHRINK = 4

#: … but on no fewer than so many voxels, where a small image has them: the finest level has 11 control points an axis.
LEAST_VOXELS = 16

#: Iterations at each level.
ITERATIONS = (50, 50, 50, 50)


def correct_bias(channel: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Divide a channel by its bias field.

    Args:
        channel: float32 ``(z, y, x)``.
        inside: bool ``(z, y, x)``: where the field is estimated, from those voxels that are above zero (N4 takes
            logarithms); it is smooth and applied everywhere.

    Returns:
        float32 ``(z, y, x)``; the channel itself where there are no two different values to estimate a field from.
    """
    mask = inside & (channel > 0)
    if not _varies(channel, mask):
        return channel
    # A spline needs two voxels along each axis: a single slice is put on top of itself.
    thick = [2 if size == 1 else 1 for size in channel.shape]
    image = sitk.GetImageFromArray(np.tile(channel, thick).astype(np.float32))
    seen = sitk.GetImageFromArray(np.tile(mask, thick).astype(np.uint8))
    factors = [max(1, min(SHRINK, size // LEAST_VOXELS)) for size in image.GetSize()]
    small, small_seen = sitk.Shrink(image, factors), sitk.Shrink(seen, factors)
    if not _varies(sitk.GetArrayViewFromImage(small), sitk.GetArrayViewFromImage(small_seen) > 0):
        small, small_seen = image, seen  # what is inside lies between the voxels that were kept
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(list(ITERATIONS))
    with _one_thread():
        corrector.Execute(small, small_seen)
        field = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image))
    z, y, x = channel.shape
    corrected: np.ndarray = (channel / np.exp(field[:z, :y, :x])).astype(np.float32)
    return corrected


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads add in another order, and how many there are would show in the last digits.

    The filter's own number of threads does not reach the B-splines inside it.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _varies(channel: np.ndarray, mask: np.ndarray) -> bool:
    """Whether two different values are in the mask: there is no histogram otherwise."""
    values = channel[mask]
    return values.size > 0 and float(values.min()) < float(values.max())
