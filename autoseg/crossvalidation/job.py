"""Job: one fold to train and validate, and how long that may take."""

from dataclasses import dataclass

from autoseg.runs.fold import Fold


@dataclass(frozen=True)
class Length:
    """How long a training is asked to take; as long as the plan says where neither is given.

    Attributes:
        epochs: of each fold, in every stage.
        seconds: wall-clock time for each fold, from its first step to its last validation prediction; where stages
            follow each other, with all of them.
    """

    epochs: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.seconds:g} seconds" if self.seconds is not None else f"{self.epochs} epochs"


@dataclass(frozen=True)
class Job:
    """One fold to train and validate.

    Attributes:
        fold: which.
        length: of its training.
        asked: whether the user asked for it, or only another stage needs its predictions.
        last: whether it is of the stage that the user asked for.
    """

    fold: Fold
    length: Length
    asked: bool = True
    last: bool = True

    @property
    def request(self) -> str:
        """What is asked for, in words that are kept with the result."""
        length = self.length
        if length.seconds is None and length.epochs is None:
            length = Length(epochs=self.fold.stage.recipe.epochs)
        return str(length)
