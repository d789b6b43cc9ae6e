"""Fixtures that all tests share."""

import builtins
import errno
import gc
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests side by side share the cores: threads that wait must let others work. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The same examples every time, and as long as they take: neither luck nor a busy machine decides whether a test passes.
settings.register_profile("autoseg", deadline=None, derandomize=True)
settings.load_profile("autoseg")

#: Real images, beside the checkout where there are any; they are no part of the repository.
REAL_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"

WriteVolume = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commands that tests start keep what they measure out of the user's home."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which variant of a step is fastest here must not decide what a test finds: trainings and predictions guess."""
    monkeypatch.setattr("autoseg.crossvalidation.fold_training.choose_variant", _guessed_variant)
    monkeypatch.setattr("autoseg.inference.variant_choice.fastest_forward", _guessed_forward)


def _guessed_variant(setup: Any, device: Any, extent: Any) -> Any:
    from autoseg.step.tune import VariantChoice
    from autoseg.step.variant import Variant, runnable

    guess = runnable(Variant.untimed(setup.recipe, device), setup.recipe, device)
    return VariantChoice(guess, f"{guess}, not measured")


def _guessed_forward(setup: Any, device: Any, passes: int) -> Any:
    from autoseg.step.tune import plain_variants

    return plain_variants(setup, device)[0]


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """``real_data("hippocampus")``: a folder of real images; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = (REAL_DATA / name).resolve()
        if not path.exists():
            pytest.skip(f"no real data at {path}")
        return path

    return find


@pytest.fixture
def write_volume() -> WriteVolume:
    """Write an array with SimpleITK itself, not with the code under test."""

    def write(
        path: Path,
        array: np.ndarray,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        origin: Sequence[float] = (0.0, 0.0, 0.0),
        direction: Sequence[float] | None = None,
    ) -> Path:
        """``array`` is (z, y, x) or (t, z, y, x); spacing, origin and direction are SimpleITK's x, y, z."""
        if array.ndim == 4:
            image = sitk.JoinSeries([sitk.GetImageFromArray(volume) for volume in array])
            image.SetSpacing((*spacing, 1.0))
        else:
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(spacing[: array.ndim])
            image.SetOrigin(origin[: array.ndim])
            if direction is not None:
                image.SetDirection(direction)
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))
        return path

    return write


@pytest.fixture
def write_json() -> Callable[[Path, object], Path]:
    """Write a JSON file with the standard library."""

    def write(path: Path, data: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    return write


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """``forbid(path)``: a file that the user may not read, whoever runs the tests: root may read all."""

    def make(path: Path) -> None:
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", partial(_open_but, path, io.open))
        monkeypatch.setattr(os, "access", partial(_access_but, path, os.access))

    return make


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """``lock(path)``: a folder that the user may not enter, whoever runs the tests."""

    def make(path: Path) -> None:
        for name in ("scandir", "listdir"):
            monkeypatch.setattr(os, name, partial(_list_but, path, getattr(os, name)))
        monkeypatch.setattr(os, "access", partial(_access_but, path, os.access))

    return make


def _list_but(locked: Path, lists: Callable[..., Any], folder: Any = ".") -> Any:
    if isinstance(folder, str | Path) and Path(folder) == locked:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return lists(folder)


def _open_but(locked: Path, opens: Callable[..., Any], file: Any, *args: Any, **options: Any) -> Any:
    if isinstance(file, str | Path) and Path(file) == locked:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    return opens(file, *args, **options)


def _access_but(locked: Path, may: Callable[..., bool], file: Any, *args: Any, **options: Any) -> bool:
    return not (isinstance(file, str | Path) and Path(file) == locked) and may(file, *args, **options)


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny networks are trained fastest by one thread, above all where other programs run beside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("autoseg.crossvalidation.jobs.available_cpus", lambda: 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is compiled fails when it is called, as on a machine without a C++ compiler."""
    import torch

    from autoseg.step.variant import compile_error

    def compiled(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: compiled)
    compile_error.cache_clear()
    yield
    compile_error.cache_clear()


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What only refers to itself stays in memory; after torch's compiler is there, whose import leaves such behind."""
    import torch

    torch.optim.SGD([torch.zeros(1)])
    gc.collect()
    gc.disable()
    yield
    gc.enable()
