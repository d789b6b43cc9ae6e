"""One label map out of several of the same case (SimpleITK)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import SimpleITK as sitk

from autoseg.utils.errors import UsageError

#: ``majority``: the label that most annotations give a voxel. ``staple``: annotations weighted by how reliable they
#: turn out to be, estimated together with the labels (Warfield et al., IEEE TMI 23, 903, 2004; for several labels at
#: once Rohlfing et al., IPMI 2003).
Consensus = Literal["majority", "staple"]


def consensus_of(maps: Sequence[np.ndarray], method: Consensus) -> np.ndarray:
    """Unite label maps; a voxel for which no single label wins (a tie) becomes background.

    Args:
        maps: label values ``(z, y, x)``, of the same shape; negative ones are background.
        method: ``majority`` or ``staple``.

    Returns:
        Label values, of the maps' type.

    Raises:
        UsageError: no maps, or an unknown method.
    """
    check_method(method)
    if not maps:
        raise UsageError("a consensus needs at least one label map.")
    maps = [np.maximum(labels, 0) for labels in maps]
    # Both filters count votes in a table as long as the largest value: number the values that there are.
    values = np.unique(np.concatenate([[0], *(np.unique(labels) for labels in maps)]))
    if len(values) == 1:
        return np.zeros_like(maps[0])
    images = [sitk.GetImageFromArray(np.searchsorted(values, labels).astype(np.uint16)) for labels in maps]
    united = sitk.LabelVotingImageFilter() if method == "majority" else sitk.MultiLabelSTAPLEImageFilter()
    united.SetLabelForUndecidedPixels(0)
    return values.astype(maps[0].dtype)[sitk.GetArrayFromImage(united.Execute(images))]


def check_method(method: str | None) -> None:
    """Refuse an unknown way to unite label maps; None makes no consensus.

    Raises:
        UsageError: names ``--consensus``.
    """
    if method not in (None, "majority", "staple"):
        raise UsageError(f"--consensus {method} is unknown; choose majority or staple.")
