"""Pictures: which slice, which part, in proportion, in the right colours."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from autoseg.data.counts import value_counts
from autoseg.report.overlay import best_slice, field_of_view, grey_window, overlay_png
from autoseg.report.style import rgb
from autoseg.utils.colours import colours
from tests.report.fake import SPACING, labels

NAMES = {"outer": 1, "inner": [2]}
VALUES = {"outer": [1], "inner": [2]}


def pixels(content: bytes) -> np.ndarray:
    """RGB of a PNG file's content, ``(row, column, 3)`` from 0 to 1."""
    return imread(io.BytesIO(content), format="png")[..., :3]


def share(picture: np.ndarray, colour: tuple[float, float, float]) -> float:
    """Share of a picture's pixels that have a colour's hue."""
    close = np.abs(picture - np.asarray(colour)).max(axis=-1) < 0.04
    return float(close.mean())


def test_the_slice_with_most_of_every_structure_is_shown() -> None:
    reference = labels()
    assert best_slice(reference, reference, 0, VALUES) in (4, 5)  # where the small inner structure is
    empty = np.zeros_like(reference)
    assert best_slice(empty, reference, 0, VALUES) in (4, 5)
    assert best_slice(empty, empty, 0, VALUES) == 5


def test_the_structures_and_their_surroundings_are_shown() -> None:
    large = np.zeros((60, 200, 200), np.uint8)
    large[30, 100:110, 100:110] = 1
    box = field_of_view(large, None, (4.0, 1.0, 1.0), VALUES)
    assert box == (slice(20, 41), slice(60, 150), slice(60, 150))
    assert field_of_view(np.zeros_like(large), None, SPACING, VALUES) == tuple(slice(0, n) for n in large.shape)


def test_grey_values_leave_out_padding() -> None:
    image = np.zeros((10, 10, 10), np.float32)
    image[3:8, 3:8, 3:8] = np.linspace(100, 200, 125).reshape(5, 5, 5)
    low, high = grey_window(image)
    assert low == 0
    assert high == pytest.approx(199.6, abs=1)
    assert grey_window(np.zeros((2, 2, 2)))[1] > 0


def test_prediction_is_filled_and_reference_outlined() -> None:
    image = np.zeros(labels().shape, np.float32)
    alone = pixels(overlay_png(image, labels(), None, SPACING, NAMES))
    outlined = pixels(overlay_png(image, np.zeros_like(labels()), labels(), SPACING, NAMES))
    fill = tuple(0.45 * part for part in rgb(colours(2)[0]))  # over black
    assert share(alone, fill) > 0.1
    assert share(outlined, fill) < 0.01  # blended edges of the outline
    assert share(outlined, rgb(colours(2)[0])) > 0.002


def test_pixels_are_in_proportion_to_the_spacing() -> None:
    cube = np.zeros((8, 24, 24), np.uint8)  # a cube of 24 mm with slices of 3 mm
    cube[2:6, 6:18, 6:18] = 1
    picture = pixels(overlay_png(None, cube, None, (3.0, 1.0, 1.0), {"cube": 1}))
    seen = picture[:-60]  # without the legend
    filled = np.abs(seen - (0.45 * np.asarray(rgb(colours(1)[0])) + 0.55 * 0.13)).max(axis=-1) < 0.04
    columns = np.flatnonzero(filled.any(axis=0))
    panels = np.split(columns, np.flatnonzero(np.diff(columns) > 20) + 1)
    assert len(panels) == 3
    for panel in panels:
        rows = np.flatnonzero(filled[:, panel].any(axis=1))
        assert np.ptp(rows) == pytest.approx(np.ptp(panel), rel=0.05)


def test_without_an_image_or_any_label(tmp_path: Path) -> None:
    empty = np.zeros((4, 9, 7), np.uint8)
    out = tmp_path / "pictures" / "case.png"
    content = overlay_png(None, empty, empty, SPACING, NAMES, title="a & b $x$", out=out)
    assert out.read_bytes() == content


def test_a_flat_picture_has_one_view() -> None:
    flat = np.zeros((1, 40, 60), np.uint8)
    flat[0, 10:30, 20:40] = 1
    content = overlay_png(np.ones((1, 40, 60)), flat, flat, (1.0, 1.0, 1.0), {"square": 1}, title="picture")
    assert pixels(content).shape[1] < 800


def test_many_structures_take_no_more_passes_over_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    visited = 0

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(array: np.ndarray, *others: object) -> Any:
            nonlocal visited
            visited += array.size
            return function(array, *others)

        return counted

    monkeypatch.setattr(np, "isin", counting(np.isin))
    for module in ("overlay", "legend"):
        monkeypatch.setattr(f"autoseg.report.{module}.value_counts", counting(value_counts))
    many = np.random.default_rng(0).integers(0, 120, (40, 40, 40)).astype(np.uint8)
    overlay_png(None, many, many, (1.0, 1.0, 1.0), {f"label {n}": n for n in range(1, 105)})
    assert visited < 50 * many.size


def test_the_legend_takes_no_room_from_the_pictures() -> None:
    cube = np.zeros((20, 20, 20), np.uint8)
    cube[5:15, 5:15, 5:15] = np.arange(1, 101, dtype=np.uint8).reshape(10, 10)
    few, many = (
        pixels(overlay_png(None, cube, None, (1.0, 1.0, 1.0), {f"{n}_{'x' * 40}": n for n in range(1, count + 1)}))
        for count in (1, 100)
    )
    assert many.shape[0] > few.shape[0] + 100
    dark = [int((np.abs(picture - 0.13).max(axis=-1) < 0.02).any(axis=1).sum()) for picture in (few, many)]
    assert dark[1] >= 0.9 * dark[0]


def test_more_structures_than_colours() -> None:
    many = np.arange(1, 31, dtype=np.uint8).repeat(8).reshape(1, 15, 16)
    assert overlay_png(None, many, many, (1.0, 1.0, 1.0), {f"label {n}": n for n in range(1, 31)})


@pytest.mark.parametrize("name", ["肿瘤", "腫瘍", "ورم", "종양", "ट्यूमर", "cost $x^{", "[/bold]"])
def test_names_in_any_script_are_drawn_without_a_warning(name: str) -> None:
    cube = np.zeros((8, 8, 8), np.uint8)
    cube[2:6, 2:6, 2:6] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert overlay_png(cube * 1.0, cube, cube, (1.0, 1.0, 1.0), {name: 1}, title=name)[1:4] == b"PNG"
