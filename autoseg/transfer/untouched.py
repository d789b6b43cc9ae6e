"""What a source has more than a cohort, and mirrors otherwise: with it, it predicts as its own run does."""

from collections.abc import Collection, Mapping

from autoseg.plans.postprocessing import Step
from autoseg.plans.recipe import Initialization
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.plans.untouched import Untouched
from autoseg.transfer.label_values import painted_values

#: Before the name of what a source alone has, where the plan must not take it for its own.
_SOURCES = "the source's"


def with_untouched(
    start: Initialization, stage: Stage, steps: Collection[Step], target: Target, mirror_axes: Collection[int]
) -> Initialization:
    """Initial weights with what their source has more than the plan; as they are where that is nothing.

    Channels that it alone has are left out of images, as far as it was trained to go without channels; labels and
    regions that it alone has are left out of its label maps. It is nothing, too, of a source of annotators, and where
    either can't be done.

    Args:
        start: of the recipe; names what both have.
        stage: of the source: a single one, not of several.
        steps: its post-processing, by its names.
        target: of the plan.
        mirror_axes: of the plan's test-time augmentation.
    """
    channels = {other: name for name, other in start.channels.items()}
    more_channels = [channel.name for channel in stage.channels if channel.name not in channels]
    if stage.annotators or stage.target.kind != target.kind or (more_channels and not stage.takes_missing_channels):
        return start
    own = Untouched(mirror_axes=stage.inference.mirror_axes, reasons={"mirror_axes": "the source's, as it is"})
    if more_channels:
        named = [_renamed(channel.name, channels, ()) for channel in stage.channels]
        ours = [one.model_copy(update={"name": name}) for one, name in zip(stage.channels, named, strict=True)]
        why = f"it was trained to go without {', '.join(more_channels)}"
        own = own.model_copy(update={"channels": ours, "reasons": {**own.reasons, "channels": why}})
    own = _with_outputs(own, start, stage, steps, target)
    if own.has_network or list(own.mirror_axes) != list(mirror_axes):
        return start.model_copy(update={"untouched": own})
    return start


def _with_outputs(
    own: Untouched, start: Initialization, stage: Stage, steps: Collection[Step], target: Target
) -> Untouched:
    """The same with all outputs of the source, where it has more than the plan."""
    wanted = [output.name for output in target.outputs]
    pairs = {other: name for name, other in start.outputs.items() if name in wanted}
    more = [output.name for output in stage.target.outputs if output.name not in pairs]
    if not more or len(pairs) < len([name for name in wanted if name in start.outputs]):
        return own  # one that stands for several of the plan's has no single name
    names = {output.name: _renamed(output.name, pairs, wanted) for output in stage.target.outputs}
    outputs = [one.model_copy(update={"name": names[one.name], "reasons": {}}) for one in stage.target.outputs]
    whole = Target(kind=stage.target.kind, outputs=outputs)
    values = painted_values(whole, target)
    if values is None:
        return own
    return own.model_copy(
        update={
            "target": whole,
            "values": values,
            "postprocessing": [step.model_copy(update={"output": names[step.output]}) for step in steps],
            "reasons": {**own.reasons, "target": f"{', '.join(more)} of it is none of the plan's, and left out last"},
        }
    )


def _renamed(name: str, pairs: Mapping[str, str], plan: Collection[str]) -> str:
    """The plan's name of what both have; of what the source alone has its own, unless it may be taken for the plan's.

    Args:
        name: in the source.
        pairs: the source's name → the plan's.
        plan: names that the plan gives itself; none where images may have any.
    """
    if name in pairs:
        return pairs[name]
    unmistakable = name not in plan if plan else name.startswith(_SOURCES)
    return name if unmistakable else f"{_SOURCES} {name}"
