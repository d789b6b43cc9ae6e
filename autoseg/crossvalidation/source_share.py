"""Fine-tuning held against its source: both are scored on cases that the tuning was not trained on.

In a fold's folder ``source/`` has the source's predictions of its validation cases (``source_untouched/`` those of its
own run, where the plan has not all of its channels and outputs or mirrors otherwise; ``source_unharmonized/`` those of
images as they are, where it harmonizes them and the source was trained without), ``tuned.safetensors`` the tuned
weights, and ``shares/<share>/`` the predictions of each share of the source's weights that was tried. How much is kept
is chosen by all folds that are scored (:mod:`autoseg.transfer.share_choice`), anew when another one is; a case is
scored by a share that it did not choose. Only the choice gives a fold weights to predict with: until then it has none,
or those of the choice before.
"""

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoseg.crossvalidation.compared import compared, of_patients, patients
from autoseg.crossvalidation.fold_validation import CasesAsSourceSees, evaluate_cases, validate_with
from autoseg.crossvalidation.halves import Half, chooses, halves
from autoseg.crossvalidation.source_fingerprints import SCORED, made_of_source, made_of_tuning, noted, of_source
from autoseg.data.file_names import result_ending
from autoseg.evaluation.paired import paired_interval
from autoseg.evaluation.summary import Evaluation
from autoseg.networks.weights import load_weights, save_weights
from autoseg.plans.stage import Stage
from autoseg.runs.fold import Fold
from autoseg.runs.run import SOURCE, SOURCE_SHARE, UNTOUCHED
from autoseg.runs.weight_files import read_metadata
from autoseg.transfer.learned_cases import learned_patients
from autoseg.transfer.share_choice import TRIED_SHARES, ShareChoice, choose_share, share_for_each, too_few, with_a_say
from autoseg.transfer.source_start import start_file
from autoseg.transfer.tensors import fitted_source, untouched_source
from autoseg.utils.digest import digest, file_digest
from autoseg.utils.files import atomic, read_json_table, write_json
from autoseg.utils.lock import waited_for

#: Folder with the predictions of each share.
_SHARES = "shares"


@dataclass(frozen=True)
class SourceScore:
    """The source as it is on a fold's validation cases.

    Attributes:
        evaluation: of its predictions.
        seconds: that they took.
        before: whether that was done in an earlier process.
        title: of the source, for the log.
        folds: how many of the source's folds predicted together, and of how many.
    """

    evaluation: Evaluation
    seconds: float
    before: bool
    title: str
    folds: tuple[int, int]

    def __str__(self) -> str:
        """For the log."""
        cases = len(self.evaluation.cases)
        dice = self.evaluation.mean("dice")
        scored, of = self.folds
        fewer = f" ({scored} of its {of} folds, for lack of time)" if scored < of else ""
        return f"{self.title}{fewer}: mean Dice {dice:.4f} over {cases} validation cases, in {self.seconds:.0f} s"


def score_source(fold: Fold, device: torch.device, folds: int) -> list[SourceScore]:
    """Score the source as it is on a fold's validation cases, unless that was done with as many of its folds.

    Where its own run predicts otherwise than the plan with its weights, that is scored, too: with all of its channels
    and outputs, and on images as they are where the plan harmonizes them, as long as the scans are at hand.

    Args:
        fold: whose validation cases are predicted.
        device: to compute on.
        folds: of the source, how many predict together.

    Returns:
        Its scores; none where the source can't be used as it is, or nothing is to be validated.
    """
    stage = fold.stage
    if not (stage.recipe.initialization.ensemble and fold.validation_cases):
        return []
    run, start = fold.run, stage.recipe.initialization
    files = [fitted_source(one, run.path, run.source_folder(one))[:folds] for one in stage.chain]
    scoring, steps = _Scoring(fold, folds), start.postprocessing
    title = f"the source, {as_planned(stage)}" if stage.differs_for_source else "the source as it is"
    found = [scoring.of(SOURCE, lambda out: validate_with(fold, files, out, device, steps), title)]
    if not stage.differs_for_source:
        return found
    if not stage.harmonizes_for_source or all(run.dataset.case(name).has_scans for name in fold.validation_cases):
        cases = CasesAsSourceSees(run, stage, fold.validation_cases, f"Validating fold {fold.number}")
        own = [untouched_source(one, run.path, run.untouched_folder(one))[:folds] for one in stage.chain]
        after = () if cases.translates else steps  # these are a part of its own
        as_it_is = scoring.of(
            UNTOUCHED, lambda out: evaluate_cases(cases, own, out, device, after), "the source as it is"
        )
        found.append(as_it_is)
    return found


