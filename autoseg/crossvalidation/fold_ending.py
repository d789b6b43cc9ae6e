"""What follows a fold's training: its validation, and the choice of how much of a source is kept."""

from datetime import datetime
from pathlib import Path

import torch

from autoseg.crossvalidation.fold_validation import no_evaluation, validate_fold
from autoseg.crossvalidation.halves import chooses, halves
from autoseg.crossvalidation.source_share import is_scored, score_shares, score_source, settle
from autoseg.evaluation.summary import Evaluation
from autoseg.runs.fold import Fold
from autoseg.transfer.share_choice import TRIED_SHARES
from autoseg.utils.device import saying_what_lacks_memory
from autoseg.utils.errors import AutosegError
from autoseg.utils.progress import say


class FoldLog:
    """Writes messages with the time to the fold's log, and without it to the terminal."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, message: str) -> None:
        """Write a message."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {message}\n")
        say(message)


class NotValidatedError(AutosegError):
    """A fold is trained, and a validation case of it could not be predicted or evaluated."""


def validate_trained(fold: Fold, device: torch.device, tries: int, log: FoldLog) -> None:
    """Validate a fold that is trained, and log its Dice.

    Args:
        fold: that is trained.
        device: to compute on.
        tries: how many shares of a source's weights are compared, where they are.
        log: of the fold.

    Raises:
        NotValidatedError: a case could not be predicted or evaluated; the training is not lost.
    """
    way_out = "the same command validates it; its training is not lost"
    try:
        with saying_what_lacks_memory(device, f"validating {fold}", way_out):
            evaluation = _chosen(fold, device, tries, log) if chooses(fold.stage) else validate_fold(fold, device)
    except AutosegError as error:
        raise NotValidatedError(str(error)) from error
    if evaluation.cases:
        log(f"mean Dice over {len(evaluation.cases)} validation cases: {evaluation.mean('dice'):.4f}")


def go_on_validating(fold: Fold, device: torch.device, folds: int, tries: int, log: FoldLog) -> None:
    """Validate a fold without training it: what is scored already, of the source, too, is not scored again.

    Args:
        fold: that is trained.
        device: to compute on.
        folds: of the source, how many predict together.
        tries: as for :func:`validate_trained`.
        log: of the fold.
    """
    for score in score_source(fold, device, folds):
        log(str(score))
    validate_trained(fold, device, tries, log)


def validate_again(fold: Fold, device: torch.device) -> None:
    """Validate a trained fold again, where its validation is gone, or its source was scored as planned before."""
    either: list[Fold] = [*halves(fold)] or [fold]
    parts = [one for one in either if one.checkpoint(one.end_checkpoint).exists()]
    due = [one for one in parts if not _is_validated(one)]
    for one in due:
        log = FoldLog(one.log)
        log(f"the validation of {one} is not there for the plan as it is, and is made anew")
        go_on_validating(one, device, len(one.stage.recipe.initialization.ensemble), len(TRIED_SHARES), log)
    if due and fold not in due:
        validate_trained(fold, device, len(TRIED_SHARES), FoldLog(fold.log))


def _is_validated(fold: Fold) -> bool:
    if not fold.validation_cases:
        return True
    return fold.validated and (not chooses(fold.stage) or is_scored(fold))


def _chosen(fold: Fold, device: torch.device, tries: int, log: FoldLog) -> Evaluation:
    """Choose how much of the source is kept, by all folds that are done; evaluate the fold with what others chose."""
    if fold.validation_cases and not is_scored(fold):
        score_shares(fold, device, tries)
    settled = settle(fold)
    if settled is None:
        log("a single patient can't be held out: whether tuning helps is not known, and the unchanged source is kept")
        return no_evaluation(fold.stage)
    log(str(settled))
    return Evaluation.read(fold.validation) if fold.validation_cases else no_evaluation(fold.stage)
