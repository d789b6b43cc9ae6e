"""The names of the Python API, and that importing it stays light."""

import subprocess
import sys
from types import FunctionType

import autoseg


def test_every_public_name_is_there() -> None:
    for name in autoseg.__all__:
        assert getattr(autoseg, name) is not None


def test_verbs_are_functions() -> None:
    for name in ("fingerprint", "plan", "postprocess"):
        assert isinstance(getattr(autoseg, name), FunctionType)


def test_tensor_modules_import_without_simpleitk() -> None:
    code = (
        "import sys; sys.modules['SimpleITK'] = None\n"
        "import autoseg.networks, autoseg.training.loop, autoseg.inference.sliding_window, autoseg.planning.memory\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_loads_neither_torch_nor_simpleitk() -> None:
    code = "import sys, autoseg; assert not {'torch', 'SimpleITK'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
