"""Pictures by which an alignment and a brain mask are judged: checkerboards and edges, before and after."""

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes

from autoseg.clinical.exam_preparation import PreparedExam
from autoseg.report.style import figure, png

#: Fields along the longer side of a checkerboard.
FIELDS = 8

#: Share of the steepest gradients of a slice that are drawn as edges.
EDGES = 0.06

#: Dots an inch: a page of ten exams of four sequences has some 10 MB.
_DPI = 80


def alignment_png(prepared: PreparedExam, channel: str, reference: str) -> bytes:
    """A channel against the reference, before and after: checkerboards, and the channel's edges on the reference.

    Args:
        prepared: with its originals.
        channel: to be shown.
        reference: channel of the reference.

    Returns:
        A PNG file's content.
    """
    target = _canonical(prepared)
    still = sitk.Transform(3, sitk.sitkIdentity)
    fixed = _sampled(prepared.originals[reference], target, prepared.to_originals[reference])
    before = _sampled(prepared.originals[channel], target, still)
    after = _sampled(prepared.originals[channel], target, prepared.to_originals[channel])
    spacing = target.GetSpacing()[::-1]
    with figure(11.5, 6.4) as fig:
        axes = fig.subplots(2, 4)
        for row, axis in enumerate((0, 2)):
            cut = _middle(fixed, axis)
            aspect = (spacing[1] / spacing[2], spacing[0] / spacing[1])[row]
            for column, (moving, when) in enumerate(((before, "before"), (after, "after"))):
                board = _checkerboard(_slice(fixed, axis, cut), _slice(moving, axis, cut))
                _show(axes[row, 2 * column], board, f"checkerboard, {when}", aspect)
                _show(axes[row, 2 * column + 1], _slice(fixed, axis, cut), f"edges, {when}", aspect)
                edges = _edges(_slice(moving, axis, cut))
                axes[row, 2 * column + 1].imshow(_coloured(edges, (1.0, 0.62, 0.0)), aspect=aspect, origin="upper")
        for ax in axes[1]:
            ax.invert_yaxis()  # the head's top is up
        return png(fig, _DPI)


def mask_png(prepared: PreparedExam, reference: str) -> bytes:
    """The outline of the brain mask on the reference, in three planes.

    Args:
        prepared: with a mask.
        reference: channel of the reference.

    Returns:
        A PNG file's content.
    """
    assert prepared.mask is not None
    target = _canonical(prepared)
    image = _sampled(prepared.originals[reference], target, prepared.to_originals[reference])
    mask = sitk.GetArrayFromImage(sitk.DICOMOrient(prepared.mask, "LPS")).astype(float)
    spacing = target.GetSpacing()[::-1]
    aspects = (spacing[1] / spacing[2], spacing[0] / spacing[2], spacing[0] / spacing[1])
    with figure(11.5, 4.2) as fig:
        for axis, ax in enumerate(fig.subplots(1, 3)):
            cut = _middle(mask, axis)
            _show(ax, _slice(image, axis, cut), ("axial", "coronal", "sagittal")[axis], aspects[axis])
            if np.ptp(_slice(mask, axis, cut)):
                ax.contour(_slice(mask, axis, cut), levels=[0.5], colors=["#00c8ff"], linewidths=1.0)
            if axis:
                ax.invert_yaxis()
        return png(fig, _DPI)


def _canonical(prepared: PreparedExam) -> sitk.Image:
    """The output grid in canonical axes, whichever it was left in: the planes of the pictures are the body's."""
    return sitk.DICOMOrient(prepared.case.output.empty(sitk.sitkFloat32), "LPS")


def _sampled(image: sitk.Image, target: sitk.Image, transform: sitk.Transform) -> np.ndarray:
    array = sitk.GetArrayFromImage(sitk.Resample(image, target, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32))
    low, high = np.percentile(array[array > 0], (1, 99)) if (array > 0).any() else (0.0, 1.0)
    scaled: np.ndarray = np.clip((array - low) / max(high - low, 1e-6), 0, 1)
    return scaled


def _middle(volume: np.ndarray, axis: int) -> int:
    """The slice through the middle of what is bright."""
    counts = (volume > 0.1).sum(axis=tuple(other for other in range(3) if other != axis)).cumsum()
    return int(np.searchsorted(counts, counts[-1] / 2)) if counts[-1] else volume.shape[axis] // 2


def _slice(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    return np.take(volume, index, axis=axis)


def _checkerboard(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    side = max(1, max(one.shape) // FIELDS)
    rows, columns = np.indices(one.shape)
    return np.where((rows // side + columns // side) % 2 == 0, one, other)


def _edges(picture: np.ndarray) -> np.ndarray:
    steepness = np.hypot(*np.gradient(picture))
    return steepness > max(float(np.quantile(steepness, 1 - EDGES)), 1e-3)


def _coloured(edges: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    return np.dstack([np.full(edges.shape, part) for part in colour] + [edges.astype(float)])


def _show(ax: Axes, picture: np.ndarray, title: str, aspect: float) -> None:
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=aspect, origin="upper", interpolation="bilinear")
    ax.set_title(title, fontsize=8.5)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
