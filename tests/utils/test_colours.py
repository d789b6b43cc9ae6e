"""Colours are told apart, as CIELAB has it (computed by scikit-image)."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from autoseg.report.style import rgb
from autoseg.utils.colours import colours


def lab(names: list[str]) -> np.ndarray:
    return rgb2lab(np.array([[rgb(name) for name in names]]))[0]


@pytest.mark.parametrize(("count", "apart"), [(8, 25), (14, 25), (24, 18), (104, 7)])
def test_structures_are_told_apart(count: int, apart: float) -> None:
    """Two colours whose distance is 2.3 are just told apart side by side."""
    found = lab(colours(count))
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
    assert distances[~np.eye(count, dtype=bool)].min() > apart
    assert np.linalg.norm(found[:, 1:], axis=1).min() > 18, "a colour like the grey of an image"


def test_colours_stay_with_more_structures() -> None:
    many = colours(300)
    assert len(set(many)) == 300
    for count in (0, 1, 8, 9, 24):
        assert colours(count) == many[:count]


def test_more_than_there_are() -> None:
    assert len(colours(2000)) == 2000
