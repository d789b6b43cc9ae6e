"""Dataset, Case, Channel, labels and regions: the model that every layout on disk is read into."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from autoseg.data.image import Geometry, read_image
from autoseg.utils.errors import AutosegError, UsageError

if TYPE_CHECKING:
    from typing import Self

#: Layouts in the order in which a folder is tried; each is a module of :mod:`autoseg.data.layouts`.
LAYOUTS = ("manifest", "nnunet", "msd", "brats")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChannelFile(_Model):
    """Where one channel of one case is stored.

    Attributes:
        path: the image file.
        component: which channel of the file, where a file holds several (4D volumes, RGB pictures).
    """

    path: Path
    component: int | None = None


class Case(_Model):
    """One exam: its channels by name, and for training its label file(s).

    Attributes:
        id: unique in the dataset; results are named after it.
        channels: channel name → file. A channel that the case lacks is absent.
        label: the label map to train from, or None for a case to predict.
        raters: rater name → label map, where several people drew the case; ``label`` is then
            the first of them, or a map that the dataset names besides.
        mask: voxels outside are background for cropping and normalization.
        group: cases with the same group (one patient's exams) never lie on two sides of a split.
    """

    id: str
    channels: dict[str, ChannelFile]
    label: Path | None = None
    raters: dict[str, Path] = Field(default_factory=dict)
    mask: Path | None = None
    group: str = ""

    @property
    def files(self) -> list[Path]:
        """Every file of the case, each once."""
        paths = [channel.path for channel in self.channels.values()]
        paths += [p for p in (self.label, self.mask, *self.raters.values()) if p is not None]
        return list(dict.fromkeys(paths))


class Dataset(_Model):
    """What is on disk, independent of how it is laid out.

    Attributes:
        name: of the dataset.
        root: folder (or CSV) it was read from.
        layout: name of the module of :mod:`autoseg.data.layouts` that read it.
        channels: channel names, in the dataset's order.
        modalities: channel name → what the dataset calls its modality (``MRI``, ``CT``), where it says so.
        labels: label name → value, without the background (0) and without the ignore label.
        regions: region name → the label values it unites; empty where labels are the targets.
        ignore_label: a value whose voxels take no part in training or evaluation.
        cases: labelled cases.
        unlabelled: cases without a label (a test set).
        file_ending: ending of the label files, and so of results (``.nii.gz``).
    """

    name: str
    root: Path
    layout: str
    channels: tuple[str, ...]
    modalities: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    ignore_label: int | None = None
    cases: tuple[Case, ...]
    unlabelled: tuple[Case, ...] = ()
    file_ending: str = ".nii.gz"

    @model_validator(mode="after")
    def _consistent(self) -> "Self":
        if not self.channels:
            raise ValueError(f"dataset {self.name} names no channels")
        known = set(self.labels.values())
        for region, values in self.regions.items():
            unknown = sorted(set(values) - known)
            if unknown:
                raise ValueError(f"region {region} has the values {unknown}, which no label of {self.name} has")
        if 0 in known:
            raise ValueError(f"a label of {self.name} has the value 0, which is the background")
        return self

    @classmethod
    def open(cls, path: str | Path, layout: str | None = None) -> "Dataset":
        """Read a dataset folder (or CSV), recognising its layout.

        Args:
            path: the folder, an ``autoseg.toml`` or a CSV.
            layout: one of :data:`LAYOUTS` to skip the recognition.

        Raises:
            AutosegError: nothing there, or nothing any layout recognises.
            UsageError: an unknown ``layout``.
        """
        # A run folder names the scans it was made from, and may be used from another folder.
        path = Path(path).absolute()
        if not path.exists():
            raise AutosegError(f"{path} does not exist.")
        if layout is not None and layout not in LAYOUTS:
            raise UsageError(f"--layout {layout} is unknown; choose one of {', '.join(LAYOUTS)}.")
        layout = layout or recognise_layout(path)
        if layout is None:
            raise AutosegError(
                f"{path} has no layout that autoseg knows (tried {', '.join(LAYOUTS)}); "
                f"'autoseg inspect {path}' proposes an autoseg.toml that describes it."
            )
        read: Callable[[Path], Dataset] = import_module(f"autoseg.data.layouts.{layout}").read
        return read(path)

    def case(self, case_id: str) -> Case:
        """The labelled or unlabelled case of this name.

        Raises:
            AutosegError: there is none.
        """
        for case in (*self.cases, *self.unlabelled):
            if case.id == case_id:
                return case
        raise AutosegError(f"the dataset {self.name} has no case {case_id}.")


def recognise_layout(path: Path) -> str | None:
    """The first of :data:`LAYOUTS` that a folder or file has, or None."""
    for name in LAYOUTS:
        recognise: Callable[[Path], bool] = import_module(f"autoseg.data.layouts.{name}").recognise
        if recognise(path):
            return name
    return None


class LoadedCase(_Model):
    """The voxels of a case, all in the same canonical grid.

    Attributes:
        image: float32 ``(channel, z, y, x)``; channels that the case lacks are zero.
        present: for each channel, whether the case has it.
        spacing: mm, ``(z, y, x)``.
        geometry: of the first channel's file.
        label: integer ``(z, y, x)``, or None.
        mask: bool ``(z, y, x)``, or None.
        raters: what each rater asked for drew, likewise; None for one who did not draw the case.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", frozen=True)

    image: np.ndarray
    present: tuple[bool, ...]
    spacing: tuple[float, float, float]
    geometry: Geometry
    label: np.ndarray | None = None
    mask: np.ndarray | None = None
    raters: tuple[np.ndarray | None, ...] = ()


def load_case(
    case: Case, channels: tuple[str, ...] | list[str], with_label: bool = True, raters: Sequence[str] = ()
) -> LoadedCase:
    """Read the voxels of a case.

    Args:
        case: which files.
        channels: names of the channels wanted, in the order wanted.
        with_label: read the label map too, where there is one.
        raters: names of those whose label maps to read too, in the order wanted.

    Raises:
        AutosegError: a file is unreadable, or the files do not share one grid (both named).
    """
    arrays: list[np.ndarray | None] = []
    cache: dict[Path, Any] = {}
    first: Any = None
    first_path: Path | None = None
    for name in channels:
        source = case.channels.get(name)
        if source is None:
            arrays.append(None)
            continue
        if source.path not in cache:
            cache = {source.path: read_image(source.path)}
        image = cache[source.path]
        index = source.component or 0
        if index >= len(image.array):
            raise AutosegError(
                f"case {case.id}: {source.path} has {len(image.array)} channels; "
                f"channel {name} should be number {index}."
            )
        if first is None:
            first, first_path = image, source.path
        elif (difference := image.geometry.differs_from(first.geometry)) is not None:
            raise AutosegError(
                f"case {case.id}: {source.path} does not lie on the grid of {first_path} ({difference}); "
                "register or resample it first."
            )
        arrays.append(image.array[index].astype(np.float32))
    if first is None:
        raise AutosegError(f"case {case.id} has none of the channels {', '.join(channels)}.")
    shape = first.array.shape[1:]
    voxels = np.zeros((len(channels), *shape), np.float32)
    for index, array in enumerate(arrays):
        if array is not None:
            voxels[index] = array
    labels = [case.label if with_label else None, *(case.raters.get(name) for name in raters)]
    drawn = [
        None if path is None else np.rint(_load_map(case, path, first, first_path)).astype(np.int16) for path in labels
    ]
    mask = _load_map(case, case.mask, first, first_path) if case.mask is not None else None
    return LoadedCase(
        image=voxels,
        present=tuple(array is not None for array in arrays),
        spacing=first.spacing,
        geometry=first.geometry,
        label=drawn[0],
        mask=None if mask is None else mask > 0,
        raters=tuple(drawn[1:]),
    )


def _load_map(case: Case, path: Path, first: Any, first_path: Path | None) -> np.ndarray:
    image = read_image(path)
    difference = image.geometry.differs_from(first.geometry)
    if difference is not None:
        raise AutosegError(
            f"case {case.id}: {path} does not lie on the grid of {first_path} ({difference}); resample it first."
        )
    return np.asarray(image.array[0])
