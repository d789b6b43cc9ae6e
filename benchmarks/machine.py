"""What every benchmark prints first: the machine and the versions its figures belong to."""

import os
import platform
import subprocess
from pathlib import Path

import torch

import autoseg
from autoseg.step.precision import has_fast_bfloat16
from autoseg.utils.device import device_name
from autoseg.utils.parallel import available_cpus


def processor() -> str:
    return device_name(torch.device("cpu"))


def commit() -> str:
    """The checkout's commit, ``-dirty`` where files differ from it; nothing where this is no clone, or without git."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        words = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def describe() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = f"{processor()}, {available_cpus()} of {os.cpu_count()} cores, {platform.system()}, GPU: {gpu}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, autoseg {autoseg.__version__}"
    versions += f" ({found})" if (found := commit()) else ""
    return f"{machine}; bfloat16 in hardware: {has_fast_bfloat16()}; {versions}"
