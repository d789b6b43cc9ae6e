"""Measured times of steps, kept for a user of a machine from one training to the next."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from autoseg.plans.reasons import without_reasons
from autoseg.step.setup import StepSetup
from autoseg.step.variant import Variant
from autoseg.utils.device import device_name
from autoseg.utils.digest import digest
from autoseg.utils.files import write_json

#: Steps whose times are kept, the newest.
KEPT = 200

#: Parts of a recipe that a step's time depends on.
_TIMED = {"loss", "optimizer", "distillation", "gradient_clip", "ema_decay"}

#: What was measured in this process, where the file can't be written.
_here: dict[str, Any] = {}


@dataclass(frozen=True)
class Timing:
    """Seconds of a step; ``first``: of the first one, which compiles."""

    seconds: float
    first: float


def cache_folder() -> Path:
    """The user's folder for what can be made again (``XDG_CACHE_HOME``, ``~/.cache``), autoseg's part of it."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "autoseg"


@dataclass(frozen=True)
class Findings:
    """What is known about one step on one device.

    Attributes:
        key: of the step, the device, its threads and torch's version.
        timings: variant → seconds.
    """

    key: str
    timings: dict[Variant, Timing]

    @classmethod
    def of(cls, setup: StepSetup, device: torch.device, what: Literal["step", "forward"] = "step") -> "Findings":
        """Read what is known; nothing where there is no file, or a damaged one."""
        key = _key(setup, device, what)
        return cls(key, _timings({**_read(), **_here}.get(key)))

    def keep(self, timings: dict[Variant, Timing]) -> None:
        """Add what was measured, for this process and, where the file can be written, for later ones."""
        if timings == self.timings:
            return
        rows = [{**variant.to_json(), **vars(timing)} for variant, timing in timings.items()]
        _here[self.key] = rows
        known = {name: value for name, value in _read().items() if name != self.key}
        newest = dict([*known.items(), (self.key, rows)][-KEPT:])
        # Where the home is read-only, full or absent, it is measured again next time.
        with suppress(OSError, RuntimeError):
            write_json(_file(), newest)


def _file() -> Path:
    return cache_folder() / "steps.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _timings(rows: Any) -> dict[Variant, Timing]:
    try:
        found = {Variant.from_json(row): Timing(float(row["seconds"]), float(row["first"])) for row in rows or []}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {variant: timing for variant, timing in found.items() if timing.seconds > 0}


def _key(setup: StepSetup, device: torch.device, what: str) -> str:
    recipe = without_reasons(setup.recipe.model_dump(mode="json", include=_TIMED))
    recipe["optimizer"] = recipe["optimizer"]["name"]
    return digest(
        {
            "what": what,
            "device": device_name(device),
            "threads": torch.get_num_threads() if device.type == "cpu" else 0,
            "torch": torch.__version__,
            "network": without_reasons(setup.network.model_dump(mode="json")),
            "channels": setup.in_channels,
            "target": [setup.target.kind, setup.target.heads, setup.target.ignore is not None],
            "patch": list(setup.patch_size),
            "batch": setup.batch_size,
            "recipe": recipe,
        }
    )
