"""Threads sleep while they wait where others keep the CPU busy, unless the user decided."""

import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.utils import cpu_sharing
from autoseg.utils.cpu_sharing import busy_share, share_cpu


@pytest.fixture(autouse=True)
def _torch_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def at_work(monkeypatch: pytest.MonkeyPatch, busy: float) -> None:
    monkeypatch.setattr(cpu_sharing, "busy_share", lambda: busy)


def test_a_shared_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work(monkeypatch, 0.9)
    environment: dict[str, str] = {}
    assert share_cpu(environment).startswith("Other jobs keep 90% of this CPU busy")
    assert environment == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}


def test_a_free_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work(monkeypatch, 0.05)
    environment: dict[str, str] = {}
    assert (share_cpu(environment), environment) == ("", {})


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_the_user_decides(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    at_work(monkeypatch, 0.9)
    environment = {name: "user's"}
    assert (share_cpu(environment), environment) == ("", {name: "user's"})


def test_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP has read its settings when torch is loaded."""
    at_work(monkeypatch, 0.9)
    monkeypatch.setitem(sys.modules, "torch", object())
    environment: dict[str, str] = {}
    assert (share_cpu(environment), environment) == ("", {})


def test_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 ticks on two cores, 10 idle on the first and 5 on the second: 25 of 40 are busy."""
    looks = iter([{"cpu0": (100, 50), "cpu1": (200, 20)}, {"cpu0": (120, 60), "cpu1": (220, 25)}])
    monkeypatch.setattr(cpu_sharing, "_ticks", lambda: next(looks))
    monkeypatch.setattr("autoseg.utils.cpu_sharing.time.sleep", lambda seconds: None)
    assert busy_share() == 25 / 40


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_sharing, "_ticks", dict)
    assert busy_share() == 0


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat here")
def test_this_system_tells() -> None:
    assert 0 <= busy_share() <= 1


def test_the_command_line_starts_without_torch() -> None:
    """Else it would be too late."""
    subprocess.run(
        [sys.executable, "-c", "import sys, autoseg.cli.main; assert 'torch' not in sys.modules"], check=True
    )
