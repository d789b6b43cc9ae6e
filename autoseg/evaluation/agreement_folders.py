"""Measure the agreement of annotations: find the label maps, and compare them pair by pair, several cases at a time."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoseg.data.dataset import Dataset
from autoseg.data.file_names import image_ending, result_ending
from autoseg.data.image import write_image
from autoseg.data.result_files import refuse_replacing
from autoseg.evaluation.agreement import CONSENSUS, Agreement, PairRow, pairs_of
from autoseg.evaluation.cases import LabelGroup, Structure, evaluate_arrays, grid_difference, read_labels
from autoseg.evaluation.consensus import Consensus, check_method, consensus_of
from autoseg.evaluation.folders import dataset_structures, found_structures, label_maps, open_dataset
from autoseg.evaluation.metric import METRICS
from autoseg.evaluation.naming import Inputs, name_inputs
from autoseg.evaluation.protocol import AGREEMENT_WORKERS, EvaluationProtocol
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, refuse_unwritable_folder, write_json
from autoseg.utils.parallel import refuse_no_workers
from autoseg.utils.progress import say, track

#: The name of the case where each rater is a single file, and the files have different names.
ONE_CASE = "case"

#: File in the folder of consensus label maps that names them.
_CONSENSUS_MADE = "consensus.json"

#: Rater (or model) → case → label map.
Maps = dict[str, dict[str, Path]]


def agreement(
    raters: Inputs | Sequence[str | Path] | str | Path | Dataset,
    *,
    models: Inputs | Sequence[str | Path] | str | Path = (),
    targets: Sequence[LabelGroup] | None = None,
    protocol: EvaluationProtocol = EvaluationProtocol(),
    consensus: Consensus | None = None,
    out: str | Path | None = None,
    workers: int = AGREEMENT_WORKERS,
) -> Agreement:
    """Measure how far raters agree, and models with them.

    Args:
        raters: two or more folders of label maps named after their cases, or single label maps, by name or as paths
            (``NAME=PATH``); or one dataset (or its folder) whose cases name their raters.
        models: folders of predictions (or single ones), likewise.
        targets: what to measure; None for the dataset's labels and regions, or all label values found.
        protocol: which metrics (symmetric ones; the Dice where none are named), and by which conventions; where it
            ignores no label, the dataset's ignore label (if any) is ignored.
        consensus: unite the raters of each case, and measure raters and models against that, too.
        out: folder for ``agreement.csv``, ``agreement.json`` (with the test of models by the first metric) and the
            ``consensus`` label maps; None to write nothing.
        workers: cases at a time.

    Raises:
        AutosegError: files are missing, unreadable, or not on one grid; or no case has two raters.
        UsageError: wrong options, or a file lies where a consensus label map would, and is none.
    """
    if out is not None:
        refuse_unwritable_folder(out)
    check_method(consensus)
    metrics = ("dice",) if protocol.metrics is None else protocol.metrics
    for metric in metrics:
        if not METRICS.find(metric).symmetric:
            symmetric = [name for name in METRICS if METRICS.find(name).symmetric]
            raise UsageError(f"--metrics {metric} asks which of two raters is right; choose of {', '.join(symmetric)}.")
    refuse_no_workers(workers)
    maps, structures, ignore, alone = _raters(raters)
    protocol = replace(protocol, metrics=metrics).with_ignore(ignore)
    given = _single(name_inputs(models))
    predicted = {name: label_maps(path) for name, path in given.items()}
    for name in predicted:
        if name in maps or name == CONSENSUS:
            raise UsageError(f"{name} is the name of a rater, too; give the model another: --model NAME=PATH.")
    if CONSENSUS in maps and consensus:
        raise UsageError(f"a rater is called {CONSENSUS}; give it another name: NAME=PATH.")
    if alone and all(path.is_file() for path in given.values()):
        _name_the_only_case(maps, predicted)
    cases = _cases(maps, predicted)
    targets = list(targets or structures)
    if not targets:
        files = [files[case] for files in maps.values() for case in cases if case in files]
        targets = list(found_structures(files, protocol.ignore, workers))
    if not targets:
        raise AutosegError("the raters' label maps are all empty; there is nothing to agree on.")
    wanted = _Wanted(tuple(targets), protocol, consensus, None if out is None else Path(out))
    if consensus and out is not None:
        firsts = {case: next(files[case] for files in maps.values() if case in files) for case in cases}
        _note_consensus(Path(out), [_consensus_path(Path(out), *item) for item in firsts.items()])
    found = _measured(maps, predicted, cases, wanted, workers)
    if out is not None:
        found.write(out, found.comparison(metrics[0]) if predicted else None)
    return found


def dice_agreement(raters: Maps, models: Maps, targets: Sequence[LabelGroup], ignore: int | None = None) -> Agreement:
    """The Dice of label maps whose files are known: every rater with every other, every model with every rater.

    Args:
        raters: rater → case → label map; a case may have one rater only, who then agrees with models alone.
        models: model → case → label map.
        targets: what to measure.
        ignore: voxels to which a rater gave this label do not count.

    Raises:
        AutosegError: a file is unreadable, or those of a case are not on one grid.
    """
    cases = list(dict.fromkeys(case for files in raters.values() for case in files))
    wanted = _Wanted(tuple(targets), EvaluationProtocol(ignore=ignore, metrics=("dice",)), None, None)
    return _measured(raters, models, cases, wanted, AGREEMENT_WORKERS)


def _measured(maps: Maps, predicted: Maps, cases: Sequence[str], wanted: "_Wanted", workers: int) -> Agreement:
    def one(case: str) -> list[PairRow]:
        own = {name: files[case] for name, files in maps.items() if case in files}
        return _measure_case(case, own, {n: files[case] for n, files in predicted.items() if case in files}, wanted)

    pool = ThreadPoolExecutor(workers)
    try:
        rows = [row for found in track(pool.map(one, cases), "measuring agreement", len(cases)) for row in found]
    finally:
        pool.shutdown(cancel_futures=True)
    names = tuple(target.name for target in wanted.targets)
    metrics = wanted.protocol.metrics or ()
    return Agreement(tuple(rows), tuple(maps), tuple(predicted), names, metrics, wanted.consensus)


@dataclass(frozen=True)
class _Wanted:
    targets: tuple[LabelGroup, ...]
    protocol: EvaluationProtocol
    consensus: Consensus | None
    out: Path | None


def _measure_case(case: str, raters: dict[str, Path], models: dict[str, Path], wanted: _Wanted) -> list[PairRow]:
    loaded = {name: read_labels(path) for name, path in (raters | models).items()}
    files = raters | models
    first = next(iter(raters))
    image = loaded[first][1]
    for name, (_, other) in loaded.items():
        difference = grid_difference(other, image)
        if difference is not None:
            raise AutosegError(
                f"case {case}: {files[name]} does not lie on the grid of {files[first]} ({difference}); "
                "resample it first."
            )
    labels = {name: array for name, (array, _) in loaded.items()}
    ignored = np.zeros(labels[first].shape, bool)
    ignore = wanted.protocol.ignore
    if ignore is not None:
        ignored = np.any([labels[name] == ignore for name in raters], axis=0)
        labels = {name: np.where(ignored, 0, array) for name, array in labels.items()}
    if wanted.consensus:
        labels[CONSENSUS] = consensus_of([labels[name] for name in raters], wanted.consensus)
        if wanted.out:
            united = np.where(ignored, ignore or 0, labels[CONSENSUS])
            path = _consensus_path(wanted.out, case, files[first])
            write_image(path, united.astype(_smallest_type(united)), image.geometry)
    rows = []
    if ignore is not None:  # of no mask, and no background either
        labels = {name: np.where(ignored, ignore, array) for name, array in labels.items()}
    for pair in pairs_of(list(raters), list(models), wanted.consensus is not None):
        a, b = (labels[name] for name in pair)
        found = evaluate_arrays(a, b, image.spacing, wanted.targets, wanted.protocol)
        rows += [PairRow(case, *pair, target, values) for target, values in found.items()]
    return rows


def _consensus_path(out: Path, case: str, first: Path) -> Path:
    """File of a case's consensus label map, in the format of its first rater's."""
    return out / "consensus" / f"{case}{result_ending(image_ending(first))}"


def _note_consensus(out: Path, files: Sequence[Path]) -> None:
    """Note which label maps are about to be made, and refuse to replace any that were not made so."""
    folder = out / "consensus"
    names = set()
    if (folder / _CONSENSUS_MADE).is_file():
        names = set(read_json(folder / _CONSENSUS_MADE)["files"])
    elif (out / "agreement.json").is_file() and read_json(out / "agreement.json").get("consensus"):
        names = {path.name for path in files}  # of an earlier version, which noted no more
    refuse_replacing(out, files, {folder / name for name in names})
    write_json(folder / _CONSENSUS_MADE, {"files": sorted({*names, *(path.name for path in files)})})


def _smallest_type(labels: np.ndarray) -> np.dtype:
    return np.result_type(np.min_scalar_type(int(labels.min())), np.min_scalar_type(int(labels.max())))


def _raters(
    given: Inputs | Sequence[str | Path] | str | Path | Dataset,
) -> tuple[Maps, list[Structure], int | None, bool]:
    """Rater → case → file; a dataset's structures and ignore label; and whether each rater was given as one file."""
    if isinstance(given, str | Path):
        given = [given]
    if not isinstance(given, Dataset | Mapping) and len(given) == 1:
        dataset = open_dataset(Path(given[0]))
        if dataset is None:
            raise UsageError(f"{given[0]} is one rater, and no dataset with several; give two or more.")
        given = dataset
    if not isinstance(given, Dataset):
        paths = _single(name_inputs(given))
        found = {name: label_maps(path) for name, path in paths.items()}
        if len(found) < 2:
            raise UsageError("there is nobody to agree with; give two or more raters.")
        return found, [], None, all(path.is_file() for path in paths.values())
    names = dict.fromkeys(rater for case in given.cases for rater in case.raters)
    if len(names) < 2:
        raise AutosegError(
            f"{given.root} names no raters of its cases; name them in its autoseg.toml, or give a folder a rater."
        )
    maps = {name: {case.id: case.raters[name] for case in given.cases if name in case.raters} for name in names}
    return maps, dataset_structures(given), given.ignore_label, False


