"""Which sources can be used as they are, and what is said of the others."""

from collections.abc import Mapping, Sequence

import pytest

from autoseg.plans.recipe import Initialization
from autoseg.transfer.as_it_is import why_not_as_it_is

BRATS = ("whole_tumor", "tumor_core", "enhancing_tumor")


def why(
    channels: Mapping[str, str], of_source: Sequence[str], outputs: Mapping[str, str], source_outputs: Sequence[str]
) -> str:
    """The answer for a cohort with these channels and outputs, each with the source's that it is ("" for none)."""
    start = Initialization(
        source="model",
        file="f",
        source_channels=list(of_source),
        source_outputs=list(source_outputs),
        channels={name: other for name, other in channels.items() if other},
        outputs={name: other for name, other in outputs.items() if other},
    )
    return why_not_as_it_is(start, list(channels), list(outputs), [])


@pytest.mark.parametrize(
    ("outputs", "of_source", "told"),
    [
        # Each region has a head that decides alone, so that others may be left out.
        ({"whole_tumor": "whole_tumor"}, BRATS, ""),
        ({"TC": "tumor_core", "WT": "whole_tumor"}, BRATS, ""),
        ({name: name for name in BRATS}, BRATS, ""),
        ({"whole_tumor": "whole_tumor", "edema": ""}, BRATS, "it has no edema"),
        # The voxels of a label that is left out would go to another one: not without the source's own network.
        ({"background": "background", "a": "a", "b": "b"}, ["background", "b", "a"], ""),
        ({"background": "background", "a": "a"}, ["background", "a", "b"], "it has b, too"),
        (
            {"background": "background", "a": "a", "b": "a"},
            ["background", "a"],
            "a of it stands for several of the dataset's",
        ),
        ({"background": "", "a": "a"}, ["a", "b"], "it segments regions, and the dataset has labels"),
        ({"a": "a"}, ["background", "a"], "it segments labels, and the dataset has regions"),
    ],
)
def test_outputs(outputs: dict[str, str], of_source: Sequence[str], told: str) -> None:
    assert why({"t1": "t1"}, ["t1"], outputs, of_source) == told


@pytest.mark.parametrize(
    ("channels", "of_source", "told"),
    [
        ({"flair": "flair", "t1": "t1"}, ["t1", "flair"], ""),
        ({"flair": "flair"}, ["t1", "flair"], "it has t1, too, and is not known to do without"),
        ({"flair": "flair", "t1": ""}, ["flair"], "it has no t1"),
        ({"a": "flair", "b": "flair"}, ["flair", "t1"], "flair of it stands for several of the dataset's"),
        ({"a": "flair", "b": "flair"}, ["flair"], "flair of it stands for several of the dataset's"),
    ],
)
def test_channels(channels: dict[str, str], of_source: Sequence[str], told: str) -> None:
    """As many as the source's are not enough: two may be one of its."""
    assert why(channels, of_source, {"a": "a"}, ["a"]) == told
