"""Where a fine-tuning begins, of a source with several folds: with what segments the training cases best.

Candidates are the source's folds, and the average of their weights (model soups, Wortsman et al. 2022), which is taken
only where it is better than each of them: folds that were trained apart seldom have a good one. They are compared on a
fold's training cases, never on those that it is scored on; ``start.json`` in its folder says what was taken.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoseg.inference.variant_choice import inference_variant
from autoseg.networks.weights import identity_of, load_network, load_weights, save_weights
from autoseg.plans.stage import Stage
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.fold import Fold
from autoseg.runs.weight_files import read_metadata
from autoseg.training.validation import evenly_chosen, validation_scores
from autoseg.transfer.tensors import fitted_source
from autoseg.utils.digest import digest
from autoseg.utils.files import read_json_table, write_json

#: File in a fold's folder: what its tuning starts from.
START = "start.json"

#: Stands for the average of the folds' weights, among the names of their files.
FOLDS_AVERAGE = "average"


@dataclass(frozen=True)
class SourceStart:
    """What a fold's tuning starts from.

    Attributes:
        taken: name of the source's file in the run folder, or :data:`FOLDS_AVERAGE`.
        dice: the same of each candidate, in order → mean Dice; empty where nothing was compared.
        cases: training cases that it was measured on.
        seconds: that this took.
        before: whether it was done in an earlier process.
    """

    taken: str
    dice: dict[str, float]
    cases: list[str]
    seconds: float
    before: bool = False

    def __str__(self) -> str:
        """For the log."""
        if not self.dice:
            return "the tuning starts from the source's first fold: there is no time to compare them"
        folds = {name: dice for name, dice in self.dice.items() if name != FOLDS_AVERAGE}
        number = list(self.dice).index(self.taken) + 1
        what = "the average" if self.taken == FOLDS_AVERAGE else f"number {number}"
        what += f" of the source's {len(folds)} folds"
        measured = (
            f"{', '.join(f'{dice:.3f}' for dice in folds.values())}, their average {self.dice[FOLDS_AVERAGE]:.3f}"
        )
        return f"the tuning starts from {what}: mean Dice on {len(self.cases)} training cases {measured}"


def candidates(stage: Stage) -> int:
    """How many networks a tuning may start from; 1 where the plan names it."""
    start = stage.recipe.initialization
    return 1 if start.begin == "fold" else len(start.ensemble) + 1


def choose_start(fold: Fold, cases: Sequence[StoredCase], count: int, device: torch.device) -> SourceStart | None:
    """Choose what a fold's tuning starts from, unless that was done.

    Args:
        fold: to tune.
        cases: that it learns from.
        count: how many of them may be predicted, evenly chosen; 0 takes the fold of the source that the plan names.
        device: to compute on.

    Returns:
        The choice; None where the plan leaves none.
    """
    stage, start = fold.stage, fold.stage.recipe.initialization
    if candidates(stage) == 1:
        return None
    path, made_of = fold.folder / START, _made_of(stage, cases)
    known = read_json_table(path)
    if known.get("made_of") == made_of:
        parts = (known["taken"], known["dice"], known["cases"], known["seconds"])
        return SourceStart(*parts, before=True)
    began = time.monotonic()
    chosen = evenly_chosen(cases, count)
    dice: dict[str, float] = {}
    if chosen:
        folds = fitted_source(stage, fold.run.path, fold.run.source_folder(stage))
        average = fitted_average(stage, fold.run.path, fold.run.source_folder(stage))
        for name, file in zip((*start.ensemble, FOLDS_AVERAGE), (*folds, average), strict=True):
            dice[name] = _mean_dice(file, chosen, stage, device)
    # The first of the best: the average comes last, and must be better.
    taken = max(dice, key=lambda name: dice[name]) if dice else start.file
    found = SourceStart(taken, dice, [case.id for case in chosen], time.monotonic() - began)
    parts_of_json = {"taken": taken, "dice": dice, "cases": found.cases, "seconds": found.seconds}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"made_of": made_of, **parts_of_json})
    return found


def start_file(fold: Fold) -> Path:
    """The weights that a fold's tuning starts from, fitted to its stage; those that the plan names unless chosen.

    Raises:
        AutosegError: a file of the source is gone or damaged.
    """
    stage, start = fold.stage, fold.stage.recipe.initialization
    taken = read_json_table(fold.folder / START).get("taken") if start.begin == "best" else None
    folder = fold.run.source_folder(stage)
    if taken == FOLDS_AVERAGE:
        return fitted_average(stage, fold.run.path, folder)
    name = taken if taken in start.ensemble else start.file
    return fitted_source(stage, fold.run.path, folder)[start.ensemble.index(name)]


def fitted_average(stage: Stage, run: Path, folder: Path) -> Path:
    """The mean of the weights of a source's folds, fitted to a stage; written where it is not there yet.

    Args:
        stage: whose network it is for; its recipe names the source's files.
        run: folder in which these lie.
        folder: of the file to write.
    """
    path = folder / f"{FOLDS_AVERAGE}.safetensors"
    start = stage.recipe.initialization
    metadata = {**identity_of(stage), "source": digest(start.ensemble), "names": start.names}
    if read_metadata(path) != metadata:
        folds = [load_weights(file) for file in fitted_source(stage, run, folder)]
        mean = {
            name: torch.stack([each[name] for each in folds]).mean(0) if tensor.is_floating_point() else tensor
            for name, tensor in folds[0].items()
        }
        save_weights(path, mean, metadata)
    return path


def _mean_dice(weights: Path, cases: Sequence[StoredCase], stage: Stage, device: torch.device) -> float:
    """Mean over outputs of the mean over cases, without test-time augmentation; 0 where it is undefined."""
    network = load_network(weights, stage, device)
    variant = inference_variant(stage, device)
    variant.prepare(network)
    found = validation_scores(network, cases, stage, device, variant.dtype).dice.values()
    means = [np.nanmean(values) for values in found if np.any(np.isfinite(values))]
    return float(np.mean(means)) if means else 0.0


def _made_of(stage: Stage, cases: Sequence[StoredCase]) -> str:
    """A fingerprint of all that the choice depends on."""
    start, contents = stage.recipe.initialization, [[case.id, case.content] for case in cases]
    return digest([start.ensemble, stage.identity, contents, *start.names_part])
