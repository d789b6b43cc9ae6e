"""How the mechanism reaches a planner: through the entry-point group ``autoseg.planners``, ours or somebody else's."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, TypeVar

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from autoseg.utils.errors import AutosegError, UsageError

#: Entry-point group that planners are found in.
GROUP = "autoseg.planners"

#: A planner reads a fingerprint and a request and writes a plan.
Planner = Callable[[Fingerprint, ResolvedRequest], Plan]

_P = TypeVar("_P", bound=Planner)

#: What of a planner's abilities messages ask for.
Ability = Literal["decoders", "encoders", "image_weights", "widths"]


@dataclass(frozen=True)
class Abilities:
    """What a planner says about itself, so that messages can name it and a default be found.

    Attributes:
        start: what its plans start from: ``scratch``, or a trained ``model``.
        default: whether it is taken where the user names no planner; one for each ``start``.
        decoders: whether it can learn several annotators separately, a decoder each.
        encoders: whether ``--encoder`` chooses the network's encoder.
        image_weights: whether ``--weights`` gives the network weights that were learned on pictures.
        widths: whether it chooses, on a CPU, how wide the network is by the time of a training (``--max-time``).
    """

    start: Literal["scratch", "model"] = "scratch"
    default: bool = False
    decoders: bool = False
    encoders: bool = False
    image_weights: bool = False
    widths: bool = False


def planner_can(abilities: Abilities) -> Callable[[_P], _P]:
    """Decorator of a planner: what it can do. Without, it has the abilities of ``Abilities()``."""

    def note(planner: _P) -> _P:
        planner.abilities = abilities  # type: ignore[attr-defined]
        return planner

    return note


def find_planner(name: str) -> Planner:
    """The planner registered under ``name``.

    Raises:
        UsageError: there is none; the message lists those there are.
        AutosegError: its package can't be imported.
    """
    found = _installed()
    if name not in found:
        raise UsageError(f"--planner {name} is unknown; installed planners: {', '.join(sorted(found)) or 'none'}.")
    return _load(found[name])


def default_planner(start: str = "scratch") -> str:
    """Name of the planner to take where the user names none.

    Args:
        start: what the plan has to start from.

    Raises:
        UsageError: no installed planner, or more than one, is the default.
    """
    abilities = _abilities()
    found = [name for name, can in abilities.items() if can.start == start]
    defaults = [name for name in found if abilities[name].default]
    if len(defaults) != 1:
        raise UsageError(
            f"{' and '.join(defaults) or 'no installed planner'} would be the default for a start from {start}; "
            f"choose one with --planner: {', '.join(found) or 'none is installed'}."
        )
    return defaults[0]


def starting_from(start: str) -> str:
    """Names of the planners whose plans start so, for messages: ``a, b or c``."""
    return _listed([name for name, can in _abilities().items() if can.start == start])


def abilities(planner: Planner) -> Abilities:
    """What a planner says about itself."""
    found: Abilities = getattr(planner, "abilities", Abilities())
    return found


def able_to(ability: Ability) -> str:
    """Names of the planners with an ability, for messages: ``a, b or c``."""
    return _listed([name for name, can in _abilities().items() if can.start == "scratch" and getattr(can, ability)])


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(point: EntryPoint) -> Planner:
    try:
        planner: Planner = point.load()
    except Exception as error:  # of somebody else's package: anything
        raise AutosegError(
            f"--planner {point.name}: {point.value} can't be imported ({type(error).__name__}: {error}); mend or "
            "uninstall its package, or choose another planner."
        ) from error
    return planner


def _abilities() -> dict[str, Abilities]:
    """Of all planners that can be imported: a broken package of somebody else's must not stop the others."""
    found = {}
    for name, point in _installed().items():
        try:
            found[name] = abilities(_load(point))
        except AutosegError:
            continue
    return found


def _listed(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names) or "another planner"
