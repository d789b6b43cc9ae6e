"""From what a source segments as it is to what its run writes."""

import numpy as np

from autoseg.inference.translation import Translation
from autoseg.plans.postprocessing import Step
from autoseg.plans.target import Output, Target
from tests.builders import LABELS, loaded, make_plan

WIDE = Target(kind="labels", outputs=[Output(name="outer", values=[70000], paint=70000)])


def test_label_maps_get_the_plan_s_values() -> None:
    translation = Translation(LABELS, ("mr",), {3: 1, 1: 2, 2: 0})
    found = translation.label(np.array([[[0, 1, 2, 3]]], np.int32))
    assert found.dtype == np.int16
    assert found.tolist() == [[[0, 2, 0, 1]]]
    assert Translation(WIDE, ("mr",), {1: 70000}).label(np.ones((1, 1, 1), np.int16)).tolist() == [[[70000]]]
    own = np.ones((1, 1, 1), np.int16)
    assert Translation(LABELS, ("mr",), {}).label(own) is own


def test_channels_are_in_the_source_s_order() -> None:
    """What the plan has not is missing; so is what the case lacks."""
    source = make_plan(channels=["more", "flair", "t1"]).stage()
    translation = Translation(LABELS, ("t1", "flair"), {})
    image = np.stack([np.full((2, 2, 2), value, np.float32) for value in (1, 2)])
    case = translation.loaded(loaded(image, present=(True, False)), source)
    assert case.image[:, 0, 0, 0].tolist() == [0, 2, 1]
    assert case.present == (False, False, True)


def test_without_post_processing() -> None:
    step = Step(kind="largest_component", output="outer")
    assert Translation(LABELS, ("mr",), {}, (step,)).uncleaned == Translation(LABELS, ("mr",), {})