def as_planned(stage: Stage) -> str:
    """What is changed of a source where it predicts as a plan says, in words; empty where nothing is."""
    fitted = "" if stage.recipe.initialization.untouched is None else "fitted to the cohort"
    return " and ".join(part for part in (fitted, "harmonized" if stage.harmonizes_for_source else "") if part)


@dataclass(frozen=True)
class _Scoring:
    """Scores of the source on a fold's validation cases, made unless they are known.

    Attributes:
        fold: whose cases.
        folds: of the source, how many predict together.
    """

    fold: Fold
    folds: int

    def of(self, share: float, score: Callable[[Path], Evaluation], title: str) -> SourceScore:
        """The score that stands for a share, made by ``score`` into its folder."""
        out, made_of = of_share(self.fold, share), made_of_source(self.fold)
        known, all_folds = read_json_table(out / SCORED), len(self.fold.stage.recipe.initialization.ensemble)
        before = int(known.get("folds", all_folds))
        if before >= self.folds and known.get("made_of") == made_of and (out / "summary.json").exists():
            return SourceScore(Evaluation.read(out), float(known["seconds"]), True, title, (before, all_folds))
        started = time.monotonic()
        evaluation = score(out)
        seconds = time.monotonic() - started
        about = {"made_of": made_of, "seconds": seconds, "folds": self.folds, **of_source(self.fold)}
        write_json(out / SCORED, about)
        return SourceScore(evaluation, seconds, False, title, (self.folds, all_folds))


def fewer_folds_scored(fold: Fold) -> int | None:
    """How many of the source's folds predicted a fold's validation cases, where time was too short for all."""
    scored = read_json_table(of_share(fold, SOURCE) / SCORED).get("folds")
    return None if scored is None or scored >= len(fold.stage.recipe.initialization.ensemble) else int(scored)


def another_source_scored(fold: Fold) -> bool:
    """Whether a fold's scores are of a source that the plan named before, or that it mapped otherwise."""
    scored = read_json_table(of_share(fold, SOURCE) / SCORED)
    return any(scored.get(key, value) != value for key, value in of_source(fold).items())


def is_scored(fold: Fold) -> bool:
    """Whether the source and shares of it are scored on a fold's validation cases under the plan as it is."""
    return bool(_known(fold))


def score_shares(fold: Fold, device: torch.device, count: int) -> None:
    """Score networks between the source and a fold's tuned weights on its validation cases.

    What an interruption left of the same weights is gone on from.

    Args:
        fold: that is trained.
        device: to compute on.
        count: how many shares to try, of :data:`~autoseg.transfer.share_choice.TRIED_SHARES`.
    """
    made_of = made_of_tuning(fold)
    of_weights = digest([made_of, file_digest(fold.checkpoint("tuned"))])
    (fold.folder / _SHARES / SCORED).unlink(missing_ok=True)
    for share in TRIED_SHARES[count:]:
        shutil.rmtree(of_share(fold, share), ignore_errors=True)
    for share in TRIED_SHARES[:count]:
        out = of_share(fold, share)
        if noted(out) == of_weights:
            continue  # scored before an interruption
        (out / SCORED).unlink(missing_ok=True)
        weights = out / "weights.safetensors"
        write_blended(fold, share, weights)
        validate_with(fold, [[weights]], out, device)
        weights.unlink()
        write_json(out / SCORED, {"made_of": of_weights})
    write_json(fold.folder / _SHARES / SCORED, {"made_of": made_of})


def write_blended(fold: Fold, share: float, path: Path) -> None:
    """Write (1 − share) · tuned + share · source, of what of the source the training began with.

    All of the source is a fold of it, untouched: another one for each fold of the run, as far as there are.
    """
    tuned = load_weights(fold.checkpoint("tuned"))
    start = load_weights(_start(fold, share))
    blended = {}
    for name, tensor in tuned.items():
        own = start[name].to(tensor.dtype)
        if share >= SOURCE:
            blended[name] = own  # counters of batch norm, too
        else:
            blended[name] = tensor.lerp(own, share) if tensor.is_floating_point() else tensor
    save_weights(path, blended, read_metadata(fold.checkpoint("tuned")))


def _start(fold: Fold, share: float) -> Path:
    stage = fold.stage
    files = fitted_source(stage, fold.run.path, fold.run.source_folder(stage))
    return files[fold.number % len(files)] if share >= SOURCE else start_file(fold)


