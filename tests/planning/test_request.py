"""What a user asks of planning, and what a planner is given of it."""

import math
from dataclasses import fields

import pytest

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
    assert found.gpu_memory_gb == default_budget(found.device) > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Request(device="tpu"), "--device tpu"),
        (Request(None, "cpu", -1), "-1"),
        (Request(None, "cpu", math.inf), "--gpu-memory inf is no budget"),
        (Request(None, "cpu", math.nan), "--gpu-memory nan is no budget"),
        (Request(folds=0), "--folds 0 is too few"),
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
