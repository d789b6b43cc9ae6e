"""What a scan takes in memory is known before it is resampled: no more than it then takes, nor much less."""

import tracemalloc

import numpy as np
import pytest

from autoseg.inference import scan_size
from autoseg.inference.scan_size import bytes_on_grid, refuse_beyond_memory
from autoseg.plans.preprocessing import Preprocessing
from autoseg.preprocessing.case import preprocess_case
from autoseg.utils.errors import AutosegError
from tests.builders import blob, loaded, make_configuration, make_plan, picture_of


def free(monkeypatch: pytest.MonkeyPatch, size: float | None, swap: float = 0) -> None:
    monkeypatch.setattr(scan_size, "available_memory", lambda: size)
    monkeypatch.setattr(scan_size, "free_swap", lambda: swap)


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_takes_at_least_so_much(channels: int) -> None:
    case = loaded(np.stack([picture_of(blob((20, 24, 28)))] * channels))
    names = [f"c{number}" for number in range(channels)]
    stage = make_plan(make_configuration(spacing=(0.5, 0.5, 0.5)), channels=names).stage("small")
    preprocess_case(case, stage)  # what is kept for the next one counts for none
    tracemalloc.start()
    preprocess_case(case, stage)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bytes_on_grid(case, stage, [20, 24, 28]) <= peak < 2 * bytes_on_grid(case, stage, [20, 24, 28])


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing(transpose=(2, 0, 1)),
        Preprocessing(crop="none"),
        Preprocessing(transpose=(1, 2, 0), box=(4, 3, 9)),
        Preprocessing(orientation="ras"),
    ],
)
def test_what_is_cut_away_takes_no_room(preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid is the one that preprocessing makes, whatever the axes; one byte less of memory is too little."""
    image = np.zeros((10, 12, 14), np.float32)
    image[2:7, 1:10, 3:11] = picture_of(blob())[2:7, 1:10, 3:11]
    case = loaded(image, spacing=(3.0, 0.7, 1.1))
    stage = make_plan(make_configuration(spacing=(2.0, 0.5, None)), preprocessing=preprocessing).stage("small")
    size = scan_size.LEAST_BYTES * preprocess_case(case, stage).image.size
    free(monkeypatch, size)
    refuse_beyond_memory("p", case, stage)
    free(monkeypatch, size - 1)
    with pytest.raises(AutosegError, match=r"^p takes at least "):
        refuse_beyond_memory("p", case, stage)
    free(monkeypatch, size - 1, swap=1)  # slowly, but it is done
    refuse_beyond_memory("p", case, stage)


def test_a_spacing_that_is_ten_times_too_large_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    case, stage = loaded(picture_of(blob()), spacing=(10.0, 10.0, 30.0)), make_plan().stage("small")
    asked: list[int] = []
    free(monkeypatch, 2e7, swap=1e6)
    # Less is free at the second time; what is named is what was too little.
    monkeypatch.setattr(scan_size, "available_memory", lambda: asked.append(1) or (3e7 if len(asked) == 1 else 2e7))
    said = (
        r"^p takes at least 0\.0403 GB of memory at the spacing of 1×1×1 mm of the configuration small, and 0\.021 GB "
        r"are free; see whether its own spacing of 10×10×30 mm is right, or predict it where there is more\.$"
    )
    with pytest.raises(AutosegError, match=said):
        refuse_beyond_memory("p", case, stage)
    assert len(asked) == 2
    free(monkeypatch, None)  # not every system says it
    refuse_beyond_memory("p", case, stage)
