"""Fine-tuning that never loses: the source scored beside the tuned networks, on cases that neither was trained on.

In a fold's folder ``source/`` has the source's predictions of its validation cases, ``tuned.safetensors`` the tuned
weights, and ``shares/<share>/`` the predictions of each share of the source's weights that was tried. How much is kept
is chosen by all folds that are done (:mod:`autoseg.transfer.share_choice`), anew when another one is; a case is scored
by a share that it did not choose.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.crossvalidation.fold_validation import validate_with
from autoseg.crossvalidation.folds import folds_of_plan
from autoseg.data.file_names import result_ending
from autoseg.evaluation.summary import Evaluation
from autoseg.networks.weights import load_weights, read_metadata, save_weights
from autoseg.plans.stage import Stage
from autoseg.runs.fold import Fold
from autoseg.runs.run import SOURCE_SHARE
from autoseg.runs.splits import make_splits
from autoseg.transfer.share_choice import SOURCE, TRIED_SHARES, Scores, ShareChoice, choose_share, share_for_each
from autoseg.transfer.tensors import fitted_source
from autoseg.utils.digest import digest
from autoseg.utils.files import atomic, read_json, write_json

#: Share of the source where a single patient leaves nothing to choose it by (half, as Wortsman et al. 2022).
UNKNOWN = 0.5

#: File beside the source's predictions: what they were made of.
_SCORED = "scored.json"


@dataclass(frozen=True)
class Half(Fold):
    """Training on one half of a cohort and validating on the other, where a fold learns from all cases.

    Attributes:
        half: 0 or 1.
    """

    half: int = 0

    def __str__(self) -> str:
        """``half 1 of fold 0 of 3d_fullres``."""
        return f"half {self.half} of {super().__str__()}"

    @property
    def folder(self) -> Path:
        """Inside the fold's."""
        return super().folder / f"half_{self.half}"

    @property
    def training_cases(self) -> list[str]:
        """Those of the other half."""
        return self._split["train"]

    @property
    def validation_cases(self) -> list[str]:
        """Of its own half."""
        return self._split["validation"]

    @property
    def _split(self) -> dict[str, list[str]]:
        return make_splits(self.run.dataset, 2, seed=self.number)[self.half]


def halves(fold: Fold) -> list[Half]:
    """The two halves on which the share for a fold without validation cases is chosen; none for a single patient."""
    groups = {case.group or case.id for case in fold.run.dataset.cases}
    if not chooses(fold.stage) or fold.validation_cases or isinstance(fold, Half) or len(groups) < 2:
        return []
    return [Half(fold.run, fold.stage, fold.number, half) for half in (0, 1)]


def chooses(stage: Stage) -> bool:
    """Whether the share of the source's weights is chosen on held-out cases."""
    return stage.recipe.initialization.keep == "auto"


def score_source(fold: Fold, device: torch.device) -> Evaluation | None:
    """Score the source as it is, with all its folds, on a fold's validation cases, unless that was done.

    Returns:
        The evaluation; None where the source can't be used as it is, or nothing is to be validated.
    """
    if not (fold.stage.recipe.initialization.ensemble and fold.validation_cases):
        return None
    out = as_it_is(fold)
    made_of = {
        "source": [stage.recipe.initialization.ensemble for stage in fold.stage.chain],
        "stage": fold.stage.identity,
        "inference": digest(fold.stage.inference.model_dump(mode="json", exclude={"reasons"})),
        "cases": fold.validation_cases,
    }
    if (out / _SCORED).exists() and read_json(out / _SCORED) == made_of:
        return Evaluation.read(out)
    files = [fitted_source(stage, fold.run.path, fold.run.source_folder(stage)) for stage in fold.stage.chain]
    evaluation = validate_with(fold, files, out, device)
    write_json(out / _SCORED, made_of)
    return evaluation


def score_shares(fold: Fold, device: torch.device, count: int) -> None:
    """Score networks between the source and a fold's tuned weights on its validation cases.

    Args:
        fold: just trained: its weights are the tuned ones.
        device: to compute on.
        count: how many shares to try, of :data:`~autoseg.transfer.share_choice.TRIED_SHARES`.
    """
    shutil.rmtree(fold.folder / "shares", ignore_errors=True)
    _keep_tuned(fold)
    for share in TRIED_SHARES[:count]:
        out = _of_share(fold, share)
        weights = out / "weights.safetensors"
        write_blended(fold, share, weights)
        validate_with(fold, [[weights]], out, device)
        weights.unlink()


def _keep_tuned(fold: Fold) -> None:
    """Copy the weights of a training that just ended, before a share of the source is blended in."""
    with atomic(fold.checkpoint("tuned"), suffix=".safetensors") as temporary:
        shutil.copyfile(fold.weights, temporary)


def write_blended(fold: Fold, share: float, path: Path) -> None:
    """Write (1 − share) · tuned + share · source, of the source's fold that the training began with."""
    tuned = load_weights(fold.checkpoint("tuned"))
    start = load_weights(_start(fold))
    blended = {
        name: tensor.lerp(start[name].to(tensor.dtype), share) if tensor.is_floating_point() else tensor
        for name, tensor in tuned.items()
    }
    save_weights(path, blended, read_metadata(fold.checkpoint("tuned")))


def _start(fold: Fold) -> Path:
    stage = fold.stage
    files = fitted_source(stage, fold.run.path, fold.run.source_folder(stage))
    return files[stage.recipe.initialization.ensemble.index(stage.recipe.initialization.file)]


@dataclass(frozen=True)
class Settled:
    """What was chosen, and what stands in the table beside it.

    Attributes:
        choice: by all cases.
        differences: of the plain best to the source, a case each.
    """

    choice: ShareChoice
    differences: list[float]


