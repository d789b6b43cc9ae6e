import math
from pathlib import Path

import pytest

from autoseg.training import callbacks
from tests.builders import blob, store


@pytest.fixture(autouse=True)
def _one_core(one_core: None) -> None:
    """Every test of this folder."""


@pytest.fixture
def cases(tmp_path: Path) -> list:
    return [store(tmp_path / "data", f"c{n}", blob(shift=n % 2)) for n in range(3)]


@pytest.fixture(autouse=True)
def always_validate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is time for a validation must not depend on the machine."""
    monkeypatch.setattr(callbacks, "VALIDATION_SHARE", math.inf)