@dataclass(frozen=True)
class Settled:
    """What was chosen, and what stands in the table beside it.

    Attributes:
        choice: by all patients.
        differences: of the plain best to the source, a patient each.
        unscored: how many folds the source has, where not all were scored; else 0.
        changed: of the source where it predicts as the plan says (:func:`as_planned`).
        more: whether further folds can be trained, whose cases choose, too.
    """

    choice: ShareChoice
    differences: list[float]
    unscored: int = 0
    changed: str = ""
    more: bool = False

    def __str__(self) -> str:
        """As a sentence for the log."""
        choice = self.choice
        if self.unscored:
            return (
                f"the time was too short to score all {self.unscored} folds of the source, so the unchanged source is "
                "kept; give a longer --max-time"
            )
        if undecided := too_few(choice.cases):
            return f"{undecided}; the unchanged source is kept{' until more folds are trained' if self.more else ''}"
        mean = sum(self.differences) / len(self.differences)
        low, high = paired_interval(self.differences)
        told = f"Dice {mean:+.4f} over {choice.cases} patients, 95 % interval {low:+.4f} to {high:+.4f}"
        if choice.does_nothing:
            return f"the unchanged source is as good as any tuning (the best: {told}); it is kept"
        if choice.share == SOURCE:
            return f"the source is kept, {self.changed} ({told} against the source as it is)"
        kept = f"the weights are {1 - choice.share:.0%} tuned and {choice.share:.0%} the source's"
        return f"{kept} ({told} against the source)"


def settle(fold: Fold) -> Settled | None:
    """Choose the share by all folds that are scored by now; write their weights and validations accordingly.

    Where a part of the source's folds stands for it, all of them together may be better, and no tuning is taken; nor
    is it where no case was held out. Processes that end folds at the same time choose one after the other.

    Args:
        fold: the one that was done last. Of a fold without validation cases its halves choose.

    Returns:
        The choice; None where no case was held out.
    """
    with choosing(fold):
        return _settle(fold)


def choosing(fold: Fold) -> AbstractContextManager[None]:
    """What is scored and chosen of a fold's stage is changed by one process at a time; nothing where nothing is."""
    return waited_for(fold.run.path / fold.stage.name) if chooses(fold.stage) else nullcontext()


def _settle(fold: Fold) -> Settled | None:
    together = _scored_with(fold)
    tried = [(one, found) for one in together if (found := _known(one))]
    scored = [one for one, _ in tried]
    if not scored:
        nothing = max(_sources(fold))
        if nothing == UNTOUCHED:
            untouched_source(fold.stage, fold.run.path, fold.run.untouched_folder(fold.stage))
        _write_choice(fold, ShareChoice(nothing, nothing, {}, math.nan, math.nan, 0), {})
        write_blended(fold, nothing, fold.weights)
        return None
    known_shares = (*sorted(TRIED_SHARES), SOURCE, UNTOUCHED)
    shares = [share for share in known_shares if all(share in of for _, of in tried)]
    parts = {share: [Evaluation.read(of_share(one, share)) for one in scored] for share in shares}
    scores = of_patients(compared(parts, fold.stage.empty), fold.run.dataset)
    patient_of = patients(fold.run.dataset)
    groups = [list(dict.fromkeys(patient_of[case] for case in part.cases)) for part in parts[SOURCE]]
    everyone = [patient for group in groups for patient in group]
    deciding = with_a_say(everyone, learned_patients(fold.stage, fold.run.dataset))
    choice, nothing = choose_share(scores, deciding), max(shares)
    of_patient = share_for_each(scores, groups, deciding)
    in_part = any(fewer_folds_scored(one) for one in scored)
    if in_part:
        choice, of_patient = replace(choice, share=nothing), dict.fromkeys(everyone, nothing)
    of_case = {case: of_patient[patient_of[case]] for part in parts[SOURCE] for case in part.cases}
    for number, one in enumerate(scored):
        _write_validation(one, {share: found[number] for share, found in parts.items()}, of_case)
    # Whichever comes first, a kill between the two leaves the source with all of its folds, or what was chosen before.
    keeps = choice.share >= SOURCE
    if keeps and not isinstance(fold, Half):
        _write_choice(fold, choice, of_case)
    for one in [*scored, *([] if fold in scored else [fold])]:
        if not isinstance(one, Half):
            write_blended(one, choice.share, one.weights)
    if not keeps and not isinstance(fold, Half):
        _write_choice(fold, choice, of_case)
    known = [patient for patient in deciding if all(math.isfinite(of[patient]) for of in scores.values())]
    best = choice.best if choice.best != nothing else _best_tuned(choice)
    differences = [scores[best][patient] - scores[nothing][patient] for patient in known]
    unscored = len(fold.stage.recipe.initialization.ensemble) if in_part else 0
    return Settled(choice, differences, unscored, as_planned(fold.stage), more=len(scored) < len(together))