def _single(named: dict[str, list[Path]]) -> dict[str, Path]:
    for name, paths in named.items():
        if len(paths) != 1:
            raise UsageError(f"{name} has {len(paths)} paths; give one folder or label map.")
    return {name: paths[0] for name, paths in named.items()}


def _name_the_only_case(raters: Maps, models: Maps) -> None:
    """Where everybody was given as one file, it is of the same case, whatever the files are called."""
    everyone = [*raters.values(), *models.values()]
    names = {case for files in everyone for case in files}
    case = names.pop() if len(names) == 1 else ONE_CASE
    for files in everyone:
        files[case] = files.pop(next(iter(files)))


def _cases(raters: Maps, models: Maps) -> list[str]:
    """Cases with two raters or more, in the order found; what is left out is said."""
    everyone = dict.fromkeys(case for files in raters.values() for case in files)
    cases = [case for case in everyone if sum(case in files for files in raters.values()) > 1]
    if not cases:
        raise AutosegError(
            "no case has two raters; the label maps of a case must have the same name in each rater's folder."
        )
    if len(cases) < len(everyone):
        say(f"{len(everyone) - len(cases)} of {len(everyone)} cases have one rater only, left out.")
    for name, files in models.items():
        missing = sum(case not in files for case in cases)
        if missing == len(cases):
            raise AutosegError(f"{name} has no label map of any of the raters' cases; name them like the raters'.")
        if missing:
            say(f"{name} has no label map of {missing} of {len(cases)} cases; they are left out of its figures.")
    return cases
