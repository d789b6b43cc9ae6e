"""Whether a source can be used as it is on a cohort: scored beside the tuned networks, mixed with them, and kept."""

from collections.abc import Collection, Sequence

from pydantic import BaseModel

from autoseg.plans.reasons import without_reasons
from autoseg.plans.recipe import Initialization
from autoseg.plans.stage import Stage
from autoseg.transfer.tensors import BACKGROUND, head_names, input_names

#: Parts of inference that change no label map, or that the command says.
_NO_MATTER = {"checkpoint", "precision", "tile_batch"}


def why_not_as_it_is(
    start: Initialization, inputs: Sequence[str], heads: Sequence[str], annotators: Sequence[str]
) -> str:
    """Why a source can't be used as it is, in words; empty where it can.

    Its channels, labels and annotators must be the cohort's. It may have more channels, labels and regions, where it
    is used with all of them (:mod:`autoseg.transfer.untouched`), and more regions in any case: each has a head that
    decides alone, so that the others' weights can be left out.

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
    for pairs in (start.channels, start.outputs if exclusive else {}):
        if twice := sorted({other for other in pairs.values() if list(pairs.values()).count(other) > 1}):
            return f"{', '.join(twice)} of it stands for several of the dataset's"
    own, channels = start.untouched, sorted(set(start.source_channels) - set(start.channels.values()))
    if channels and (own is None or not own.channels):
        return f"it has {', '.join(channels)}, too, and is not known to do without"
    outputs = sorted({*start.source_outputs} - {BACKGROUND, *start.outputs.values()})
    if exclusive and outputs and (own is None or own.target is None):
        return f"it has {', '.join(outputs)}, too"
    if list(annotators) != start.source_annotators:
        return "it learned from other annotators"
    return ""


def why_not_scored(stage: Stage) -> str:
    """Why the source of a stage that starts from one can't be scored as it is, in words."""
    start, heads = stage.recipe.initialization, head_names(stage.target)
    why = why_not_as_it_is(start, input_names(stage), heads, stage.annotators)
    return why or "the run has the weights of one of its folds alone, as an earlier version planned it"


def planned_otherwise(stage: Stage, source: Stage) -> list[str]:
    """In what a source that is used as it is differs from what its own run predicts: parts of the plan, by name.

    Args:
        stage: of the plan, that starts from it.
        source: the source's own, as its run predicts.
    """
    ours = stage.as_source
    found = [name for name, here, there in _parts(ours, source) if here != there]
    left_out = len(ours.target.outputs) < len(source.target.outputs)
    return [*found, *(["regions"] if left_out else [])]


def _parts(ours: Stage, source: Stage) -> list[tuple[str, object, object]]:
    """What a prediction depends on beside weights: name, of the plan, of the source."""
    known = ours.recipe.initialization.channels
    normalized = {channel.name: channel.normalization for channel in source.channels}
    parts: list[tuple[str, object, object]] = [
        (f"channels.{channel.name}.normalization", channel.normalization, normalized[known[channel.name]])
        for channel in ours.channels
        if channel.name in known
    ]
    shared = (
        ("", ours.configuration, source.configuration, ("spacing", "resampling")),
        ("preprocessing.", ours.preprocessing, source.preprocessing, _fields(ours.preprocessing, {"harmonize"})),
        ("inference.", ours.inference, source.inference, _fields(ours.inference, _NO_MATTER | {"patch_size"})),
    )
    for before, here, there, names in shared:
        parts += [(f"{before}{name}", getattr(here, name), getattr(there, name)) for name in names]
    parts.append(("inference.patch_size", ours.configuration.tile_size, source.configuration.tile_size))
    return [(name, _plain(here), _plain(there)) for name, here, there in parts]


def _fields(part: BaseModel, but: Collection[str]) -> list[str]:
    return [name for name in type(part).model_fields if name != "reasons" and name not in but]


def _plain(value: object) -> object:
    return without_reasons(value.model_dump()) if isinstance(value, BaseModel) else value
