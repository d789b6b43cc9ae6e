"""One case: reorient → transpose → crop → correct the bias field → normalize → resample; and the inverse."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg.data.boxes import cropping_box, foreground, middle_of
from autoseg.data.dataset import LoadedCase
from autoseg.data.image import Geometry
from autoseg.data.landmarks import matched
from autoseg.data.orientation import Axes, Orientation, axes_in
from autoseg.plans.preprocessing import BRIGHTEST, Channel, Preprocessing
from autoseg.plans.stage import Stage
from autoseg.preprocessing.normalize import normalize
from autoseg.preprocessing.resample import (
    Shape,
    resample_image,
    resample_label,
    resample_mask,
    resampled_shape,
    separate_axis,
    target_spacing,
)
from autoseg.utils.errors import AutosegError


@dataclass(frozen=True)
class Trace:
    """How a case was preprocessed: what is needed to put a prediction back on the grid of the scan.

    Attributes:
        geometry: of the original file.
        transpose: order of the axes that the orientation gives.
        shape: of the transposed image before cropping.
        box: ``[start, stop]`` an axis, in the transposed image.
        spacing: of the transposed image, mm.
        separate_axis: axis that was resampled with nearest neighbour, or None.
        present: for each channel, whether the case has it.
        orientation: axes that the image was brought to before it was transposed.
    """

    geometry: Geometry
    transpose: Shape
    shape: Shape
    box: tuple[tuple[int, int], ...]
    spacing: tuple[float, float, float]
    separate_axis: int | None
    present: tuple[bool, ...]
    orientation: Orientation = "canonical"

    @property
    def axes(self) -> Axes:
        """From canonical axes to those of the orientation."""
        return axes_in(self.orientation, self.geometry)

    @property
    def canonical_shape(self) -> Shape:
        """Voxels of the whole image in canonical axes."""
        z, y, x = (self.shape[axis] for axis in np.argsort(self.transpose)[np.argsort(self.axes.order)])
        return z, y, x

    @property
    def cropped_shape(self) -> Shape:
        """Voxels of the crop before resampling."""
        sizes = [stop - start for start, stop in self.box]
        return sizes[0], sizes[1], sizes[2]

    @property
    def slices(self) -> tuple[slice, ...]:
        """The crop, for indexing a ``(z, y, x)`` array."""
        return tuple(slice(start, stop) for start, stop in self.box)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a JSON file."""
        return {**vars(self), "geometry": self.geometry.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Trace":
        """The inverse of :meth:`to_json`."""
        return cls(
            geometry=Geometry.from_json(data["geometry"]),
            transpose=tuple(data["transpose"]),
            shape=tuple(data["shape"]),
            box=tuple((start, stop) for start, stop in data["box"]),
            spacing=tuple(data["spacing"]),
            separate_axis=data["separate_axis"],
            present=tuple(data["present"]),
            orientation=data.get("orientation", "canonical"),
        )

    def crop(self, volume: np.ndarray) -> np.ndarray:
        """The preprocessed part of a whole canonical ``(z, y, x)`` volume, before resampling; a view."""
        return self.axes.turn(volume).transpose(self.transpose)[self.slices]


@dataclass(frozen=True)
class PreprocessedCase:
    """A case as the network sees it.

    Attributes:
        image: float32 ``(channel, z, y, x)`` at the configuration's spacing.
        label: int16 ``(z, y, x)`` with the dataset's own values, or None.
        trace: how to put a prediction back on the grid of the scan.
        inside: bool ``(z, y, x)``: the brain mask, or the voxels that are non-zero in any channel; None where it is not
            needed.
        annotations: label map of each annotator who is learned separately, as ``label``; None for one who did not
            annotate the case.
    """

    image: np.ndarray
    label: np.ndarray | None
    trace: Trace
    inside: np.ndarray | None = None
    annotations: tuple[np.ndarray | None, ...] = ()


def preprocess_case(case: LoadedCase, stage: Stage) -> PreprocessedCase:
    """Bring a case to the network's grid and intensities.

    Args:
        case: voxels in canonical axes, channels in the plan's order.
        stage: preprocessing, channels and target spacing.

    Returns:
        Image ``(channel, z, y, x)``, labels ``(z, y, x)`` and the trace.

    Raises:
        AutosegError: values of colours beyond 8 bits.
    """
    preprocessing, resampling = stage.preprocessing, stage.configuration.resampling
    order = preprocessing.transpose
    axes = axes_in(preprocessing.orientation, case.geometry)
    image = axes.turn(case.image).transpose(0, *(axis + 1 for axis in order))
    mask = None if case.mask is None else axes.turn(case.mask).transpose(order)
    turned = [case.spacing[axis] for axis in axes.order]
    spacing = (turned[order[0]], turned[order[1]], turned[order[2]])
    shape: Shape = image.shape[1:]
    if preprocessing.outside_mask == "zero" and mask is not None and mask.any():
        image = np.where(mask, image, np.zeros((), image.dtype))
    inside = foreground(image, mask)
    if preprocessing.holes == "inside":
        from scipy.ndimage import binary_fill_holes  # takes long to import

        inside = binary_fill_holes(inside)
    if preprocessing.crop == "nonzero":
        box = cropping_box(inside)
    else:
        box = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    if preprocessing.box is not None:
        box = middle_of(box, preprocessing.box)
    image = image[(slice(None), *box)]
    inside = inside[box]
    image = np.stack(
        [
            _intensities(voxels, channel, inside, preprocessing) if present else np.zeros_like(voxels)
            for voxels, channel, present in zip(image, stage.channels, case.present, strict=True)
        ]
    )
    target = target_spacing(spacing, stage.configuration.spacing)
    new_shape = resampled_shape(image.shape[1:], spacing, target)
    axis = separate_axis(spacing, target, resampling)
    trace = Trace(
        geometry=case.geometry,
        transpose=order,
        shape=shape,
        box=tuple((s.start, s.stop) for s in box),
        spacing=spacing,
        separate_axis=axis,
        present=case.present,
        orientation=preprocessing.orientation,
    )

    def on_grid(label: np.ndarray | None) -> np.ndarray | None:
        if label is None:
            return None
        cropped = trace.crop(label)
        return np.ascontiguousarray(resample_label(cropped, new_shape, axis, resampling.label_order))

    return PreprocessedCase(
        image=np.ascontiguousarray(resample_image(image, new_shape, axis, resampling.image_order)),
        label=on_grid(case.label),
        trace=trace,
        inside=resample_mask(inside, new_shape),
        annotations=tuple(on_grid(label) for label in case.annotations),
    )


def _intensities(voxels: np.ndarray, channel: Channel, inside: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    # Landmarks are those of images as they are, before any correction.
    if channel.name in preprocessing.harmonize:
        voxels = matched(voxels, preprocessing.harmonize[channel.name], inside)
    elif channel.normalization.of_colours:
        _refuse_beyond_colours(voxels, channel.name)
    # A CT scan has no bias field: its values are physical, and half of them are below zero.
    if preprocessing.bias_correction == "n4" and channel.normalization.scheme != "ct":
        from autoseg.preprocessing.bias_correction import correct_bias

        voxels = correct_bias(voxels, inside)
    return normalize(voxels, channel.normalization, inside)


def _refuse_beyond_colours(voxels: np.ndarray, channel: str) -> None:
    """Refuse values that are no colours of 8 bits, which clipping would make black or white without a word."""
    low, high = float(voxels.min()), float(voxels.max())
    if low < 0 or high > BRIGHTEST:
        raise AutosegError(
            f"{channel} has values from {low:g} to {high:g}, and the plan takes colours of 8 bits, 0 to {BRIGHTEST:g}; "
            "save the image with 8 bits a colour, scaled as the training images were."
        )


def restore(volume: np.ndarray, trace: Trace, outside: float = 0) -> np.ndarray:
    """Put a volume on the cropped grid back into the whole canonical image.

    Args:
        volume: ``trace.cropped_shape``.
        trace: of the case.
        outside: value outside the crop.

    Returns:
        ``(z, y, x)`` in canonical axes, same dtype.
    """
    full = np.full(trace.canonical_shape, outside, volume.dtype)
    trace.crop(full)[...] = volume
    return full
