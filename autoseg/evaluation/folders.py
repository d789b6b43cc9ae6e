"""Evaluate a folder of predictions: which file belongs to which reference, and what there is to measure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from autoseg.data.counts import value_counts
from autoseg.data.dataset import Dataset
from autoseg.data.description import LabelSource
from autoseg.data.file_names import images_in, stem
from autoseg.data.layouts.layout import recognise_layout
from autoseg.data.result_files import PREDICTIONS, results_in, told_in, without_disowned
from autoseg.evaluation.cases import LabelGroup, Structure, evaluate_pairs, read_labels
from autoseg.evaluation.protocol import WORKERS, EvaluationProtocol
from autoseg.evaluation.summary import Evaluation
from autoseg.plans.plan import Plan
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import refuse_unwritable_folder
from autoseg.utils.progress import say
from autoseg.utils.text import listed

#: Names listed in a message before the rest is counted.
_LISTED = 10


def evaluate(
    predictions: str | Path,
    references: str | Path | Dataset,
    *,
    out: str | Path | None = None,
    targets: Sequence[LabelGroup] | None = None,
    protocol: EvaluationProtocol = EvaluationProtocol(),
    partial: bool = False,
    workers: int = WORKERS,
) -> Evaluation:
    """Evaluate predicted label maps.

    Args:
        predictions: folder of label maps named after their cases (``CASE.nii.gz``), or one file.
        references: folder of label maps named likewise, a dataset (or its folder) in any layout, or one file. Of a
            dataset, its labelled cases, or its labelled test cases where no prediction is of the former.
        out: folder for ``metrics.csv``, ``summary.csv`` and ``summary.json``; None to write nothing.
        targets: what to measure; None for the dataset's labels and regions, or all label values found.
        protocol: which metrics, and by which conventions; where it ignores no label, the dataset's ignore label is
            ignored, if there is one.
        partial: evaluate the predictions that are there; otherwise every reference needs one.
        workers: cases at a time.

    Returns:
        The values of every case and target, and their summary.

    Raises:
        AutosegError: files are missing, unreadable, or do not lie on their references' grids, or a dataset has other
            values than the predictions for a structure.
        UsageError: wrong options.

    Example:
        >>> evaluation = evaluate("predictions", "dataset/labelsTr")  # doctest: +SKIP
        >>> evaluation.mean("dice")  # doctest: +SKIP
        0.891
    """
    if out is not None:
        refuse_unwritable_folder(out)
    if isinstance(references, str | Path):
        references = open_dataset(Path(references)) or Path(references)
    predictions = Path(predictions)
    predicted = label_maps(predictions)
    files: Mapping[str, LabelSource]
    if isinstance(references, Dataset):
        files = _labels_for(predicted, references)
        where = str(references.root)
        protocol = protocol.with_ignore(references.ignore_label)
        if targets is None:
            targets = dataset_structures(references)
            refuse_other_meaning(predictions, targets, where)
    else:
        files, where = label_maps(references), str(references)
    if predictions.is_file() and len(files) == 1:
        case, only = _case_id(predictions), next(iter(files))
        if case != only and where != str(files[only]):  # two files may be called as one likes
            say(f"{predictions} is compared with {only}, the only case of {where}.")
        pairs = [(case, predictions, files[only])]
    else:
        pairs = match(predicted, files, str(predictions), where, partial)
    if targets is None:
        targets = found_structures((path for _, *files in pairs for path in files), protocol.ignore, workers)
    return evaluate_pairs(pairs, targets, out, protocol, workers)


def _labels_for(predicted: Collection[str], references: Dataset) -> dict[str, LabelSource]:
    """Case → label of a dataset's labelled cases, or of its test cases where these are what was predicted."""
    learned, tested = (
        {case.id: case.label for case in cases if case.label is not None}
        for cases in (references.cases, references.labelled_test_cases)
    )
    if learned.keys() & set(predicted) or not tested.keys() & set(predicted):
        return learned
    say(f"The predictions are of the test set of {references.root}, with whose labels they are compared.")
    return tested


