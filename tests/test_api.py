"""The names of the Python API, and that importing it stays light."""

import subprocess
import sys

import autoseg


def test_every_public_name_is_there() -> None:
    for name in autoseg.__all__:
        assert getattr(autoseg, name) is not None


def test_a_verb_is_a_module_and_can_be_called() -> None:
    from autoseg.plans.plan import Plan

    assert autoseg.plans.plan.Plan is Plan  # type: ignore[attr-defined]
    assert callable(autoseg.plans.plan)
    assert callable(autoseg.data.fingerprint)


def test_tensor_modules_import_without_simpleitk() -> None:
    code = (
        "import sys; sys.modules['SimpleITK'] = None\n"
        "import autoseg.networks, autoseg.training.loop, autoseg.inference.sliding_window, autoseg.planning.memory\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_loads_neither_torch_nor_simpleitk() -> None:
    code = "import sys, autoseg; assert not {'torch', 'SimpleITK'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
