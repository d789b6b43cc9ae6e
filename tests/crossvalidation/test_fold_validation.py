"""Validation of a fold: how long it will take."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from autoseg.crossvalidation import fold_validation as module
from autoseg.crossvalidation.fold_validation import RESERVE_MARGIN, prediction_seconds
from autoseg.inference.sliding_window import SlidingWindow
from tests.builders import DEVICES, blob, make_configuration, make_plan, store

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.mark.parametrize("name", DEVICES)
def test_the_estimate_is_of_passes_that_are_done(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on while the device is waited for, and then alone: two seconds a pass."""
    device, clock, done, wait_for = torch.device(name), [0.0], [], module.wait_for

    def wait(of: torch.device) -> None:
        wait_for(of)
        clock[0] += 2.0

    def monotonic() -> float:
        if device.type == "cuda":
            done.append(torch.cuda.current_stream(device).query())
        return clock[0]

    monkeypatch.setattr(module, "wait_for", wait)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=monotonic))
    patch = (96, 96, 96) if device.type == "cuda" else (8, 8, 8)
    stage = make_plan(make_configuration(patch)).stage()
    case = store(tmp_path, "c", blob())
    window = SlidingWindow.of(stage, device)
    passes = window.count(case.shape) * len(window.mirrorings)
    measured = len(window.mirrorings[:2])
    assert prediction_seconds([case], stage, device) == pytest.approx(RESERVE_MARGIN * 2.0 * passes / measured)
    assert all(done[1::2])