def label_maps(path: Path, more: Mapping[str, Path] = MappingProxyType({})) -> dict[str, Path]:
    """Case name → file, for a folder of label maps or a single one.

    Of a folder that predictions were written to, without what another model left there
    (:func:`autoseg.data.result_files.without_disowned`).

    Args:
        path: of the folder, or the file.
        more: case → file, of files in the folder that count as well and are no images, as DICOM-SEG; where a case has
            both, the image is taken.

    Raises:
        AutosegError: nothing there, no image in it, two files of one case, or nothing but another model's results.
    """
    if path.is_file():
        return {_case_id(path): path}
    if not path.is_dir():
        raise AutosegError(f"{path} does not exist.")
    found: dict[str, Path] = {}
    for file in images_in(path):
        case = _case_id(file)
        if case in found:
            raise AutosegError(f"{path} has two files of case {case} ({found[case].name}, {file.name}); remove one.")
        found[case] = file
    if not (found := {**more, **found}):
        raise AutosegError(f"{path} has no label maps; it should hold one image a case, named CASE.nii.gz or likewise.")
    if not (kept := without_disowned(path, found)):
        raise AutosegError(
            f"{path} holds nothing but results of which its {PREDICTIONS} says nothing; predict the cases again."
        )
    return kept


def match(
    predictions: dict[str, Path],
    references: Mapping[str, LabelSource],
    folder: str,
    where: str,
    partial: bool = False,
) -> list[tuple[str, Path, LabelSource]]:
    """Put predictions and references of the same case together, in the references' order.

    Args:
        predictions: case name → file.
        references: case name → file.
        folder: of the predictions, for messages.
        where: the references are, for messages.
        partial: leave out references without a prediction; otherwise each needs one.

    Returns:
        Case name, prediction, reference.

    Raises:
        AutosegError: predictions are missing, or no case has both.
    """
    both = [case for case in references if case in predictions]
    missing = [case for case in references if case not in predictions]
    extra = [case for case in predictions if case not in references]
    if not both:
        raise AutosegError(
            f"no file in {folder} is named after a case of {where} (found {listed(predictions, _LISTED)}; "
            f"expected {listed(references, _LISTED)}); name predictions CASE.nii.gz or likewise."
        )
    if missing and not partial:
        raise AutosegError(
            f"{folder} lacks predictions of {len(missing)} of {len(references)} cases: "
            f"{listed(missing, _LISTED)}; predict them, or give --partial to evaluate what is there."
        )
    if missing:
        say(f"{len(missing)} of {len(references)} cases have no prediction, left out: {listed(missing, _LISTED)}.")
    if extra:
        say(f"{len(extra)} predictions have no reference, left out: {listed(extra, _LISTED)}.")
    return [(case, predictions[case], references[case]) for case in both]


def dataset_structures(dataset: Dataset) -> list[Structure]:
    """A dataset's labels, then its regions; a label with a region's name, or its values, is listed as the region."""
    dataset.refuse_question()
    regions = [Structure(name, tuple(values)) for name, values in dataset.regions.items()]
    alone = {region.values[0] for region in regions if len(region.values) == 1}
    labels = [
        Structure(name, (value,))
        for name, value in dataset.labels.items()
        if value not in alone and name not in dataset.regions
    ]
    return labels + regions


def plan_structures(plan: Plan, dataset: Dataset) -> list[Structure]:
    """A model's outputs, and the dataset's other labels or regions that its label maps can tell apart."""
    outputs = [Structure(output.name, tuple(output.values)) for output in plan.target.outputs]
    covered = {value for output in outputs for value in output.values}
    painted = {output.paint for output in plan.target.outputs}
    known = {frozenset(output.values) for output in outputs}
    names = {output.name for output in outputs}
    more = []
    if covered <= painted:  # every label of the outputs appears in a predicted label map
        for structure in dataset_structures(dataset):
            values = frozenset(structure.values)
            if values <= covered and values not in known and structure.name not in names:
                more.append(structure)
    return [*more, *outputs] if plan.target.kind == "regions" else [*outputs, *more]


