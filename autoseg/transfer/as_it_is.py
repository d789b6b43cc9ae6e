"""Whether a source can be used as it is on a cohort: scored beside the tuned networks, mixed with them, and kept."""

from collections.abc import Sequence

from autoseg.plans.recipe import Initialization
from autoseg.transfer.tensors import BACKGROUND


def why_not_as_it_is(
    start: Initialization, inputs: Sequence[str], heads: Sequence[str], annotators: Sequence[str]
) -> str:
    """Why a source can't be used as it is, in words; empty where it can.

    Its channels, labels and annotators must be the cohort's. Of regions it may have more: each has a head that decides
    alone, so that the others' weights can be left out. A label that is left out would leave its voxels to the others.

    Args:
        start: of the recipe.
        inputs: channels that the network is given.
        heads: of it, by name.
        annotators: whom it learns separately.
    """
    new = [name for name in inputs if name not in start.channels]
    new += [name for name in heads if name not in (BACKGROUND, *start.outputs)]
    exclusive = BACKGROUND in heads
    if exclusive != (BACKGROUND in start.source_outputs):
        kinds = ("regions", "labels") if exclusive else ("labels", "regions")
        names = f", and it has no {', '.join(new)}" if new else ""
        return f"it segments {kinds[0]}, and the dataset has {kinds[1]}{names}"
    if new:
        return f"it has no {', '.join(new)}"
    gone = sorted(set(start.source_channels) - set(start.channels.values()))
    if exclusive:
        gone += sorted({*start.source_outputs} - {BACKGROUND, *start.outputs.values()})
    if gone:
        return f"it has {', '.join(gone)}, too"
    for pairs in (start.channels, start.outputs if exclusive else {}):
        if twice := sorted({other for other in pairs.values() if list(pairs.values()).count(other) > 1}):
            return f"{', '.join(twice)} of it stands for several of the dataset's"
    if list(annotators) != start.source_annotators:
        return "it learned from other annotators"
    return ""