def _write_choice(fold: Fold, choice: ShareChoice, of_case: Mapping[str, float]) -> None:
    """Write what was chosen for all folds of a fold's stage, and the share that each held-out case is scored by."""
    write_json(
        fold.run.path / fold.stage.name / SOURCE_SHARE,
        {
            "share": choice.share,
            "best": choice.best,
            "mean_dice": {f"{share:g}": value for share, value in choice.means.items()},
            "difference": _number(choice.difference),
            "standard_error": _number(choice.error),
            "cases": list(of_case),
            "decided": choice.cases,
            "scored_by": {f"{share:g}": count for share, count in sorted(Counter(of_case.values()).items())},
            "source": fold.stage.recipe.initialization.ensemble,
            "names": fold.stage.recipe.initialization.names,
            "has_network": fold.run.untouched_folder(fold.stage) != fold.run.source_folder(fold.stage),
        },
    )


def _best_tuned(choice: ShareChoice) -> float:
    tuned = {share: mean for share, mean in choice.means.items() if share < SOURCE}
    return max(tuned, key=lambda share: tuned[share])


def _scored_with(fold: Fold) -> Sequence[Fold]:
    """The folds whose cases choose together with a fold's own."""
    if isinstance(fold, Half):
        return [Half(fold.run, fold.stage, fold.number, half) for half in (0, 1)]
    if not fold.validation_cases:
        return halves(fold)
    # Weights don't tell which are scored: they get theirs here.
    return [fold.run.fold(fold.stage, number) for number in range(len(fold.run.splits))]


def _known(fold: Fold) -> list[float]:
    """Shares that a fold's validation cases are scored for under the plan as it is; none while the source is not."""
    if not fold.checkpoint("tuned").exists():
        return []
    made_of = made_of_source(fold)
    source = [share for share in _sources(fold) if noted(of_share(fold, share)) == made_of]
    if SOURCE not in source or noted(fold.folder / _SHARES) != made_of_tuning(fold):
        return []
    return [*(share for share in TRIED_SHARES if (of_share(fold, share) / "summary.json").exists()), *source]


def _sources(fold: Fold) -> list[float]:
    return [SOURCE, UNTOUCHED] if fold.stage.differs_for_source else [SOURCE]


def sources(fold: Fold) -> dict[str, Path]:
    """Folders of the source's predictions of a fold's validation cases, in words; as its own run predicts comes first.

    Where the plan with its weights does the same there is one.
    """
    if not fold.stage.differs_for_source:
        return {"source as it is": of_share(fold, SOURCE)}
    changed = as_planned(fold.stage)
    planned = "source as it is, harmonized" if changed == "harmonized" else f"source, {changed}"
    found = {"source as it is": of_share(fold, UNTOUCHED), planned: of_share(fold, SOURCE)}
    return {name: folder for name, folder in found.items() if (folder / "summary.json").exists()}


def beside_choice(fold: Fold) -> dict[str, Path]:
    """What a fold's validation cases were predicted with beside what was chosen: in words → folder of label maps."""
    found = {**{f"the {name}": folder for name, folder in sources(fold).items()}, "tuned": of_share(fold, 0.0)}
    return {name: folder for name, folder in found.items() if (folder / "summary.json").exists()}


def of_share(fold: Fold, share: float) -> Path:
    """Folder of the predictions of a fold's validation cases with a share of the source's weights, 0 for the tuned."""
    if share == UNTOUCHED:
        own = fold.stage.recipe.initialization.untouched
        return fold.folder / ("source_unharmonized" if own is None else "source_untouched")
    return fold.folder / "source" if share == SOURCE else fold.folder / _SHARES / f"{share:g}"


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
            shutil.copyfile(of_share(fold, share) / name, temporary)
        restored = of_share(fold, share) / "references" / name  # where the dataset's label is gone
        if restored.exists():
            with atomic(fold.validation / "references" / name, suffix=ending) as temporary:
                shutil.copyfile(restored, temporary)
    Evaluation(tuple(rows), first.targets, first.tolerance_mm, first.empty).write(fold.validation)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def forget_shares(fold: Fold) -> None:
    """Remove what a tuning leaves in a fold's folder beside its weights."""
    fold.checkpoint("tuned").unlink(missing_ok=True)
    shutil.rmtree(fold.folder / _SHARES, ignore_errors=True)
