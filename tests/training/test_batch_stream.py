"""The thread that reads batches ahead: nothing of a training outlives it."""

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoseg.training import batch_stream
from autoseg.training.batch_stream import BatchStream
from autoseg.training.case_cache import CaseCache
from autoseg.training.training import Budget
from autoseg.utils.errors import AutosegError
from tests.builders import make_plan, train_in


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[CaseCache]]:
    """Batches are read ahead as for a CUDA device; the caches that they are read from are noted."""
    made: list[weakref.ref[CaseCache]] = []
    plain = BatchStream.__init__

    def reading_ahead(self: BatchStream, loader: Any, maker: Any, readers: int) -> None:
        plain(self, loader, maker, readers)
        self._ahead = batch_stream._ReadAhead(loader, self._readers)
        self._beside = SimpleNamespace(stream=None, hand_over=lambda made: None)  # type: ignore[assignment]
        made.append(weakref.ref(loader.cache))

    monkeypatch.setattr(BatchStream, "__init__", reading_ahead)
    return made


def train(tmp_path: Path, cases: list) -> None:
    train_in(tmp_path / "f", make_plan().stage(), cases[:2], cases[2:], Budget(iterations=3), workers=2)


@pytest.mark.usefixtures("without_collector")
def test_cases_are_given_back_when_the_training_ends(tmp_path: Path, cases: list, caches: list) -> None:
    train(tmp_path, cases)
    assert [cache() for cache in caches] == [None]


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("at", ["reading", "a step"])
def test_also_after_an_error(
    tmp_path: Path, cases: list, caches: list, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a batch is read, or in the loop when one that can't be read lies ready."""

    def damaged(*_: Any) -> Any:
        raise AutosegError("the file is damaged")

    if at == "reading":
        monkeypatch.setattr(CaseCache, "read", damaged)
    else:
        monkeypatch.setattr("autoseg.training.training.Training.next_batch", damaged)
        monkeypatch.setattr(CaseCache, "read", damaged)
    with pytest.raises(AutosegError, match="the file is damaged") as told:
        train(tmp_path, cases)
    del told
    assert [cache() for cache in caches] == [None]
