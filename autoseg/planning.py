"""How the mechanism reaches a planner: through the entry-point group ``autoseg.planners``, ours or somebody else's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points

from autoseg.errors import UsageError
from autoseg.fingerprint import Fingerprint
from autoseg.plan import Plan

#: Entry-point group that planners are found in.
GROUP = "autoseg.planners"


@dataclass(frozen=True)
class Request:
    """What the user asked a planner for.

    Attributes:
        device: kind of device the training will run on: ``cuda``, ``mps`` or ``cpu``.
        gpu_memory_gb: memory budget in 10⁹ bytes.
        channels: names of the dataset's channels to use; empty for all.
        regions: names of the regions (or labels) to segment; empty for all.
        options: anything a planner of its own understands.
    """

    device: str = "cuda"
    gpu_memory_gb: float = 8.0
    channels: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)


#: A planner reads a fingerprint and a request and writes a plan.
Planner = Callable[[Fingerprint, Request], Plan]


def find_planner(name: str) -> Planner:
    """The planner registered under ``name``.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise UsageError(f"--planner {name} is unknown; installed planners: {', '.join(sorted(found)) or 'none'}.")
    planner: Planner = found[name].load()
    return planner
