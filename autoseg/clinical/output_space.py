"""The output space of an exam: the reference's axes, brought into canonical order, at the spacing asked for."""

import math

import numpy as np
import SimpleITK as sitk

from autoseg.clinical.settings import ExamPreparation
from autoseg.clinical.transforms import SpatialGrid

#: mm round the brain or the body that a crop leaves.
MARGIN = 5.0


def output_grid(reference: sitk.Image, settings: ExamPreparation) -> SpatialGrid:
    """The whole of the reference's field of view at the output's orientation and spacing."""
    grid = SpatialGrid.of(sitk.DICOMOrient(reference, "LPS") if settings.orient else reference)
    if settings.spacing is None:
        return grid
    old, new = np.asarray(grid.spacing), np.asarray(settings.spacing)
    size = [max(1, round(count * mm / wanted)) for count, mm, wanted in zip(grid.size, old, new, strict=True)]
    axes = np.asarray(grid.direction).reshape(3, 3)
    # The middles of both fields of view are one point.
    middle = np.asarray(grid.origin) + axes @ ((np.asarray(grid.size) - 1) / 2 * old)
    origin = middle - axes @ ((np.asarray(size) - 1) / 2 * new)
    return SpatialGrid(size=tuple(size), spacing=tuple(new), origin=tuple(origin), direction=grid.direction)


def cut_to(grid: SpatialGrid, region: sitk.Image, settings: ExamPreparation) -> SpatialGrid:
    """The grid cut to a region, or cut or padded to a box round its middle, as the settings say.

    Args:
        grid: whole field of view.
        region: mask of the brain or the body, on any grid in the output space.
        settings: with ``crop`` or ``box``.
    """
    if settings.box is None and not settings.crop:
        return grid
    inside = sitk.Resample(region, grid.empty(), sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0)
    found = np.argwhere(sitk.GetArrayViewFromImage(inside) > 0)[:, ::-1]
    if len(found) == 0:
        found = np.array([[0, 0, 0], np.asarray(grid.size) - 1])
    low, high = found.min(axis=0), found.max(axis=0) + 1
    if settings.box is not None:
        size = np.asarray(settings.box)
        start = np.floor((low + high - size) / 2).astype(int)
    else:
        margin = np.ceil(MARGIN / np.asarray(grid.spacing)).astype(int)
        start = np.maximum(low - margin, 0)
        size = np.minimum(high + margin, grid.size) - start
    axes = np.asarray(grid.direction).reshape(3, 3)
    origin = np.asarray(grid.origin) + axes @ (start * np.asarray(grid.spacing))
    return SpatialGrid(size=tuple(size.tolist()), spacing=grid.spacing, origin=tuple(origin), direction=grid.direction)


def sampled_image(image: sitk.Image, grid: SpatialGrid, to_image: sitk.Transform, interpolation: str) -> sitk.Image:
    """An image on the output grid, float32, never beyond its own range of values.

    Outside of its field of view it is 0, or its lowest value where that is below, as the air of CT is.

    Args:
        image: original series.
        grid: to sample on.
        to_image: takes a point of the output space to the image's.
        interpolation: ``spline`` (third order) or ``nearest``.
    """
    target = grid.empty(sitk.sitkFloat32)
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())
    outside = min(low, 0.0)
    if interpolation == "nearest":
        return sitk.Resample(image, target, to_image, sitk.sitkNearestNeighbor, outside, sitk.sitkFloat32)
    # A B-spline of third order is fitted to at least four voxels along each axis.
    order = sitk.sitkBSpline if min(image.GetSize()) >= 4 else sitk.sitkLinear
    sampled = sitk.Resample(image, target, to_image, order, math.nan, sitk.sitkFloat32)
    array = sitk.GetArrayFromImage(sampled)
    array = np.where(np.isnan(array), outside, np.clip(array, low, high)).astype(np.float32)
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(target)
    return result
