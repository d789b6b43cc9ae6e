"""What is noticed about a dataset's labels as a whole: names in headers that disagree, structures without a mask."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from autoseg.data.description import Description, StructureMasks, label_files
from autoseg.data.segments import segment_names

#: Severity, file, what is wrong, what to do.
Remark = tuple[Literal["error", "warning"], Path | None, str, str]


def label_remarks(dataset: Description) -> Iterator[Remark]:
    """Contradictions between the labels of cases.

    A value that ``.seg.nrrd`` headers name otherwise from case to case is an error: values are then not what they seem
    to be. Names in headers other than the dataset's, and cases without a mask of a structure, are warnings.
    """
    yield from _segments(dataset)
    yield from _missing_masks(dataset)


def _segments(dataset: Description) -> Iterator[Remark]:
    first: dict[int, tuple[str, Path]] = {}
    files = [file for case in dataset.cases for file in (*label_files(case.label), *case.raters.values())]
    conflicts: dict[int, tuple[Path, str]] = {}
    for file in dict.fromkeys(files):
        for value, name in segment_names(file).items():
            known, _ = first.setdefault(value, (name, file))
            if known.casefold() != name.casefold():
                conflicts.setdefault(value, (file, name))
    for value, (file, name) in conflicts.items():
        known, other = first[value]
        what = f"its header calls the label value {value} {name}, that of {other.name} {known}"
        yield "error", file, what, "Give each structure the same value in every file."
    names = {value: name for name, value in dataset.labels.items()}
    for value, (name, file) in first.items():
        # A number says nothing; the proposed description takes it where a header names a value only by one.
        if value in names and value not in conflicts and names[value].casefold() != name.casefold():
            what = f"its header calls the label value {value} {name}, the dataset {names[value]}"
            yield "warning", file, what, "Make sure that both mean the same."


def _missing_masks(dataset: Description) -> Iterator[Remark]:
    masked = [case.label for case in dataset.cases if isinstance(case.label, StructureMasks)]
    lacking = Counter(name for label in masked for name in label.structures if name not in label.masks)
    for name, count in lacking.items():
        what = f"{count} of {len(masked)} cases have no mask of {name}; it is taken to be absent there"
        yield "warning", None, what, "Add the masks where it is there."
