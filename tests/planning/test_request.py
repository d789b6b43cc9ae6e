"""What a user asks of planning, and what a planner is given of it."""

import math
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch

from autoseg.planning.request import DEVICES, Request, ResolvedRequest, default_budget
from autoseg.transfer.source import Source
from autoseg.transfer.teacher import Teacher
from autoseg.utils.errors import UsageError


def test_what_is_asked_reaches_the_planner() -> None:
    asked = Request(
        "mine", "mps", 3.5, ("a",), ("b",), ("x", "y"), {"encoder": "e"}, ("k=1",), 3, 7, 2, (Teacher("t"),)
    )
    found = asked.resolved()
    assert isinstance(found, ResolvedRequest)
    assert {each.name: getattr(found, each.name) for each in fields(Request)} == vars(asked)
    assert found.resolved() == found


def test_a_planner_is_always_given_a_device_and_a_budget() -> None:
    found = Request().resolved()
    assert found.device in DEVICES
    assert found.gpu_memory_gb == default_budget(torch.device(found.device)) > 0


def test_the_budget_is_that_of_the_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """92 % of it: of two GPUs the first, which is used where none is named, has 10 GB and the other 40."""
    properties = {index: SimpleNamespace(total_memory=size) for index, size in ((None, 1e10), (0, 1e10), (1, 4e10))}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[device.index])
    for name, budget in (("auto", 9.2), ("cuda", 9.2), ("cuda:0", 9.2), ("cuda:1", 36.8)):
        found = Request(device=name).resolved()
        assert (found.device, found.gpu_memory_gb) == ("cuda", budget)
        assert found.resolved() == found
    assert Request(device="cuda:1", gpu_memory_gb=3).resolved().gpu_memory_gb == 3
    with pytest.raises(UsageError, match="--device cuda:2: there are only 2 CUDA devices here"):
        Request(device="cuda:2").resolved()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Request(device="tpu"), "--device tpu"),
        (Request(None, "cpu", -1), "-1"),
        (Request(None, "cpu", math.inf), "--gpu-memory inf is no budget"),
        (Request(None, "cpu", math.nan), "--gpu-memory nan is no budget"),
        (Request(folds=0), "--folds 0 is too few"),
        (Request(device="cpu", max_time=0), "--max-time 0 s is no time to train in"),
    ],
)
def test_impossible_requests(wrong: Request, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        wrong.resolved()


def test_what_is_carried_is_found_by_its_kind() -> None:
    source, teacher = Source("s", tuning="all"), Teacher("t")
    request = Request(carried=(teacher, source))
    assert request.carries(Source) is source
    assert request.carries(Teacher) is teacher
    assert (request.start, Request(carried=(teacher,)).start, Request().start) == ("model", "scratch", "scratch")
    assert Request().carries(Source) is None