def refuse_other_values(references: Dataset, dataset: Dataset) -> None:
    """Refuse references whose labels have other values than those of the same name that a model learned.

    Two editions of a challenge may number their labels differently, and label maps are compared by number. Where files
    leave open what references' labels mean, nothing is refused.

    Args:
        references: to evaluate with.
        dataset: that the model was trained on.

    Raises:
        AutosegError: names the labels and their values in both.
    """
    other = sorted(name for name, value in dataset.labels.items() if references.labels.get(name, value) != value)
    if other and not references.question:
        theirs, ours = (", ".join(f"{name} {part.labels[name]}" for name in other) for part in (references, dataset))
        raise AutosegError(
            f"{references.root} has the labels {theirs} and the training data {dataset.name} {ours}; label maps are "
            "compared by value, so evaluate with references that have the values of the training data."
        )


def refuse_other_meaning(predictions: Path, targets: Sequence[LabelGroup], where: str) -> None:
    """Refuse predictions of which ``predictions.json`` says that a structure has other values than it is measured by.

    As with the label values of another challenge, or where masks of a model's many structures were numbered. Values
    that no prediction has tell nothing: a region alone is painted with one value, whatever it is made of.

    Args:
        predictions: folder of label maps, or one of them.
        targets: what is measured.
        where: their values are from, for the message.

    Raises:
        AutosegError: names the structures and their values in both.
    """
    folder = predictions if predictions.is_dir() else predictions.parent
    if folder != predictions and predictions not in results_in(folder):
        return
    told = told_in(folder)
    meant, painted = ({} if not isinstance(one, dict) else one for one in map(told.get, ("structures", "outputs")))
    seen = set(painted.values()) or {value for values in meant.values() for value in values}
    ours = {target.name: target.values for target in targets if target.name in meant}
    other = [name for name, values in ours.items() if seen & {*values} != seen & {*meant[name]}]
    if other:
        theirs, asked = (
            ", ".join(f"{name} {'+'.join(map(str, values[name]))}" for name in other) for values in (meant, ours)
        )
        raise AutosegError(
            f"{folder / PREDICTIONS} says that the predictions have {theirs}, and {where} has {asked}; label maps are "
            "compared by value, so predict with the values of the references, or evaluate with references that have "
            "those of the predictions."
        )


def parse_structures(text: str) -> list[Structure]:
    """Parse ``--labels``: ``edema=2,whole=1+2+4``.

    Raises:
        UsageError: it is not of that form, or names something twice.
    """
    structures: list[Structure] = []
    for item in text.split(","):
        name, separator, values = item.strip().partition("=")
        try:
            if not (name and separator):
                raise ValueError
            structures.append(Structure(name.strip(), tuple(int(value) for value in values.split("+"))))
        except ValueError:
            raise UsageError(
                f"--labels {text}: '{item.strip()}' is not of the form name=value (or name=value+value for a region)."
            ) from None
    names = [structure.name for structure in structures]
    for structure in structures:
        if names.count(structure.name) > 1:
            raise UsageError(f"--labels {text} names {structure.name} twice; give each a name of its own.")
        if min(structure.values) < 1:
            raise UsageError(f"--labels {text}: {structure.name} has a value below 1; 0 is the background.")
    return structures


def found_structures(paths: Iterable[LabelSource], ignore: int | None, workers: int) -> list[Structure]:
    """Every label value in any of the files."""
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        values = set().union(*pool.map(lambda path: set(value_counts(read_labels(path)[0])), paths))
    return [Structure(f"label {value}", (value,)) for value in sorted(values) if value > 0 and value != ignore]


def open_dataset(path: Path) -> Dataset | None:
    """The dataset at ``path``, or None where no layout recognises one: a folder of label maps."""
    if not path.exists():
        raise AutosegError(f"{path} does not exist.")
    return None if recognise_layout(path) is None else Dataset.open(path)


def _case_id(path: Path) -> str:
    name = stem(path)
    # 3D Slicer saves the segmentation of case.nrrd as case.seg.nrrd.
    return name.removesuffix(".seg") if path.name.lower().endswith(".seg.nrrd") else name