def settle(fold: Fold) -> Settled | None:
    """Choose the share by all folds that are scored by now; write their weights and validations accordingly.

    Args:
        fold: the one that was done last. Of a fold without validation cases its halves choose.

    Returns:
        The choice; None where no case was held out.
    """
    scored = [one for one in _scored_with(fold) if _known(one)]
    if not scored:
        _keep_tuned(fold)
        write_blended(fold, UNKNOWN, fold.weights)
        return None
    shares = [share for share in (*sorted(TRIED_SHARES), SOURCE) if all(share in _known(one) for one in scored)]
    parts = {share: [Evaluation.read(_of_share(one, share)) for one in scored] for share in shares}
    scores: Scores = {
        share: {case: part.case_mean(case) for part in found for case in part.cases} for share, found in parts.items()
    }
    groups = [part.cases for part in parts[SOURCE]]
    of_case = share_for_each(scores, groups)
    for number, one in enumerate(scored):
        _write_validation(one, {share: found[number] for share, found in parts.items()}, of_case)
    everyone = [case for group in groups for case in group]
    choice = choose_share(scores, everyone)
    for one in [*scored, *([] if fold in scored else [fold])]:
        if isinstance(one, Half):
            continue
        if one == fold and not fold.validation_cases:
            _keep_tuned(fold)  # of others it was kept when they were scored
        write_blended(one, choice.share, one.weights)
    if not isinstance(fold, Half):
        write_json(
            fold.run.path / fold.stage.name / SOURCE_SHARE,
            {
                "share": choice.share,
                "best": choice.best,
                "mean_dice": {f"{share:g}": value for share, value in choice.means.items()},
                "difference": _number(choice.difference),
                "standard_error": _number(choice.error),
                "cases": everyone,
            },
        )
    known = [case for case in everyone if all(math.isfinite(of[case]) for of in scores.values())]
    best = choice.best if choice.best != SOURCE else _best_tuned(choice)
    return Settled(choice, [scores[best][case] - scores[SOURCE][case] for case in known])


def _best_tuned(choice: ShareChoice) -> float:
    tuned = {share: mean for share, mean in choice.means.items() if share != SOURCE}
    return max(tuned, key=lambda share: tuned[share])


def _scored_with(fold: Fold) -> Sequence[Fold]:
    """The folds whose cases choose together with a fold's own."""
    if isinstance(fold, Half):
        return [Half(fold.run, fold.stage, fold.number, half) for half in (0, 1)]
    if not fold.validation_cases:
        return halves(fold)
    return folds_of_plan(fold.run, fold.stage)


def _known(fold: Fold) -> list[float]:
    """Shares that a fold's validation cases are scored for; none while the source is not."""
    if not (as_it_is(fold) / "summary.json").exists():
        return []
    tuned = [share for share in TRIED_SHARES if (_of_share(fold, share) / "summary.json").exists()]
    return [*tuned, SOURCE] if tuned and fold.checkpoint("tuned").exists() else []


def as_it_is(fold: Fold) -> Path:
    """Folder of the source's predictions of a fold's validation cases."""
    return fold.folder / "source"


def tuned_alone(fold: Fold) -> Path:
    """Folder of the tuned network's predictions of a fold's validation cases."""
    return _of_share(fold, 0.0)


def beside_choice(fold: Fold) -> dict[str, Path]:
    """What a fold's validation cases were predicted with beside what was chosen: in words → folder of label maps."""
    found = {"the source as it is": as_it_is(fold), "tuned": tuned_alone(fold)}
    return {name: folder for name, folder in found.items() if (folder / "summary.json").exists()}


def _of_share(fold: Fold, share: float) -> Path:
    return as_it_is(fold) if share == SOURCE else fold.folder / "shares" / f"{share:g}"


def _write_validation(fold: Fold, parts: dict[float, Evaluation], of_case: dict[str, float]) -> None:
    """Make a fold's validation of the predictions with the share that each case gets."""
    first = parts[SOURCE]
    ending = result_ending(fold.stage.file_ending)
    rows = []
    for case in first.cases:
        share = of_case[case]
        rows += [row for row in parts[share].rows if row.case == case]
        name = f"{case}{ending}"
        with atomic(fold.validation / name, suffix=ending) as temporary:
            shutil.copyfile(_of_share(fold, share) / name, temporary)
    Evaluation(tuple(rows), first.targets, first.tolerance_mm, first.empty).write(fold.validation)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def files_of_shares(fold: Fold) -> Sequence[Path]:
    """What a tuning leaves in a fold's folder beside its weights."""
    found = [fold.checkpoint("tuned")]
    return [*found, *sorted((fold.folder / "shares").glob("*/*"))]


def say_choice(settled: Settled, interval: Callable[[Sequence[float]], tuple[float, float]]) -> str:
    """The choice as a sentence for the log."""
    choice = settled.choice
    if not math.isfinite(choice.error):
        return (
            f"{choice.cases} validation case(s) can't tell whether tuning helps; the source as it is is kept "
            "(train further folds, or set --set recipe.initialization.keep=0)"
        )
    mean = sum(settled.differences) / len(settled.differences)
    low, high = interval(settled.differences)
    told = f"Dice {mean:+.4f} over {choice.cases} cases, 95 % interval {low:+.4f} to {high:+.4f}"
    if choice.share == SOURCE:
        return f"the source as it is is as good as any tuning ({told} for the best tuned weights); it is kept"
    return (
        f"the weights are {1 - choice.share:.0%} tuned and {choice.share:.0%} the source's ({told} against the source)"
    )
