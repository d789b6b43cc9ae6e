"""Request: everything that a user asks of planning, one object from the command line to the planner."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, TypeVar

import torch

from autoseg.utils.device import select_device
from autoseg.utils.errors import UsageError

if TYPE_CHECKING:
    from autoseg.planning.carried import Carried

_T = TypeVar("_T")

#: Kinds of devices that can be planned for.
DEVICES = ("cuda", "mps", "cpu")

#: Memory budget in GB where there is no GPU to ask: nnU-Net's.
DEFAULT_GB = 8.0

#: Share of a GPU's memory that is the default budget; the rest is for the CUDA context and the display.
_BUDGET_SHARE = 0.92


@dataclass(frozen=True)
class Request:
    """What a user asks of planning; everything may be left out.

    Attributes:
        planner: name of an installed planner; None for the default one.
        device: that will train, ``cuda``, ``mps`` or ``cpu``, which need not be of this machine; ``auto`` takes this
            machine's best, ``cuda:1`` one of its GPUs.
        gpu_memory_gb: memory budget in 10⁹ bytes; None for that of the device, where it is a GPU of this machine, or
            :data:`DEFAULT_GB`.
        channels: names of the dataset's channels to use; empty for all.
        regions: names of the regions or labels to segment; empty for all.
        annotators: names of those to learn separately, or ``all``; empty to learn from one label map a case.
        options: what a planner of its own understands; ``encoder``: name of a timm model.
        overrides: ``path.to.key=value`` each, see :func:`autoseg.plans.overrides.override`.
        folds: of the cross-validation, 5 where None; 1 for a training on all cases, without validation.
        seed: of the splits and of the fingerprint's sample of voxels; where None, 0, and any splits that a run has stay
            without a word.
        workers: processes that read cases; None for one a core.
        carried: what is brought into the run from elsewhere: initial weights, a source model, a teacher.
        test_share: share of the patients that a hold-out test set gets, 0 for none; the planner's where None.
        max_time: seconds that the training of a fold will have, for planners that choose a network's width by it (on a
            CPU); their usual length where None.

    Example:
        >>> from autoseg import Request
        >>> Request(gpu_memory_gb=11, channels=("t1c", "flair")).resolved().gpu_memory_gb
        11
    """

    planner: str | None = None
    device: str = "auto"
    gpu_memory_gb: float | None = None
    channels: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    folds: int | None = None
    seed: int | None = None
    workers: int | None = None
    carried: "tuple[Carried, ...]" = ()
    test_share: float | None = None
    max_time: float | None = None

    @property
    def start(self) -> str:
        """What the plan has to start from: ``scratch``, or a ``model`` that is carried into the run."""
        return next((item.start for item in self.carried if item.start != "scratch"), "scratch")

    def carries(self, kind: type[_T]) -> _T | None:
        """What of this kind is carried into the run, or None."""
        return next((item for item in self.carried if isinstance(item, kind)), None)

    def resolved(self) -> "ResolvedRequest":
        """The request with a device and a budget, this machine's where the user names none.

        Raises:
            UsageError: an impossible device, budget or number of folds, or a time that changes nothing.
        """
        if self.gpu_memory_gb is not None and not 0 < self.gpu_memory_gb < math.inf:
            raise UsageError(f"--gpu-memory {self.gpu_memory_gb:g} is no budget; give 10⁹ bytes, such as 8.")
        if self.test_share is not None and not 0 <= self.test_share < 1:
            raise UsageError(f"--test-share {self.test_share:g} is no share; give 0 (none) to below 1, such as 0.2.")
        if self.folds is not None and self.folds < 1:
            raise UsageError(f"--folds {self.folds} is too few; give 1 (train on all cases) or more.")
        if self.max_time is not None and not 0 < self.max_time < math.inf:
            raise UsageError(f"--max-time {self.max_time:g} s is no time to train in; give some, such as 30m.")
        kind, _, number = self.device.partition(":")
        if kind not in ("auto", *DEVICES):
            raise UsageError(f"--device {self.device} is unknown; choose auto, {', '.join(DEVICES)}.")
        named = select_device(self.device) if kind == "auto" or number else torch.device(kind)
        if self.max_time is not None and named.type != "cpu":
            raise UsageError(
                f"--max-time: a network for {named.type} is as wide as its memory allows, whatever the time; give the "
                "time to autoseg train alone."
            )
        budget = default_budget(named) if self.gpu_memory_gb is None else self.gpu_memory_gb
        given = {each.name: getattr(self, each.name) for each in fields(Request)}
        return ResolvedRequest(**{**given, "device": named.type, "gpu_memory_gb": budget})


@dataclass(frozen=True)
class ResolvedRequest(Request):
    """A request as a planner is given it.

    Attributes:
        device: ``cuda``, ``mps`` or ``cpu``.
        gpu_memory_gb: memory budget in 10⁹ bytes.
    """

    device: str = "cuda"
    gpu_memory_gb: float = DEFAULT_GB


def refuse_unknown(option: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names that a dataset does not have.

    Raises:
        UsageError: lists those, and what there is.
    """
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UsageError(f"{option} {', '.join(unknown)} is unknown; the dataset has {', '.join(known)}.")


def default_budget(device: torch.device) -> float:
    """Memory budget in 10⁹ bytes where the user names none: of that device, or of a usual one."""
    if device.type == "cuda" and torch.cuda.is_available():
        return round(_BUDGET_SHARE * torch.cuda.get_device_properties(device).total_memory / 1e9, 2)
    return DEFAULT_GB
