import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from autoseg.utils import registry
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.registry import Registry, load_extensions

Metric = Callable[[int, int], float]

#: For modules that tests write: each registers in it.
METRICS: Registry[Metric] = Registry("metric", "--metrics", "temporary_metrics")


def agree(a: int, b: int) -> float:
    return float(a == b)


def differ(a: int, b: int) -> float:
    return float(a != b)


def _find_in_worker(name: str) -> float:
    return METRICS.find(name)(1, 1)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(registry, "_loaded", set())
    monkeypatch.setattr(registry, "_all_loaded", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: ())
    monkeypatch.setattr(sys.modules[__name__], "METRICS", Registry("metric", "--metrics", "temporary_metrics"))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _fake_extensions(monkeypatch: pytest.MonkeyPatch, *modules: str) -> list[str]:
    asked: list[str] = []

    def entries(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint(module, module, group) for module in modules]

    monkeypatch.setattr(registry, "entry_points", entries)
    return asked


def _module(path: Path, name: str, body: str = "lambda a, b: 7.0") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"from {__name__} import METRICS\n"
        "import builtins\n"
        f"builtins.imports = getattr(builtins, 'imports', 0) + 1\n"
        f"METRICS.register('{name}', {body})\n"
    )


def test_decorator_and_call_register_and_return_the_thing() -> None:
    metrics: Registry[Metric] = Registry("metric")
    assert metrics.register("agree")(agree) is agree
    assert metrics.register("differ", differ) is differ
    assert metrics.find("agree") is agree
    assert metrics.find("differ") is differ


def test_order_is_that_of_registration() -> None:
    metrics: Registry[Metric] = Registry("metric")
    metrics.register("z", agree)
    metrics.register("a", differ)
    assert metrics.names() == ("z", "a")
    assert list(metrics) == ["z", "a"]


def test_a_second_thing_of_one_name_is_refused_and_the_same_thing_is_not() -> None:
    metrics: Registry[Metric] = Registry("metric")
    metrics.register("agree", agree)
    metrics.register("agree", agree)
    with pytest.raises(AutosegError, match="two metric components have the name agree") as error:
        metrics.register("agree", differ)
    assert f"{__name__}.agree and {__name__}.differ" in str(error.value)
    assert metrics.find("agree") is agree


def test_unknown_name_lists_the_known_ones() -> None:
    metrics: Registry[Metric] = Registry("metric", option="--metrics")
    metrics.register("agree", agree)
    metrics.register("differ", differ)
    with pytest.raises(UsageError) as error:
        metrics.find("dicee")
    assert str(error.value) == "--metrics dicee is unknown; choose one of agree, differ."
    with pytest.raises(UsageError, match=r"^metric dicee is unknown; there is none to choose from\.$"):
        Registry("metric").find("dicee")
    assert "dicee" not in metrics
    assert "agree" in metrics


def test_file_in_the_package_is_found_without_a_list(tmp_path: Path) -> None:
    _module(tmp_path / "temporary_metrics" / "seven.py", "seven")
    (tmp_path / "temporary_metrics" / "__init__.py").touch()
    assert METRICS.find("seven")(0, 1) == 7.0
    assert "seven" in METRICS


def test_package_is_imported_only_on_a_miss(tmp_path: Path) -> None:
    (tmp_path / "temporary_metrics").mkdir()
    (tmp_path / "temporary_metrics" / "__init__.py").touch()
    _module(tmp_path / "temporary_metrics" / "seven.py", "seven")
    METRICS.register("agree", agree)
    assert METRICS.find("agree") is agree
    assert "agree" in METRICS
    assert "temporary_metrics" not in sys.modules
    assert METRICS.names() == ("agree", "seven")
    assert "temporary_metrics.seven" in sys.modules


def test_extension_is_found_and_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary_metrics").mkdir()
    (tmp_path / "temporary_metrics" / "__init__.py").touch()
    _module(tmp_path / "other_package.py", "eight", "lambda a, b: 8.0")
    asked = _fake_extensions(monkeypatch, "other_package")
    METRICS.register("agree", agree)
    METRICS.find("agree")
    assert asked == []
    assert METRICS.find("eight")(0, 1) == 8.0
    load_extensions()
    with pytest.raises(UsageError, match="agree, eight"):
        METRICS.find("nine")
    assert asked == ["autoseg.extensions"]


def test_extension_may_look_for_components_while_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: Registry[Metric] = Registry("metric")
    monkeypatch.setattr(sys.modules[__name__], "METRICS", metrics)
    _module(tmp_path / "first.py", "seven", "METRICS.find('eight')")
    _module(tmp_path / "second.py", "eight", "lambda a, b: 8.0")
    _fake_extensions(monkeypatch, "first", "second")
    assert metrics.find("seven") is metrics.find("eight")


def test_broken_extension_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("import a_module_that_nobody_has\n")
    _fake_extensions(monkeypatch, "broken")
    metrics: Registry[Metric] = Registry("metric")
    for _ in range(2):  # it does not count as loaded
        with pytest.raises(AutosegError, match=r"extension broken \(broken\).*a_module_that_nobody_has"):
            metrics.find("agree")


def test_worker_processes_find_components_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary_metrics").mkdir()
    (tmp_path / "temporary_metrics" / "__init__.py").touch()
    _module(tmp_path / "temporary_metrics" / "seven.py", "seven")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    script = (
        "from tests.utils.test_registry import _find_in_worker\n"
        "from autoseg.utils.parallel import each\n"
        "if __name__ == '__main__':\n"
        "    print(list(each(_find_in_worker, ['seven', 'seven'], 2, 'Finding')))\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[7.0, 7.0]"


def test_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import autoseg.utils.registry\n"
        "new = {n.split('.')[0] for n in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(new))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['autoseg']"
