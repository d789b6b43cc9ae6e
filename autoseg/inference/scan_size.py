"""What a scan takes in memory on a stage's grid, told before it is taken: the system would end the whole command."""

import math
from collections.abc import Sequence

from autoseg.data.boxes import cropping_box, foreground
from autoseg.data.dataset import LoadedCase
from autoseg.data.orientation import axes_in
from autoseg.plans.stage import Stage
from autoseg.preprocessing.resample import Shape, resampled_shape, target_spacing
from autoseg.utils.device import return_large_blocks
from autoseg.utils.errors import AutosegError
from autoseg.utils.host_memory import available_memory, free_swap

#: Bytes for each voxel of each channel on a stage's grid that preprocessing takes at least: the channels in 32 bits,
#: one by one and put together. What it takes besides depends on the scan.
LEAST_BYTES = 8


def refuse_beyond_memory(name: str, case: LoadedCase, stage: Stage) -> None:
    """Refuse a case that by far has no room in memory on a stage's grid, as one whose spacing is ten times too large.

    Args:
        name: of the case, for the message.
        case: that is read.
        stage: that it is to be preprocessed for.

    Raises:
        AutosegError: says how large it would be, at which spacing.
    """
    if bytes_on_grid(case, stage, list(case.image.shape[1:])) <= _free():
        return
    # What is kept for reuse is no longer needed, and what is cut away takes no room.
    return_large_blocks()
    sizes = list(case.image.shape[1:])
    if stage.preprocessing.crop == "nonzero":
        sizes = [side.stop - side.start for side in cropping_box(foreground(case.image, case.mask))]
    need, free = bytes_on_grid(case, stage, sizes), _free()
    if need <= free:
        return
    own, wanted = ("×".join(f"{mm:.3g}" for mm in spacing) for spacing in _spacings(case, stage))
    raise AutosegError(
        f"{name} takes at least {need / 1e9:.3g} GB of memory at the spacing of {wanted} mm of the configuration "
        f"{stage.name}, and {free / 1e9:.3g} GB are free; see whether its own spacing of {own} mm is right, or predict "
        "it where there is more."
    )


def bytes_on_grid(case: LoadedCase, stage: Stage, sizes: Sequence[int]) -> int:
    """Bytes that preprocessing takes at least for so many voxels of a case, on the grid of a stage.

    Args:
        case: that is read.
        stage: with the spacing.
        sizes: voxels that are left of the case, in its own axes ``(z, y, x)``.
    """
    own, wanted = _spacings(case, stage)
    found = resampled_shape(_boxed(_turned(sizes, case, stage), stage), own, wanted)
    return LEAST_BYTES * len(case.image) * math.prod(found)


def _boxed(sizes: Sequence[float], stage: Stage) -> Shape:
    most = stage.preprocessing.box or [math.inf] * 3
    z, y, x = (int(min(pair)) for pair in zip(sizes, most, strict=True))
    return z, y, x


def _turned(values: Sequence[float], case: LoadedCase, stage: Stage) -> list[float]:
    """Values of the axes of a case in the order that a stage has them."""
    turned = [values[axis] for axis in axes_in(stage.preprocessing.orientation, case.geometry).order]
    return [turned[axis] for axis in stage.preprocessing.transpose]


def _spacings(case: LoadedCase, stage: Stage) -> tuple[Sequence[float], Sequence[float]]:
    """The spacing of a case, in the order of a stage's axes, and the one that it gets there."""
    own = _turned(case.spacing, case, stage)
    return own, target_spacing(own, stage.configuration.spacing)


def _free() -> float:
    """Bytes that are left, with swap: the system ends a process where that is full, too. All, where it does not say."""
    available = available_memory()
    return math.inf if available is None else available + free_swap()
