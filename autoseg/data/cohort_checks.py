"""Problems of a dataset as a whole, which no case has alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoseg.data.dataset import Case, Dataset
from autoseg.data.description import label_files
from autoseg.data.fingerprint import Fingerprint
from autoseg.data.problems import CaseFindings, Problem
from autoseg.data.structure_masks import missing_masks
from autoseg.utils.text import listed


def contradictions(dataset: Dataset) -> list[Problem]:
    """Values of labels and regions that can't be told apart in a label map, or that there are none of."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, value in dataset.labels.items():
        names[value].append(name)
    found = []
    if dataset.cases and not dataset.labels:
        found.append(("the labels have no value but that of the background", "Name the values of the label maps."))
    for value, called in names.items():
        if value < 0:
            found.append((f"the label {called[0]} has the value {value}", "Give it a positive one, in the files, too."))
        if len(called) > 1 and not dataset.regions:
            found.append((f"{' and '.join(called)} have one value, {value}", "Keep one of the names."))
        if value == dataset.ignore_label:
            what = f"the label {called[0]} and the ignore label have one value, {value}"
            found.append((what, "Voxels are either left out or learned; take one of the two out."))
    found += [
        (f"the region {region} unites no label values", "List its values, or take it out.")
        for region, values in dataset.regions.items()
        if not values
    ]
    return [Problem("error", "", None, *said) for said in found]


def paths_twice(cases: Iterable[Case]) -> list[Problem]:
    """Files that are used twice."""
    used: dict[tuple[Path, int | None], list[tuple[str, str]]] = defaultdict(list)
    for case in cases:
        for name, source in case.channels.items():
            used[source.path, source.component].append((case.id, name))
        for path in {*label_files(case.label), *label_files(case.mask), *case.raters.values()}:
            used[path, -1].append((case.id, "label or mask"))
    problems = []
    for (path, _), places in used.items():
        for case_id, name in places[1:]:
            what = f"used as {name}, and as {places[0][1]} of {places[0][0]}, too"
            problems.append(Problem("error", case_id, path, what, "Give each its own file."))
    return problems


def duplicates(found: Iterable[CaseFindings]) -> list[Problem]:
    """Different files with identical voxels: one patient under two names would leak across a split.

    Two channels of one file may well be the same, as in a grey picture that was saved in colour.
    """
    first: dict[str, tuple[Case, str]] = {}
    problems = []
    for item in found:
        for name, digest in item.hashes.items():
            if digest not in first:
                first[digest] = (item.case, name)
                continue
            case, other = first[digest]
            mine, theirs = item.case.channels[name], case.channels[other]
            if (mine.path, mine.component) == (theirs.path, theirs.component):
                continue
            if case.id == item.case.id and mine.path == theirs.path:
                what, remedy = f"{name} has the same voxels as {other}", "Fine in grey pictures; else replace the file."
                problems.append(Problem("warning", item.case.id, mine.path, what, remedy))
            else:
                what = f"{name} has the same voxels as {other} of {case.id} ({theirs.path.name})"
                problems.append(Problem("error", item.case.id, mine.path, what, "Take one out, or replace it."))
    return problems


def differences(dataset: Dataset, found: Sequence[CaseFindings]) -> list[Problem]:
    """Properties that differ between cases: dimensions, orientation, voxel types, channels."""
    problems = []
    geometries = {item.case.id: item.geometry for item in found if item.geometry is not None}
    dimensions = Counter(f"{geometry.dimension}D" for geometry in geometries.values())
    if len(dimensions) > 1:
        what = f"flat images and volumes together: {_tally(dimensions)}"
        problems.append(Problem("error", "", None, what, "Make two datasets of them."))
    transparent = sum(item.alpha for item in found)
    if transparent:
        what = f"the pictures of {transparent} of {len(found)} cases hold an alpha channel, which is left out"
        problems.append(Problem("warning", "", None, what, "Right, unless what is transparent matters."))
    for name, count in missing_masks(case.label for case in dataset.cases).items():
        what = f"{count} of {len(dataset.cases)} cases have no mask of {name}; it is taken to be absent there"
        problems.append(Problem("warning", "", None, what, "Add the masks of cases that have the structure."))
    orientations = Counter(geometry.orientation for geometry in geometries.values() if geometry.orientation)
    if len(orientations) > 1:
        what = f"different orientations: {_tally(orientations)}"
        remedy = "They are brought to one; make sure that the files say theirs rightly."
        problems.append(Problem("warning", "", None, what, remedy))
    unmasked = [item.case.id for item in found if item.case.mask is None]
    if unmasked and len(unmasked) < len(found):
        what = f"{len(unmasked)} of {len(found)} cases lack the mask: {listed(unmasked, 3)}"
        remedy = "Add it; these cases are cropped to non-zero voxels, the others to the mask."
        problems.append(Problem("warning", "", None, what, remedy))
    absent = channels_of_no_case(dataset)
    for name in dataset.channels:
        types = Counter(item.types[name] for item in found if name in item.types)
        if len(types) > 1:
            what = f"different voxel types of {name}: {_tally(types)}"
            remedy = "They may come from different sources; make sure that their intensities are alike."
            problems.append(Problem("warning", "", None, what, remedy))
        lacking = [item.case.id for item in found if item.case.channels and name not in item.case.channels]
        if lacking and name not in absent:
            what = f"{len(lacking)} of {len(found)} cases lack {name}: {listed(lacking, 3)}"
            remedy = "Plan without this channel or add the files; else plans allow that it is missing."
            problems.append(Problem("warning", "", None, what, remedy))
    return problems


def stray_images(dataset: Dataset) -> list[Problem]:
    """Images that would be left out without a word."""
    problems = []
    for paths, why, remedy in (
        (dataset.strays, "belong to no case, by their names", "Name them like the others, or move them elsewhere."),
        (dataset.namesakes, "of the test set have the name of a training case, and are left out", "Rename them."),
    ):
        if paths:
            names = [f"{path.parent.name}/{path.name}" for path in paths]
            problems.append(Problem("warning", "", None, f"{len(names)} images {why}: {listed(names, 3)}", remedy))
    return problems


def absent_channels(dataset: Dataset) -> list[Problem]:
    """Channels that no labelled case has: a network would only ever see zeros there."""
    return [
        Problem(
            "error",
            "",
            None,
            f"no labelled case has {name}",
            "Correct its pattern, or the names of its files, or take it out, or plan with --channels, without it.",
        )
        for name in channels_of_no_case(dataset)
    ]


def channels_of_no_case(dataset: Dataset) -> list[str]:
    """Names of the channels that no labelled case has, where labelled cases have others."""
    cases = [case for case in dataset.cases if case.channels]
    return [name for name in dataset.channels if cases and not any(name in case.channels for case in cases)]


def _tally(counts: Counter[str]) -> str:
    return ", ".join(f"{key} in {count} case(s)" for key, count in counts.most_common())


def unseen_labels(dataset: Dataset, fingerprint: Fingerprint) -> list[Problem]:
    """Labels that no case has."""
    total: Counter[int] = Counter()
    for case in fingerprint.cases:
        total.update(case.label_voxels)
    unseen = [name for name, value in dataset.labels.items() if not total[value]]
    if unseen and len(unseen) == len(dataset.labels):
        what = f"every label map is empty: no case has any of {', '.join(unseen)}"
        return [Problem("error", "", None, what, "There is nothing to learn; replace the label maps.")]
    return [
        Problem(
            "warning",
            "",
            None,
            f"no case has the label {name} ({dataset.labels[name]})",
            "Take it out of the dataset's labels.",
        )
        for name in unseen
    ]
