"""How the results of a plan are measured: which cases are kept for it, and by which convention."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from autoseg.plans.reasons import Reasoned

if TYPE_CHECKING:
    from typing import Self


class EvaluationRules(Reasoned):
    """Splits and conventions of a plan's own results: those of training, of its report and of a sweep.

    Attributes:
        empty: the score of a structure that is absent (:mod:`autoseg.evaluation.protocol`): ``skip``: undefined where
            prediction and reference both lack it; ``brats``: binary, 1 where both lack it and 0 where one does.
        test_share: share of the patients that a hold-out test set gets, drawn by the seed of the splits; 0 for none
            but the test cases that the dataset itself names.
        validation_share: share of all patients that a single fold is validated on, in place of a cross-validation;
            0 for a cross-validation. The number of folds that a user asks for goes before it.
    """

    empty: Literal["skip", "brats"] = "skip"
    test_share: float = Field(0.0, ge=0, lt=1)
    validation_share: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _leaves_some(self) -> "Self":
        if self.test_share + self.validation_share >= 1:
            raise ValueError(
                f"test_share {self.test_share:g} and validation_share {self.validation_share:g} leave nothing to "
                "train on"
            )
        return self
