"""The names of the Python API, and that importing it stays light."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import autoseg
from autoseg.interop import export_nnunet, import_nnunet
from autoseg.utils.errors import UsageError
from tests.builders import make_run


def test_every_public_name_is_there() -> None:
    for name in autoseg.__all__:
        assert getattr(autoseg, name) is not None


def test_verbs_are_functions() -> None:
    for name in ("fingerprint", "plan", "postprocess"):
        assert isinstance(getattr(autoseg, name), FunctionType)


def test_importing_the_package_loads_neither_torch_nor_simpleitk() -> None:
    code = "import sys, autoseg; assert not {'torch', 'SimpleITK'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


#: Verbs that take long and then write to a place of the user's choice, with inputs that are not even there.
WRITING: dict[str, Callable[[Path, Path], Any]] = {
    "agreement": lambda there, out: autoseg.agreement([there / "a", there / "b"], out=out),
    "compare": lambda there, out: autoseg.compare([there / "a", there / "b"], out=out / "table.csv"),
    "evaluate": lambda there, out: autoseg.evaluate(there / "a", there / "b", out=out),
    "evaluate_channel_subsets": lambda there, out: autoseg.evaluate_channel_subsets(there / "a", out=out),
    "export_nnunet": lambda there, out: export_nnunet(there / "a", out),
    "import_nnunet": lambda there, out: import_nnunet(there / "a", out),
    "plan": lambda there, out: autoseg.plan(make_run(there).dataset, out),
    "prepare_exams": lambda there, out: autoseg.prepare_exams(there / "a", out),
    "sweep": lambda there, out: autoseg.sweep(make_run(there).dataset, there / "grid.toml", out),
    "volumes": lambda there, out: autoseg.volumes(there / "a", out=out),
    "write_report": lambda there, out: autoseg.write_report(make_run(there), out / "page.html"),
}


@pytest.mark.parametrize("verb", WRITING)
def test_a_place_that_allows_no_files_is_told_first(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)
    with pytest.raises(UsageError, match=f"--out {closed}.* can't be written, as {closed} allows no new files"):
        WRITING[verb](tmp_path, closed)
