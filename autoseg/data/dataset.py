"""Dataset: a dataset on disk, opened in any layout, and the voxels of its cases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from autoseg.data.description import Case, ChannelFile, Description, LabelSource
from autoseg.data.image import Geometry, Image, geometry_remarks, read_image
from autoseg.data.label_maps import NotALabelMap, label_values
from autoseg.data.layouts.layout import LAYOUTS, by_rank, datasets_below, recognise_layout
from autoseg.data.patients import regrouped
from autoseg.data.structure_masks import read_label_map
from autoseg.utils.errors import AutosegError
from autoseg.utils.shell import quoted

__all__ = ["Case", "ChannelFile", "Dataset", "LoadedCase", "load_case"]


class Dataset(Description):
    """A dataset on disk, independent of its layout; see :class:`autoseg.data.description.Description`."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        layout: str | None = None,
        *,
        choices: Mapping[str, str] | None = None,
        patients: str | None = None,
    ) -> "Dataset":
        """Read a dataset folder (or CSV), recognising its layout.

        Args:
            path: the folder, an ``autoseg.toml`` or a CSV.
            layout: one of :data:`autoseg.data.layouts.layout.LAYOUTS` to skip the recognition.
            choices: what the layout leaves open, as ``{"label": "ptv"}`` where several label maps lie beside a scan.
            patients: regular expression that finds the patient in a case's name; see
                :func:`autoseg.data.patients.regrouped`. By default, the layout and well-known naming schemes tell.

        Raises:
            AutosegError: the path does not exist, or no layout recognises it.
            UsageError: ``layout`` is unknown, or leaves no such choice; ``patients`` is no regular expression.
        """
        # Absolute, since a run folder stores the paths and may be used from another working directory.
        path = Path(path).absolute()
        if not path.exists():
            raise AutosegError(f"{path} does not exist.")
        layout = recognise_layout(path) if layout is None else layout
        if layout is None:
            if several := datasets_below(path):
                raise AutosegError(
                    f"{path} holds several datasets, of different layouts, channels or labels; give one of them: "
                    f"{', '.join(several)}."
                )
            raise AutosegError(
                f"{path} has no layout that autoseg knows (tried {', '.join(by_rank())}); "
                f"'autoseg inspect {quoted(path)}' proposes an autoseg.toml that describes it."
            )
        description = LAYOUTS.find(layout).read_with(path, choices or {})
        return cls.of(description if patients is None else regrouped(description, patients))

    @classmethod
    def of(cls, description: Description) -> "Dataset":
        """The dataset that a layout describes."""
        return cls(**dict(description))


class LoadedCase(BaseModel):
    """The voxels of a case, all on the same canonical grid.

    Attributes:
        image: float32 ``(channel, z, y, x)``; channels that the case lacks are zero.
        present: for each channel, whether the case has it.
        spacing: mm, ``(z, y, x)``.
        geometry: of the first channel's file.
        label: integer ``(z, y, x)``, or None.
        mask: bool ``(z, y, x)``, or None.
        annotations: label map of each requested annotator, likewise; None for one who did not annotate the case.
        remarks: what was noticed while reading, in sentences.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", frozen=True)

    image: np.ndarray
    present: tuple[bool, ...]
    spacing: tuple[float, float, float]
    geometry: Geometry
    label: np.ndarray | None = None
    mask: np.ndarray | None = None
    annotations: tuple[np.ndarray | None, ...] = ()
    remarks: tuple[str, ...] = ()


def load_case(
    case: Case, channels: tuple[str, ...] | list[str], with_label: bool = True, annotators: Sequence[str] = ()
) -> LoadedCase:
    """Read the voxels of a case.

    Args:
        case: its files.
        channels: names of the channels to read, in order.
        with_label: whether to read the label map, too, if there is one.
        annotators: names of those whose label maps to read, too, in order.

    Raises:
        AutosegError: a file is unreadable or holds several channels of which none is named, or two files (both named)
            differ in their grid.
    """
    arrays: list[np.ndarray | None] = []
    cache: dict[Path, Any] = {}
    remarks: list[str] = []
    first: Any = None
    first_path: Path | None = None
    for name in channels:
        source = case.channels.get(name)
        if source is None:
            arrays.append(None)
            continue
        if source.path not in cache:
            cache = {source.path: read_image(source.path)}
            if broken := cache[source.path].non_finite:
                remarks.append(f"{broken} voxels of {source.path} are NaN or infinite; they are read as 0.")
            about = geometry_remarks(source.path, cache[source.path].geometry)
            remarks += [f"{source.path}: {remark}." for remark in about]
        image = cache[source.path]
        index = source.component or 0
        if index >= len(image.array):
            raise AutosegError(
                f"case {case.id}: {source.path} has {len(image.array)} channels; "
                f"channel {name} should be number {index}."
            )
        if source.component is None and len(image.array) > 1:
            raise AutosegError(
                f"case {case.id}: {source.path} holds {len(image.array)} channels where {name} alone is expected; "
                "describe them one by one, or store this one alone."
            )
        if first is None:
            first, first_path = image, source.path
        elif (difference := image.geometry.differs_from(first.geometry)) is not None:
            raise AutosegError(
                f"case {case.id}: {source.path} does not lie on the grid of {first_path} ({difference}); "
                "register or resample it first."
            )
        arrays.append(image.array[index])
    if first is None:
        raise AutosegError(f"case {case.id} has none of the channels {', '.join(channels)}.")
    shape = first.array.shape[1:]
    voxels = np.zeros((len(channels), *shape), np.float32)
    for index, array in enumerate(arrays):
        if array is not None:
            voxels[index] = array
    labels = [case.label if with_label else None, *(case.raters.get(name) for name in annotators)]
    drawn = [None if path is None else _load_label(case, path, first, first_path) for path in labels]
    mask = _load_map(case, case.mask, first, first_path).array[0] if case.mask is not None else None
    return LoadedCase(
        image=voxels,
        present=tuple(array is not None for array in arrays),
        spacing=first.spacing,
        geometry=first.geometry,
        label=drawn[0],
        mask=None if mask is None else mask > 0,
        annotations=tuple(drawn[1:]),
        remarks=tuple(remarks),
    )


def _load_map(case: Case, path: LabelSource, first: Any, first_path: Path | None) -> Image:
    image = read_label_map(path)
    difference = image.geometry.differs_from(first.geometry)
    if difference is not None:
        raise AutosegError(
            f"case {case.id}: {path} does not lie on the grid of {first_path} ({difference}); resample it first."
        )
    return image


def _load_label(case: Case, path: LabelSource, first: Any, first_path: Path | None) -> np.ndarray:
    image = _load_map(case, path, first, first_path)
    try:
        return label_values(image)
    except NotALabelMap as error:
        raise AutosegError(f"case {case.id}: {path} is no label map: {error}.") from None
