"""Environments of other tools: made once with pip, or given where there is no package index."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

#: Where environments are made that are not given.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "autoseg-benchmarks"

#: The environment's name, which is its package too, and what pip installs beside the torch that runs here.
NNUNET = ("nnunetv2", ["nnunetv2==2.8.1"])
MONAI = ("monai", ["monai", "nibabel"])


@dataclass(frozen=True)
class Environment:
    """Another tool's Python.

    Attributes:
        python: its interpreter.
        bin: folder of its commands.
        path: ``PYTHONPATH`` for it; empty for a virtual environment.
    """

    python: Path
    bin: Path
    path: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for its processes."""
        return {"PYTHONPATH": self.path, "PYTHONUNBUFFERED": "1"}

    def command(self, name: str, *arguments: object) -> list[str]:
        """One of its console scripts, with arguments."""
        return [str(self.python), str(self.bin / name), *map(str, arguments)]

    def versions(self, *packages: str) -> str:
        """Names and versions of packages in it."""
        code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        command = [str(self.python), "-c", code, *packages]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **self.variables})
        if done.returncode:
            raise SystemExit(f"{self.python} has not all of {', '.join(packages)}: {done.stderr.strip()[-300:]}")
        return ", ".join(map(" ".join, zip(packages, done.stdout.split(), strict=True)))


def environment(tool: tuple[str, Sequence[str]], given: Path | None) -> Environment:
    """The environment of a tool.

    Args:
        tool: its package and what to install: :data:`NNUNET` or :data:`MONAI`.
        given: a virtual environment that has it, or a folder of packages that are laid beside this Python's own
            (with the commands in its ``bin``); made in :data:`CACHE` where None.
    """
    package, requirements = tool
    if given is not None and (given / package).is_dir():
        return Environment(Path(sys.executable), given.absolute() / "bin", str(given.absolute()))
    folder = (CACHE / package if given is None else given).absolute()
    found = Environment(folder / "bin" / "python", folder / "bin")
    if given is None and not (folder / "complete").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        torch = version("torch").partition("+")[0]
        print(f"Making an environment with {', '.join(requirements)} and torch {torch} in {folder} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(found.python), "-m", "pip", "install", "--quiet", f"torch=={torch}", *requirements]
        if subprocess.run(pip).returncode:
            raise SystemExit(f"pip could not install {', '.join(requirements)}; give an environment that has it.")
        (folder / "complete").touch()
    if not found.python.exists():
        raise SystemExit(f"{folder} is no virtual environment, and no folder of packages with {package}.")
    return found
