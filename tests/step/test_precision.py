"""In which precision a step is computed."""

from typing import Any

import pytest
import torch

from autoseg.step import precision as precision_of
from autoseg.step.precision import autocast, has_fast_bfloat16, resolve_precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("fp32", CPU, torch.float32),
        ("bf16", CPU, torch.bfloat16),
        ("fp32", CUDA, torch.float32),
        ("bf16", CUDA, torch.bfloat16),
        ("fp16", CUDA, torch.float16),
        ("auto", MPS, torch.float32),
        ("bf16", MPS, torch.float32),
        ("fp16", MPS, torch.float32),
    ],
)
def test_precision(precision: Any, device: torch.device, expected: torch.dtype) -> None:
    assert resolve_precision(precision, device) == expected


def test_automatic_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert resolve_precision("auto", CUDA) == expected
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision_of, "has_fast_bfloat16", lambda found=fast: found)
        assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(("emulated", "expected"), [(False, torch.bfloat16), (True, torch.float32)])
def test_a_plan_with_fp16_on_a_cpu(emulated: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """No CPU computes in float16; bfloat16 that it emulates takes some twenty times as long as float32."""
    monkeypatch.setattr(precision_of, "emulates_bfloat16", lambda dimensions: emulated)
    assert resolve_precision("fp16", CPU) == expected


def test_autocast_casts() -> None:
    a = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(CPU, dtype):
            assert (a @ a).dtype == dtype


def test_bfloat16_is_fast_or_not() -> None:
    assert has_fast_bfloat16() in (True, False)


@pytest.mark.parametrize(("seconds", "emulated"), [(0.5, False), (2.0, False), (30.0, True)])
def test_bfloat16_that_is_emulated(seconds: float, emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {torch.float32: 1.0, torch.bfloat16: seconds}
    monkeypatch.setattr(precision_of, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(precision_of, "_convolution_seconds", lambda image: taken[image.dtype])
    measured = precision_of.emulates_bfloat16.__wrapped__
    assert measured(3) == emulated
    monkeypatch.setattr(precision_of, "has_fast_bfloat16", lambda: True)
    assert not measured(3)  # what the CPU says of itself counts


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_small_convolution_is_timed(dimensions: int) -> None:
    image = torch.zeros(2, 16, *(4,) * dimensions)
    assert 0 < precision_of._convolution_seconds(image) < 60
