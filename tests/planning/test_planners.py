"""Planners are found through entry points, and the mechanism names none of them."""

import ast
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import autoseg
from autoseg.planning import planners
from autoseg.planning.planners import Abilities, able_to, default_planner, find_planner, planner_can, starting_from
from autoseg.plans.families import FAMILIES
from autoseg.utils.errors import AutosegError, UsageError

PACKAGE = Path(autoseg.__file__).parent


class Point:
    """An entry point."""

    value = "somebody:plan"

    def __init__(self, name: str, abilities: Abilities | None) -> None:
        self.name = name
        self._abilities = abilities

    def load(self) -> object:
        def plan(*_: object) -> None: ...

        return plan if self._abilities is None else planner_can(self._abilities)(plan)  # type: ignore[type-var]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Abilities | None]:
    """Installed planners, to be filled."""
    found: dict[str, Abilities | None] = {}
    monkeypatch.setattr(planners, "entry_points", lambda group: [Point(*item) for item in found.items()])
    return found


def test_the_default_is_what_a_planner_says(installed: dict[str, Abilities | None]) -> None:
    installed.update(one=Abilities(default=True), two=None, other=Abilities(start="model", default=True))
    assert (default_planner(), default_planner("model")) == ("one", "other")
    installed["two"] = Abilities(default=True)
    with pytest.raises(UsageError, match="one and two would be the default for a start from scratch; choose one with"):
        default_planner()
    installed.clear()
    with pytest.raises(UsageError, match="no installed planner would be the default"):
        default_planner()


def test_messages_list_the_planners_that_can(installed: dict[str, Abilities | None]) -> None:
    assert able_to("decoders") == "another planner"
    installed.update(a=Abilities(decoders=True), b=Abilities(decoders=True, encoders=True), c=None)
    assert (able_to("decoders"), able_to("encoders"), starting_from("scratch")) == ("a or b", "b", "a, b or c")


class Broken(Point):
    """An entry point of a package that can't be imported."""

    def load(self) -> object:
        raise ImportError("no module named missing")


def test_a_broken_package_stops_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Broken("bad", None), Point("good", Abilities(default=True, decoders=True))]
    monkeypatch.setattr(planners, "entry_points", lambda group: points)
    assert default_planner() == able_to("decoders") == "good"
    with pytest.raises(AutosegError, match=r"--planner bad: somebody:plan can't be imported \(ImportError: no module"):
        find_planner("bad")


def test_ours_say_what_they_can() -> None:
    assert default_planner() in able_to("decoders")
    assert default_planner("model") == starting_from("model")
    assert "inflated" in able_to("image_weights")


def literals(path: Path) -> Iterator[str]:
    """String literals of a module, without docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, documented) and isinstance(n.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_the_mechanism_names_no_planner() -> None:
    """Names of network families are no names of planners, though some are spelled alike; nor is a plain word."""
    names = {point.name for point in entry_points(group="autoseg.planners")}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for text in literals(path):
            words = set(re.findall(r"\w+", text)) & (names - {*FAMILIES, "cascade"})
            words |= set(re.findall(r"planner (\w+)", text)) & names
            words |= {text} & {"cascade"}
            wrong += [f"{path.relative_to(PACKAGE)}: {word}" for word in words]
    assert not wrong
