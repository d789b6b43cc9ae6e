"""Task: the data that is planned for, and what each configuration of the plan is given and has to segment."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Previous
from autoseg.plans.preprocessing import Resampling
from autoseg.plans.target import Target
from autoseg.utils.errors import UsageError
from planners.rules.budget import USABLE
from planners.rules.compute import CPU_HOURS
from planners.rules.spacing import VoxelGrid, full_resolution
from planners.rules.target import choose_channels, choose_target

#: Reason of a target of one region against everything else.
_SOFTMAX = "one structure against everything else: a softmax over both, as in the paper"


@dataclass(frozen=True)
class Task:
    """The data that is planned for.

    Attributes:
        fingerprint: of the dataset.
        request: what the user asked for.
        names: channels, in the paper's order where they are the paper's, else in the dataset's.
        target: what to segment.
        grid: full resolution, and the median shape there.
        allow_missing: whether some cases lack a channel.
        stages: that follow each other, and share the time of a fold's training.
    """

    fingerprint: Fingerprint
    request: ResolvedRequest
    names: list[str]
    target: Target
    grid: VoxelGrid
    allow_missing: bool
    reasons: dict[str, str] = field(default_factory=dict)
    stages: int = 1

    @property
    def cpu(self) -> bool:
        """Whether a CPU will train, where compute is the budget."""
        return self.request.device == "cpu"

    @property
    def hours(self) -> float:
        """That the training of a stage of a fold has on a CPU."""
        return CPU_HOURS if self.request.max_time is None else self.request.max_time / 3600 / self.stages

    @property
    def budget(self) -> float:
        """Bytes that a step may take."""
        return USABLE * self.request.gpu_memory_gb * 1e9

    @property
    def full(self) -> "StageTask":
        """All of it at full resolution."""
        grid = self.grid
        return StageTask(self, self.target, len(self.names), grid.shape, grid.spacing, grid.spacing_reason)


@dataclass(frozen=True)
class StageTask:
    """What one configuration of a plan is given, and what it has to segment.

    Attributes:
        task: of the whole plan.
        target: of this configuration.
        in_channels: of its network.
        shape: median shape of the images at its spacing, voxels.
        spacing: mm; a None entry keeps each case's own spacing on that axis.
        spacing_reason: why this spacing.
        data: name of the folder of preprocessed cases.
        resampling: how to get to the spacing.
        previous: the stage before, if any.
    """

    task: Task
    target: Target
    in_channels: int
    shape: Sequence[float]
    spacing: tuple[float | None, float | None, float | None]
    spacing_reason: str
    data: str = "3d_fullres"
    resampling: Resampling = field(default_factory=Resampling)
    previous: Previous | None = None


def open_task(
    fingerprint: Fingerprint,
    request: ResolvedRequest,
    preferred: Sequence[str] = (),
    source: str = "the paper's",
    exclusive: bool = False,
) -> Task:
    """Choose channels, target and grid.

    Args:
        fingerprint: of the dataset.
        request: the channels it names are taken.
        preferred: channels of the paper, taken in this order where the user names none and the dataset has all of them.
        source: of these channels, for the reason.
        exclusive: segment the labels even where the dataset has regions, unless the user names some.

    Raises:
        UsageError: unknown channels or regions are asked for.
    """
    wanted = request.channels
    reasons = {}
    if not wanted and preferred and set(preferred) <= set(fingerprint.channels):
        wanted = tuple(preferred)
        reasons["channels"] = f"{source}: {', '.join(preferred)}"
    names = choose_channels(fingerprint, wanted)
    if set(names) == set(preferred):
        names = list(preferred)
    outputs = request.regions
    if exclusive and not outputs and fingerprint.regions:
        outputs = tuple(fingerprint.labels)
    missing = any(name not in case.intensities for case in fingerprint.cases for name in names)
    return Task(
        fingerprint,
        request,
        names,
        choose_target(fingerprint, outputs),
        full_resolution(fingerprint),
        missing,
        reasons,
    )


def whole_of(fingerprint: Fingerprint, request: ResolvedRequest) -> ResolvedRequest:
    """The request for one structure, where the user names none: the region that holds all labels, if there is one.

    For papers whose network tells one structure from the rest.
    """
    everything = set(fingerprint.labels.values())
    whole = [name for name, values in fingerprint.regions.items() if everything <= set(values)]
    return replace(request, regions=(whole[0],)) if whole and not request.regions else request


def exclusive(task: Task) -> Task:
    """The task with a softmax over what it segments and everything else, where it is a single region."""
    target = task.target
    if target.kind != "regions" or len(target.outputs) > 1:
        return task
    return replace(task, target=target.model_copy(update={"kind": "labels", "reasons": {"kind": _SOFTMAX}}))


def refuse_pictures(task: Task, planner: str) -> None:
    """For systems whose network looks along three axes.

    Raises:
        UsageError: the dataset's images are two-dimensional.
    """
    if task.fingerprint.dimension != 3:
        raise UsageError(f"--planner {planner} is for volumes and the dataset has pictures; use --planner unet.")


def case_shapes(task: Task) -> list[list[int]]:
    """Voxels of each case along the network's axes, cropped and at full resolution."""
    axes = list(zip(task.grid.transpose, task.grid.spacing, strict=True))
    return [
        [max(1, round(case.cropped_shape[axis] * case.spacing[axis] / mm)) for axis, mm in axes]
        for case in task.fingerprint.cases
    ]
