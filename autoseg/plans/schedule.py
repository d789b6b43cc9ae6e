"""Schedule: how the learning rate changes over a training."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from autoseg.plans.components import find
from autoseg.plans.reasons import Reasoned
from autoseg.utils.registry import Registry

if TYPE_CHECKING:
    from typing import Self


#: Schedules of this project whose rate depends on the share of the budget alone.
_BY_PROGRESS = {"cosine", "poly", "constant", "one_cycle", "explore_exploit"}


class Schedule(Reasoned):
    """Learning-rate schedule over the share of the budget (iterations or time) that is spent.

    Attributes:
        name: ``cosine``: to ``floor``·rate; ``poly``: (1 − progress)^power; ``constant``; ``one_cycle``: up over the
            first 30 %, then down to ``floor``·rate (Smith 2018); ``explore_exploit``: the full rate until ``explore``,
            then linearly to ``floor``·rate (Wright & Demeure 2021); ``plateau``: divided by ``factor`` whenever what
            it ``follows`` has not improved ``patience`` times in a row, down to ``floor``·rate.
        warmup: share of the budget over which the rate rises linearly from zero; ``one_cycle`` has a rise of its own.
        power: of ``poly`` (nnU-Net: 0.9).
        floor: share of the learning rate that ``cosine``, ``one_cycle``, ``explore_exploit`` and ``plateau`` end at.
        explore: share of the budget at which the fall of ``explore_exploit`` begins (Ranger21: 0.72).
        follows: what ``plateau`` watches: the mean ``training_loss`` of each epoch, or the ``validation_loss`` of each
            validation.
        patience: epochs, or validations, without improvement that ``plateau`` waits for.
        factor: that ``plateau`` divides the rate by.
    """

    #: Name → keys that not all schedules read, and it does; one of an extension, which is not here, may read any.
    READS: ClassVar[dict[str, set[str]]] = {
        "cosine": {"warmup", "floor"},
        "poly": {"warmup", "power"},
        "constant": {"warmup"},
        "one_cycle": {"floor"},
        "explore_exploit": {"warmup", "explore", "floor"},
        "plateau": {"warmup", "follows", "patience", "factor", "floor"},
    }

    name: str = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1)
    power: float = Field(0.9, gt=0)
    floor: float = Field(0.0, ge=0, le=1)
    explore: float = Field(0.72, gt=0, le=1)
    follows: Literal["training_loss", "validation_loss"] = "training_loss"
    patience: int = Field(10, ge=1)
    factor: float = Field(5.0, gt=1)

    @property
    def follows_validation(self) -> bool:
        """Whether the rate depends on the loss of validations, which a training then needs.

        A schedule of another package that says so by another key than ``follows`` overrides this.
        """
        return self.follows == "validation_loss" and self.name not in _BY_PROGRESS

    @model_validator(mode="after")
    def _in_order(self) -> "Self":
        if find(SCHEDULES, self.name) is not type(self):
            raise ValueError(f"{self.name} is described by another class than {type(self).__name__}")
        if self.name == "explore_exploit" and self.warmup > self.explore:
            raise ValueError(
                f"explore {self.explore:g} starts the fall before warmup {self.warmup:g} has ended the rise"
            )
        return self


#: Learning-rate schedules: name → description. The functions are in :data:`autoseg.step.lr_schedule.RATE_FACTORS`.
SCHEDULES: Registry[type[Schedule]] = Registry("learning-rate schedule", package="autoseg.step")
for _name in ("cosine", "poly", "constant", "one_cycle", "plateau", "explore_exploit"):
    SCHEDULES.register(_name, Schedule)
