"""Initial weights (``--weights``): what encoders learned on pictures, carried into a run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from autoseg.data.dataset import Dataset
from autoseg.networks.weights import content_of, save_weights
from autoseg.planning.carried import CARRIED
from autoseg.planning.planners import able_to
from autoseg.planning.request import Request
from autoseg.plans.families import Inflated
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Initialization
from autoseg.transfer.pretrained import check_fit, read_weights
from autoseg.utils.errors import UsageError

#: Weights that are asked for by a word instead of a file.
_WORDS = ("random", "imagenet")


@CARRIED.register("initial weights")
@dataclass(frozen=True)
class InitialWeights:
    """Weights that the encoder starts from.

    Attributes:
        asked: ``imagenet`` (timm downloads them), ``random``, or a file, which is copied into the run folder.
    """

    asked: str | Path
    kind: ClassVar[str] = "initial weights"
    option: ClassVar[str] = "--weights"
    provides: ClassVar[str] = "what the training starts from"
    start: ClassVar[str] = "scratch"

    @cached_property
    def _tensors(self) -> dict[str, torch.Tensor]:
        """The file's, by name."""
        return {} if str(self.asked) in _WORDS else read_weights(Path(self.asked))

    @cached_property
    def content(self) -> str:
        """The word, or a fingerprint of the file's tensors."""
        return content_of(self._tensors) if self._tensors else str(self.asked)

    @cached_property
    def initialization(self) -> Initialization:
        """The recipe's part that asks for these weights."""
        reasons = {"source": f"asked for with --weights {self.asked}"}
        if not self._tensors:
            return Initialization.model_validate({"source": str(self.asked), "reasons": reasons})
        file = f"initial_weights_{self.content}.safetensors"
        return Initialization(source="file", file=file, content=self.content, reasons=reasons)

    def check(self, request: Request, dataset: Dataset, out: Path) -> "InitialWeights":
        """Refuse a file that is missing or holds no weights."""
        _ = self._tensors
        return self

    def apply(self, plan: Plan) -> Plan:
        """The plan, in which all networks that can start from these weights."""
        able = [stage for stage in plan.stages if stage.network.takes_image_weights]
        if not able and self.initialization.source != "random":
            raise UsageError(
                f"--weights: planner {plan.planner} makes no network with an encoder for pictures; use --planner "
                f"{able_to('image_weights')}."
            )
        configurations = dict(plan.configurations)
        for stage in able:
            recipe = stage.recipe.model_copy(update={"initialization": self.initialization})
            configurations[stage.name] = stage.configuration.model_copy(update={"recipe": recipe})
        return plan.model_copy(update={"configurations": configurations})

    def check_plan(self, plan: Plan) -> None:
        """Refuse a file that does not fit an encoder of the plan."""
        for stage in plan.stages:
            if stage.recipe.initialization.source == "file" and isinstance(stage.network, Inflated):
                check_fit(stage.network, stage.in_channels, self._tensors, str(self.asked))

    def install(self, plan: Plan, run: Path) -> None:
        """Copy the file's tensors into the run folder, so that it can be moved."""
        if self._tensors:
            save_weights(run / self.initialization.file, self._tensors)

    @classmethod
    def remove_unused(cls, run: Path, plan: Plan) -> None:
        """Remove the files that the plan does not name."""
        used = {stage.recipe.initialization.file for stage in plan.stages}
        for path in run.glob("initial_weights*.safetensors"):
            if path.name not in used:
                path.unlink(missing_ok=True)
