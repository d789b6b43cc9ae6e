"""Reading ahead: in order, one case beside the one that is segmented, and none beside a large one."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autoseg.inference import read_ahead as module
from autoseg.inference.read_ahead import ReadAhead


class Reader:
    """Prepares numbers, notes those that were begun, and fails at some."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.begun: list[int] = []
        self.done = [threading.Event() for _ in range(4)]
        self.broken = broken

    def __call__(self, number: int) -> Any:
        self.begun.append(number)
        self.done[number].set()
        if number in self.broken:
            raise ValueError(f"{number} is broken")
        trace = SimpleNamespace(shape=(2, 2, 2), number=number)
        return [[SimpleNamespace(trace=trace, image=np.zeros((1, 2, 2, 2)))]]


def number_of(prepared: Any) -> int:
    return int(prepared[0][-1].trace.number)


def test_the_next_one_is_read_while_the_one_before_is_segmented() -> None:
    read = Reader()
    with ReadAhead(range(4), read) as reader:
        for number in range(4):
            assert number_of(reader.take()) == number
            if number < 3:
                assert read.done[number + 1].wait(60)
            assert read.begun == list(range(min(number + 2, 4)))


def test_after_a_large_one_the_next_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_AHEAD", 7)  # each has eight voxels
    read = Reader()
    with ReadAhead(range(3), read) as reader:
        for number in range(3):
            assert number_of(reader.take()) == number
            assert read.begun == list(range(number + 1))


def test_after_one_that_fails_comes_the_next() -> None:
    read = Reader(broken=(0, 2))
    with ReadAhead(range(4), read) as reader:
        for number in range(4):
            if number in read.broken:
                with pytest.raises(ValueError, match=f"{number} is broken"):
                    reader.take()
            else:
                assert number_of(reader.take()) == number
    assert read.begun == [0, 1, 2, 3]


def test_of_no_cases_none_is_read() -> None:
    read = Reader()
    with ReadAhead([], read):
        assert read.begun == []
