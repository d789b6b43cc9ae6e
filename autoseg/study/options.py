"""What a user asks of a study beside its grid file: a test set, and a shorter or smaller run of it."""

from dataclasses import dataclass

from autoseg.data.dataset import Dataset
from autoseg.study.grid import Grid
from autoseg.utils.errors import UsageError


@dataclass(frozen=True)
class StudyOptions:
    """What goes before the grid file; nothing where None.

    Attributes:
        test: another dataset, on whose labelled cases each setting's folds are scored together.
        folds: to train.
        seeds: to train each setting with.
        epochs: of each fold's training.
        max_time: of each fold's training, such as ``30m``.
    """

    test: Dataset | None = None
    folds: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    epochs: int | None = None
    max_time: str | None = None

    def applied_to(self, grid: Grid) -> Grid:
        """The grid with these folds, seeds and length.

        Raises:
            UsageError: two lengths, or an impossible one.
        """
        changes: dict[str, object] = {}
        if self.epochs is not None or self.max_time is not None:
            changes |= {"epochs": self.epochs, "max_time": self.max_time}
        changes |= {} if self.folds is None else {"folds": list(self.folds)}
        changes |= {} if self.seeds is None else {"seeds": list(self.seeds)}
        changed = grid.model_copy(update=changes)
        if self.epochs is not None and self.max_time is not None:
            raise UsageError("--epochs and --max-time can't both set the length of the training; give one.")
        lengths = [length for length in (changed.max_seconds, self.epochs) if length is not None]
        if any(length <= 0 for length in lengths):
            raise UsageError("--epochs and --max-time must be more than 0.")
        return changed
