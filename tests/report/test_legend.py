"""The legend of a picture: whom it names, and how much room it takes."""

import numpy as np

from autoseg.report.legend import MOST_COLUMNS, MOST_NAMES, Legend, present
from autoseg.report.style import figure


def stripes(count: int) -> np.ndarray:
    """A slice with these many structures; the higher a value, the larger its area."""
    return np.concatenate([np.full(value, value) for value in range(1, count + 1)])[None]


def test_what_is_seen_is_named_in_order() -> None:
    values = {"c": [3], "a": [1, 2], "none": [9], "b": [2]}
    legend = Legend.of([np.array([[0, 3, 3]]), np.array([[2]])], values, outlined=True, width=10.5)
    assert legend.labels == ["c", "a", "b", "outline: reference"]
    assert legend.columns == 4
    assert present(np.array([[0, 3, 3]]), values) == {"c": [3]}


def test_of_many_structures_the_largest_are_named() -> None:
    names = {f"label {value}": [value] for value in range(1, 105)}
    legend = Legend.of([stripes(104)], names, outlined=False, width=10.5)
    assert legend.names == tuple(f"label {value}" for value in range(105 - MOST_NAMES, 105))
    assert legend.labels[-1] == f"and {104 - MOST_NAMES} more"
    assert len(legend.labels) == MOST_NAMES + 1


def test_long_names_stand_in_fewer_columns_and_more_rows() -> None:
    def of(length: int, width: float = 10.5) -> Legend:
        names = {f"{value:0{length}}": [value] for value in range(1, 13)}
        return Legend.of([stripes(12)], names, outlined=False, width=width)

    assert of(4).columns == MOST_COLUMNS
    assert 1 < of(35).columns < MOST_COLUMNS
    assert of(35, width=6).columns == 1
    assert of(35).height > of(4).height > 0
    assert all(len(label) < 200 and label.endswith("…") for label in of(200).labels)
    assert Legend.of([np.zeros((2, 2), int)], {"a": [1]}, outlined=False, width=6).height == 0


def test_it_fits_into_the_figure() -> None:
    names = {f"{value}_portal_vein_and_splenic_vein": [value] for value in range(1, 40)}
    legend = Legend.of([stripes(39)], names, outlined=True, width=10.5)
    with figure(10.5, 4 + legend.height) as fig:
        legend.draw(fig, dict.fromkeys(names, (0.5, 0.5, 0.5, 1.0)))
        fig.draw_without_rendering()
        box = fig.legends[0].get_window_extent()
    assert box.width <= 10.5 * fig.dpi
    assert box.height <= (legend.height + 0.3) * fig.dpi
