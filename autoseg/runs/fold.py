"""Fold: one training of one stage, with its paths, its split and its state on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.plans.stage import Stage

if TYPE_CHECKING:
    from autoseg.runs.run import Run

#: File in a fold's folder, written when it is trained and validated; has the requested length of the training.
DONE = "done.json"


@dataclass(frozen=True)
class Fold:
    """One fold of one stage: where its files lie, which cases it learns and validates, and what of it is done.

    Attributes:
        run: that it belongs to.
        stage: that is trained.
        number: of the fold, from 0.
    """

    run: "Run"
    stage: Stage
    number: int

    def __str__(self) -> str:
        """``fold 2 of 3d_fullres``."""
        return f"fold {self.number} of {self.stage.name}"

    @property
    def folder(self) -> Path:
        """Folder of everything of this fold."""
        return self.run.path / self.stage.name / f"fold_{self.number}"

    @property
    def weights(self) -> Path:
        """Weights that it predicts with."""
        return self.checkpoint("weights")

    def checkpoint(self, name: str) -> Path:
        """Weights by the name of their file.

        ``weights`` are those that the fold predicts with, ``best`` those of the best validation Dice, and ``tuned``
        those that a fine-tuning ended with, which held-out cases compare with the source's.
        """
        return self.folder / f"{name}.safetensors"

    @property
    def end_checkpoint(self) -> str:
        """Name of the weights that its training ends with: not yet the fold's where they are compared with a source."""
        return "tuned" if self.stage.recipe.initialization.is_chosen else "weights"

    @property
    def state(self) -> Path:
        """State that an interrupted training resumes from."""
        return self.folder / "training_state.pt"

    @property
    def log(self) -> Path:
        """Log of the training."""
        return self.folder / "log.txt"

    @property
    def history(self) -> Path:
        """Table of the training, one row for each epoch."""
        return self.folder / "history.csv"

    @property
    def validation(self) -> Path:
        """Folder of predicted validation cases and their evaluation."""
        return self.folder / "validation"

    @property
    def done(self) -> Path:
        """Written when it is trained and validated; has the requested length of the training."""
        return self.folder / DONE

    @property
    def begun(self) -> bool:
        """Whether there is a training to resume."""
        return self.state.exists()

    @property
    def trained(self) -> bool:
        """Whether it has finished weights."""
        return self.weights.exists()

    @property
    def validated(self) -> bool:
        """Whether its validation cases are predicted and evaluated."""
        return (self.validation / "summary.json").exists()

    @property
    def training_cases(self) -> list[str]:
        """Names of its training cases."""
        return self.run.split(self.number)["train"]

    @property
    def validation_cases(self) -> list[str]:
        """Names of its validation cases."""
        return self.run.split(self.number)["validation"]

    def of_stage(self, stage: Stage) -> "Fold":
        """The fold of the same number of another stage."""
        return Fold(self.run, stage, self.number)
