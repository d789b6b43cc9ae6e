"""A network's scores from its grid back to the scan's.

Apart from :mod:`autoseg.preprocessing.resample`, as this needs torch and preprocessing does not.
"""

import torch
import torch.nn.functional as F

from autoseg.plans.stage import Stage
from autoseg.preprocessing.case import Trace
from autoseg.preprocessing.resample import Shape, nearest_index, separate_axis, target_spacing


def resample_scores(scores: torch.Tensor, shape: Shape, axis: int | None) -> torch.Tensor:
    """Resample one output channel of a network, linearly (nearest along ``axis``).

    Args:
        scores: ``(z, y, x)``.
        shape: wanted ``(z, y, x)``.
        axis: as for :func:`autoseg.preprocessing.resample.resample_image`.

    Returns:
        float32 ``shape``, on the same device.
    """
    scores = scores.float()
    if tuple(scores.shape) == tuple(shape):
        return scores
    if axis is None:
        return F.interpolate(scores[None, None], size=tuple(shape), mode="trilinear", align_corners=False)[0, 0]
    planes = scores.movedim(axis, 0)
    in_plane = [n for a, n in enumerate(shape) if a != axis]
    planes = F.interpolate(planes[:, None], size=in_plane, mode="bilinear", align_corners=False)[:, 0]
    index = torch.from_numpy(nearest_index(len(planes), shape[axis])).to(planes.device)
    return planes[index].movedim(0, axis)


def scores_on_original(scores: torch.Tensor, trace: Trace, stage: Stage) -> torch.Tensor:
    """Resample one output channel ``(z, y, x)`` from the network's grid to the cropped original grid."""
    axis = trace.separate_axis
    if stage.inference.manner == "nnunet":
        target = target_spacing(trace.spacing, stage.configuration.spacing)
        axis = separate_axis(target, trace.spacing, stage.configuration.resampling)
    return resample_scores(scores, trace.cropped_shape, axis)
