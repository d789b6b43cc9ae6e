"""Job: one fold to train and validate, and the length of its training."""

from dataclasses import dataclass

from autoseg.runs.fold import Fold


@dataclass(frozen=True)
class Length:
    """Requested length of a training; the plan's where neither is given.

    Attributes:
        epochs: of each fold, in every stage.
        seconds: wall-clock time for each fold, from its first step to its last validation prediction; of all stages
            together in a cascade.
    """

    epochs: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.seconds:g} seconds" if self.seconds is not None else f"{self.epochs} epochs"


@dataclass(frozen=True)
class Job:
    """One fold to train and validate.

    Attributes:
        fold: to train.
        length: of its training.
        asked: whether the user requested this fold; else another stage needs its predictions.
        last: whether it belongs to the requested stage.
    """

    fold: Fold
    length: Length
    asked: bool = True
    last: bool = True

    @property
    def request(self) -> str:
        """The requested length in words, stored with the result (``20 epochs``)."""
        length = self.length
        if length.seconds is None and length.epochs is None:
            length = Length(epochs=self.fold.stage.recipe.epochs)
        return str(length)
