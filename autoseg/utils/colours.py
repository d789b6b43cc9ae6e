"""Colours that tell structures, folds and settings apart."""

from functools import cache

import numpy as np

#: The first ones, distinguishable with colour-blindness and on grey images (Okabe & Ito 2008).
_FIRST = ("#E69F00", "#56B4E9", "#D6569B", "#009E73", "#F0E442", "#7A5CD6", "#D55E00", "#0072B2")

#: Further ones are chosen among so many steps of red, green and blue, of 0 to 255,
_STEPS = 10

#: that are so far from grey (largest less smallest component),
_SATURATION = 77

#: and so bright (luma of ITU-R BT.601).
_BRIGHTNESS = 70


def colours(count: int) -> list[str]:
    """A colour for each of ``count`` structures, as ``#RRGGBB``: the same ones first, whatever the count.

    Beyond the first eight each is the one that is farthest from all before it. More than 700 differ; then they repeat.
    """
    known = _FIRST if count <= len(_FIRST) else _farthest()
    return [known[index % len(known)] for index in range(count)]


def red_green_blue(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of ``#RRGGBB``, from 0 to 255."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue


@cache
def _farthest() -> tuple[str, ...]:
    """The first ones, and all others in the order of their distance to those before."""
    steps = np.linspace(0, 255, _STEPS).round()
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    bright = cube @ [0.299, 0.587, 0.114] >= _BRIGHTNESS
    open_ones = cube[bright & (np.ptp(cube, axis=1) >= _SATURATION)]
    found = [np.array(red_green_blue(colour), float) for colour in _FIRST]
    nearest = np.min([_distances(open_ones, colour) for colour in found], axis=0)
    while nearest.any():
        found.append(open_ones[nearest.argmax()])
        nearest = np.minimum(nearest, _distances(open_ones, found[-1]))
    return tuple("#{:02X}{:02X}{:02X}".format(*colour.astype(int)) for colour in found)


def _distances(colours_: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Squared distances of colours (N×3) to one, roughly as seen: red counts more where there is much of it."""
    red = (colours_[:, 0] + colour[0]) / 2 / 256
    weights = np.stack([2 + red, np.full_like(red, 4), 3 - red], axis=1)
    return np.asarray((weights * (colours_ - colour) ** 2).sum(axis=1))
