"""Which device, and in which precision."""

import pytest
import torch

from autoseg.step.precision import autocast, has_fast_bfloat16, resolve_precision
from autoseg.utils import device as module
from autoseg.utils.device import keep_large_blocks, select_device
from autoseg.utils.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be on another machine."""

    def pretend(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


def test_auto(machine) -> None:
    for options, kind in (({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 1, "mps": True}, "cuda")):
        machine(**options)
        assert select_device("auto").type == select_device().type == kind
    assert select_device("cpu") == CPU


def test_what_is_not_there(machine) -> None:
    machine()
    for name, reason in (
        ("cuda", "there is no CUDA device here; use --device cpu"),
        ("cuda:1", "there is no CUDA device here"),
        ("mps", "there is no Metal device here"),
        ("tpu", "choose auto, cpu, cuda or mps"),
        ("", "choose auto"),
        ("cpu:x", "is unknown"),
    ):
        with pytest.raises(UsageError, match=f"--device {name}.*{reason}"):
            select_device(name)


def test_one_of_several(machine) -> None:
    machine(cuda=2)
    assert select_device("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:2", "cuda:x", "cuda:-1"):
        with pytest.raises(UsageError, match=f"--device {name}"):
            select_device(name)


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("fp32", CPU, torch.float32),
        ("bf16", CPU, torch.bfloat16),
        ("fp16", CPU, torch.bfloat16),  # no CPU computes in float16
        ("fp32", CUDA, torch.float32),
        ("bf16", CUDA, torch.bfloat16),
        ("fp16", CUDA, torch.float16),
        ("auto", torch.device("mps"), torch.float32),
    ],
)
def test_precision(precision, device: torch.device, expected: torch.dtype) -> None:
    assert resolve_precision(precision, device) == expected


def test_automatic_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert resolve_precision("auto", CUDA) == expected
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(module, "has_fast_bfloat16", lambda found=fast: found)
        assert resolve_precision("auto", CPU) == expected


def test_autocast_casts() -> None:
    a = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(CPU, dtype):
            assert (a @ a).dtype == dtype


def test_questions_have_answers_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_fast_bfloat16() in (True, False)
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert keep_large_blocks() is False
