"""Memory of the host: the least of what the system and a container's limit leave."""

from pathlib import Path

import pytest

from autoseg.utils import host_memory
from autoseg.utils.host_memory import available_memory, free_swap


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of what Linux tells."""
    monkeypatch.setattr(host_memory, "_SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "_GROUP", tmp_path)
    return tmp_path


def test_where_nothing_is_told_nothing_is_known(told: Path) -> None:
    assert available_memory() is None
    assert free_swap() == 0
    for text in ("MemTotal: 8 kB\n", "\nMemAvailable:\nSwapFree:\n", "MemAvailable: much\nSwapFree: none\n"):
        (told / "meminfo").write_text(text)
        assert available_memory() is None
        assert free_swap() == 0


def test_a_container_s_limit_counts_without_the_files_that_were_read(told: Path) -> None:
    (told / "meminfo").write_text("MemTotal:        8000 kB\nMemFree:  10 kB\nMemAvailable:    4000 kB\n")
    assert available_memory() == 4_096_000
    (told / "memory.max").write_text("max\n")
    assert available_memory() == 4_096_000
    (told / "memory.max").write_text("3000000\n")
    assert available_memory() == 4_096_000  # of the limit it is not known how much is taken
    (told / "memory.current").write_text("2900000\n")
    (told / "memory.stat").write_text("anon 800000\ninactive_file 1500000\nactive_file 600000\nfile 2100000\n")
    assert available_memory() == 2_200_000
    (told / "memory.current").write_text("5300000\n")
    assert available_memory() == 0


def test_swap_counts_as_far_as_a_container_may_use_it(told: Path) -> None:
    (told / "meminfo").write_text("MemAvailable:    4000 kB\nSwapTotal:   3000 kB\nSwapFree:   2000 kB\n")
    assert (available_memory(), free_swap()) == (4_096_000, 2_048_000)
    for limit, used, free in (("max", 5, 2_048_000), ("0", 0, 0), ("1500000", 500_000, 1_000_000), ("9", 10, 0)):
        (told / "memory.swap.max").write_text(f"{limit}\n")
        (told / "memory.swap.current").write_text(f"{used}\n")
        assert free_swap() == free
