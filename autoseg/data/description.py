"""Description: a dataset's channels, labels, regions and cases with their files, as a layout reads them."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autoseg.data.file_names import why_not_plain
from autoseg.data.label_maps import LARGEST_LABEL
from autoseg.utils.errors import AutosegError, UsageError

if TYPE_CHECKING:
    from typing import Self


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChannelFile(_Model):
    """File of one channel of one case.

    Attributes:
        path: the image file.
        component: which channel of the file, where a file holds several (4D volumes, RGB pictures).
    """

    path: Path
    component: int | None = None


class StructureMasks(_Model):
    """A label drawn as a binary mask a structure, each in a file of its own; they may overlap.

    :func:`autoseg.data.structure_masks.read_label_map` unites them.

    Attributes:
        structures: names of all structures of the dataset, in the order in which they are numbered.
        masks: structure → file; a structure without a file is absent from the case.
    """

    structures: tuple[str, ...]
    masks: dict[str, Path]

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return list(self.masks.values())

    def exists(self) -> bool:
        """Whether all files are there."""
        return all(path.exists() for path in self.masks.values())

    def __str__(self) -> str:
        """The folder, or file, that a message names."""
        paths = self.paths
        return str(paths[0] if len(paths) == 1 else paths[0].parent) if paths else "no mask"


#: Where a label is stored: one label map, or a mask a structure.
LabelSource = Path | StructureMasks


def label_files(source: LabelSource | None) -> list[Path]:
    """The files of a label."""
    if source is None:
        return []
    return source.paths if isinstance(source, StructureMasks) else [source]


class Case(_Model):
    """One exam: its channels by name, and for training its label file(s).

    Attributes:
        id: unique in the dataset; results are named after it.
        channels: channel name → file. A channel that the case lacks is absent.
        label: the label map to train from (or the masks that are united to one), or None for a case to predict.
        raters: rater name → label map, if several people annotated the case; ``label`` is then the first of them, or
            another map that the dataset names.
        mask: voxels outside are background for cropping and normalization.
        group: cases of the same group (one patient's exams) are never on both sides of a split.
    """

    id: str
    channels: dict[str, ChannelFile]
    label: LabelSource | None = None
    raters: dict[str, Path] = Field(default_factory=dict)
    mask: Path | None = None
    group: str = ""

    @property
    def patient(self) -> str:
        """Whose exam it is: its group, or the case itself where it has none."""
        return self.group or self.id

    @property
    def has_scans(self) -> bool:
        """Whether the files of all its channels are there."""
        return all(channel.path.exists() for channel in self.channels.values())

    @property
    def files(self) -> list[Path]:
        """Every file of the case, each once."""
        paths = [channel.path for channel in self.channels.values()]
        paths += [*label_files(self.label), *([] if self.mask is None else [self.mask]), *self.raters.values()]
        return list(dict.fromkeys(paths))


class Description(_Model):
    """A dataset on disk, independent of its layout.

    Attributes:
        name: of the dataset.
        root: folder (or CSV) it was read from.
        layout: name of the layout that it was read as (:mod:`autoseg.data.layouts`).
        channels: channel names, in the dataset's order.
        modalities: channel name → modality in the dataset's words (``MRI``, ``CT``), where it has one.
        labels: label name → value, without the background (0) and without the ignore label.
        regions: region name → the label values it unites; empty where labels are the targets.
        ignore_label: a value whose voxels are left out of training and evaluation.
        cases: labelled cases.
        unlabelled: cases that are not learned from: those without a label, and a test set's, which may have one.
        file_ending: ending of the label files, and so of results (``.nii.gz``).
        preparation: how the cases were made of raw exams (``autoseg prepare``), so that others can be made alike.
        strays: images beside those of the cases that belong to none by their names; not stored with the dataset.
        namesakes: scans of the test set that are left out, as a training case has their name; not stored, either.
        question: what files leave open about the meaning of labels, with the options that say it; "" where nothing.
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
    preparation: dict[str, Any] | None = None
    strays: tuple[Path, ...] = Field(default=(), exclude=True)
    namesakes: tuple[Path, ...] = Field(default=(), exclude=True)
    question: str = ""

    @property
    def labelled_test_cases(self) -> tuple[Case, ...]:
        """Cases of the dataset's own test set whose labels are there, too."""
        return tuple(case for case in self.unlabelled if case.label is not None)

    @property
    def known_values(self) -> set[int]:
        """Values that its label maps may have: the background, the labels' and the ignore label."""
        ignored = () if self.ignore_label is None else (self.ignore_label,)
        return {0, *self.labels.values(), *ignored}

    def refuse_question(self) -> None:
        """Refuse to use labels whose meaning the files leave open.

        Raises:
            UsageError: names the options that say it.
        """
        if self.question:
            raise UsageError(self.question)

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
        counts = Counter(case.id for case in (*self.cases, *self.unlabelled))
        for name in counts:
            why = why_not_plain(name)
            if why is not None:
                raise ValueError(f"{name!r} can't be a case's name, since results are named after it: {why}; rename it")
        large = [name for name, value in self.labels.items() if value > LARGEST_LABEL]
        if large:
            raise ValueError(
                f"label {large[0]} has the value {self.labels[large[0]]}; the largest possible one is {LARGEST_LABEL}"
            )
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise ValueError(f"several cases are called {', '.join(twice)}; rename all but one")
        return self

    def case(self, case_id: str) -> Case:
        """The labelled or unlabelled case of this name.

        Raises:
            AutosegError: there is none.
        """
        for case in (*self.cases, *self.unlabelled):
            if case.id == case_id:
                return case
        raise AutosegError(f"the dataset {self.name} has no case {case_id}.")
