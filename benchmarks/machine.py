"""What every benchmark prints first: the machine and the versions its figures belong to."""

import os
import platform

import torch

import autoseg
from autoseg.device import cpu_count, has_fast_bfloat16


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()


def describe() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return (
        f"{processor()}, {cpu_count()} of {os.cpu_count()} cores, bfloat16 in hardware: {has_fast_bfloat16()}, GPU: {gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, autoseg {autoseg.__version__}, {platform.system()}"
    )
