"""What every benchmark prints first: the machine and the versions its figures belong to."""

import os
import platform

import torch

import autoseg
from autoseg.step.precision import has_fast_bfloat16
from autoseg.utils.device import device_name
from autoseg.utils.parallel import available_cpus


def processor() -> str:
    return device_name(torch.device("cpu"))


def describe() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = f"{processor()}, {available_cpus()} of {os.cpu_count()} cores, {platform.system()}, GPU: {gpu}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, autoseg {autoseg.__version__}"
    return f"{machine}; bfloat16 in hardware: {has_fast_bfloat16()}; {versions}"
