"""Which device."""

import pytest
import torch

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


def test_questions_have_answers_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert keep_large_blocks() is False
