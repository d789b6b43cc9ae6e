"""What a source has more than a cohort, as the plan says it."""

from collections.abc import Mapping, Sequence

import pytest
from pydantic import ValidationError

from autoseg.plans.postprocessing import Step
from autoseg.plans.recipe import Initialization
from autoseg.plans.stage import Stage
from autoseg.plans.target import Output, Target
from autoseg.plans.untouched import Untouched
from autoseg.transfer.tensors import head_names
from autoseg.transfer.untouched import with_untouched
from tests.builders import LABELS, REGIONS, make_configuration, make_plan, make_recipe

STEPS = [Step(kind="largest_component", output="inner")]


def source_of(
    target: Target = LABELS, channels: Sequence[str] = ("mr",), dropout: float = 0.0, mirrored: Sequence[int] = ()
) -> Stage:
    recipe, inference = make_recipe(channel_dropout=dropout), {"mirror_axes": list(mirrored), "overlap": 0.25}
    return make_plan(make_configuration(recipe=recipe, inference=inference), channels=channels, target=target).stage()


def start_of(source: Stage, channels: Mapping[str, str], outputs: Mapping[str, str]) -> Initialization:
    return Initialization(
        source="model",
        file="f",
        source_channels=source.channel_names,
        source_outputs=head_names(source.target),
        channels=dict(channels),
        outputs=dict(outputs),
    )


def untouched(
    source: Stage, channels: Mapping[str, str], outputs: Mapping[str, str], mirror_axes: Sequence[int] = ()
) -> Untouched | None:
    """Of a cohort with these channels and outputs, each with the source's that it is."""
    values = {name: place for place, name in enumerate(outputs, start=1)}
    found = [Output(name=name, values=[value], paint=value) for name, value in values.items()]
    target = Target(kind=source.target.kind, outputs=found)
    return with_untouched(start_of(source, channels, outputs), source, STEPS, target, mirror_axes).untouched


BOTH = {"outer": "outer", "inner": "inner"}


def test_nothing_more() -> None:
    assert untouched(source_of(), {"mr": "mr"}, BOTH) is None


def test_other_mirroring() -> None:
    found = untouched(source_of(mirrored=[0, 2]), {"mr": "mr"}, BOTH)
    assert found is not None
    assert (found.mirror_axes, found.has_network) == ([0, 2], False)


def test_labels_by_other_names() -> None:
    """One that both have goes by the cohort's name, and the source's of this name by another."""
    found = untouched(source_of(), {"mr": "mr"}, {"inner": "outer"})
    assert found is not None
    assert found.target is not None
    assert [output.name for output in found.target.outputs] == ["inner", "the source's inner"]
    assert found.values == {1: 1, 2: 0}
    assert [str(step) for step in found.postprocessing] == ["the source's inner: largest component"]


def test_channels_in_the_source_s_order() -> None:
    source = source_of(channels=("t1", "flair"), dropout=0.3)
    found = untouched(source, {"fl": "flair"}, BOTH)
    assert found is not None
    assert [channel.name for channel in found.channels] == ["the source's t1", "fl"]
    # Where it can't go without, nothing is gained by more labels either.
    assert untouched(source_of(channels=("t1", "flair")), {"fl": "flair"}, {"inner": "inner"}) is None


def test_two_regions_of_one() -> None:
    """A region that stands for two of the cohort has no single name: the cohort's heads alone are used."""
    source = source_of(REGIONS)
    assert untouched(source, {"mr": "mr"}, {"whole": "whole", "lesion": "whole"}) is None


def test_as_its_own_run_predicts() -> None:
    """The stage of the source: its channels, heads and mirroring, with what the plan says of the channels of both."""
    source = source_of(channels=("t1", "flair"), dropout=0.3, mirrored=[1])
    cohort = Target(kind="labels", outputs=[Output(name="inner", values=[1], paint=1)])
    start = start_of(source, {"fl": "flair"}, {"background": "background", "inner": "inner"})
    start = with_untouched(start, source, STEPS, cohort, [])
    recipe = make_recipe(initialization=start)
    stage = make_plan(make_configuration(recipe=recipe), channels=("fl",), target=cohort).stage()
    own = stage.as_source
    assert (own.channel_names, own.in_channels, own.heads) == (["the source's t1", "fl"], 2, 3)
    assert own.result == own.target
    assert own.takes_missing_channels
    assert not stage.takes_missing_channels
    assert (own.inference.mirror_axes, own.inference.overlap) == ([1], 0.25)
    assert own.channels[1] is stage.channels[0]
    assert stage.differs_for_source
    assert own.identity != stage.identity


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"values": {1: 1}}, "values must name each value"),
        ({"postprocessing": [Step(kind="largest_component", output="rim")]}, "postprocessing names rim"),
        ({"target": None}, "values must name each value"),
    ],
)
def test_contradictions_are_refused(changed: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Untouched(**{"target": LABELS, "values": {1: 1, 2: 0}, **changed})  # type: ignore[arg-type]


def test_as_many_as_the_source_has() -> None:
    names = {"source_channels": ["mr"], "source_outputs": ["background", "outer"]}
    with pytest.raises(ValidationError, match="as many heads as source_outputs"):
        Initialization(source="model", file="f", **names, untouched=Untouched(target=LABELS, values={1: 1, 2: 0}))
