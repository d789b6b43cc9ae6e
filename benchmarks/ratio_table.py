"""A table of what two tools take, round by round, and the file that keeps the last one of each kind of machine."""

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from machine import describe, processor
from metering import Usage

from autoseg.utils.files import write_text
from autoseg.utils.parallel import available_cpus

#: Quantity → its unit, and the attribute of :class:`metering.Usage`.
QUANTITIES = {
    "time": ("s", "seconds"),
    "CPU time": ("s", "cpu"),
    "memory": ("GB", "memory"),
    "GPU memory": ("GB", "gpu_memory"),
    "GPU busy": ("%", "gpu_busy"),
}


@dataclass
class Row:
    """One quantity of one piece of work, in rounds in which the tools took turns.

    Attributes:
        work: what was done, with what.
        cores: that it could use.
        quantity: and its unit.
        theirs: of the other tool, a round each; empty where it was not measured.
        ours: of autoseg, likewise.
        made_by: command, machine and versions.
    """

    work: str
    cores: int
    quantity: str
    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    made_by: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        return self.work, self.cores, self.quantity

    def cells(self) -> list[str]:
        ratios = [a / b for a, b in zip(self.theirs, self.ours, strict=False) if b]
        values = [spread(self.theirs), spread(self.ours), f"**{spread(ratios)}**" if ratios else "–"]
        return [self.work, str(self.cores), self.quantity, *values]


def spread(values: Sequence[float]) -> str:
    """Median, with the smallest and the largest where there are several."""
    if not values:
        return "–"
    middle, low, high = (_short(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def rows_of(
    work: str, cores: int, theirs: Sequence[Usage], ours: Sequence[Usage], iterations: Sequence[Sequence[int]] = ()
) -> list[Row]:
    """A row for each quantity that was measured.

    Args:
        work: what was done.
        cores: that it could use.
        theirs: usage of the other tool, a round each.
        ours: of autoseg.
        iterations: of theirs and of ours, round by round, where time is to be given for one, in milliseconds.
    """
    counts = iterations or ([1] * len(theirs), [1] * len(ours))
    rows = []
    for quantity, (unit, attribute) in QUANTITIES.items():
        values = []
        for usages, steps in zip((theirs, ours), counts, strict=True):
            found = [(getattr(usage, attribute), n) for usage, n in zip(usages, steps, strict=True)]
            factor = 1000 if unit == "s" and iterations else 100 if unit == "%" else 1
            values.append([factor * v / (n if unit == "s" else 1) for v, n in found if v is not None])
        if any(values):
            rows.append(
                Row(work, cores, f"{quantity}, {'ms' if unit == 's' and iterations else unit}", values[0], values[1])
            )
    return rows


def machine_kind() -> str:
    """A name for the kind of machine, fit for a file: its GPU, or its processor and how many cores may be used."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{processor()} {available_cpus()} cores"
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


HEAD = """# Against nnU-Net

Median (smallest–largest) over alternating rounds. The ratio is nnU-Net's value by autoseg's, round by round: above 1,
autoseg takes less. Time and CPU time of training are those of an iteration in each tool's own loop, after its first
epoch; CPU time is summed over cores, memory over processes (shared pages once); "GPU busy" is the share of the time in
which it ran a kernel. Rows with a MONAI loop have MONAI's figures in the place of nnU-Net's. A prediction whose mean
Dice is about 0 is a nearly empty map of a network that was hardly trained: its rows say something of speed alone.
"""


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| work | cores | what | nnU-Net | autoseg | ratio |", "| --- | ---: | --- | ---: | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in rows)])


def keep(rows: Sequence[Row], command: str, versions: str, folder: Path) -> Path:
    """Put rows into the results of this kind of machine, in the place of earlier ones of the same work.

    Writes ``against_nnunet_KIND.md``, and the values behind it as ``.json``.
    """
    made_by = f"`{command}`: {describe()}; {versions}"
    for row in rows:
        row.made_by = made_by
    stem = folder / f"against_nnunet_{machine_kind()}"
    data = stem.with_suffix(".json")
    known = [Row(**entry) for entry in json.loads(data.read_text(encoding="utf-8"))] if data.exists() else []
    merged = {row.key: row for row in [*known, *rows]}
    write_text(data, json.dumps([asdict(row) for row in merged.values()], indent=1) + "\n")
    commands = dict.fromkeys(row.made_by for row in merged.values())
    parts = [HEAD, table(list(merged.values())), "", "Made by:", "", *(f"- {made}" for made in commands), ""]
    write_text(stem.with_suffix(".md"), "\n".join(parts))
    return stem.with_suffix(".md")
