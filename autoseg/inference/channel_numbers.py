"""Which channel a number stands for: in a file's name (``CASE_0002``), or as a place in a file of several channels."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.data.dataset import Case, Dataset
from autoseg.data.file_names import stem
from autoseg.plans.plan import Plan, channels_of_all
from autoseg.utils.progress import say


def numbered(path: Path) -> tuple[str, int] | None:
    """The case and the number of a file named as nnU-Net names them (``CASE_0002.nii.gz``); None of another name."""
    match = re.fullmatch(r"(.+)_(\d{4})", stem(path))
    return None if match is None else (match[1], int(match[2]))


@dataclass(frozen=True)
class ChannelNumbers:
    """The channels that are wanted, and what numbers stand for.

    Attributes:
        names: of the channels that any of the plans has, in order.
        channels: number → channel; of numbers of the training data, also channels that no plan has.
        why: where these numbers come from, if they are not just the plans' order.
    """

    names: tuple[str, ...]
    channels: Mapping[int, str]
    why: str = ""

    @classmethod
    def of(cls, plans: Iterable[Plan], datasets: Sequence[Dataset] = ()) -> "ChannelNumbers":
        """As in the training data, where their files have numbers or places; else in the plans' order.

        Args:
            plans: of the runs.
            datasets: that the runs were trained on.
        """
        names = tuple(channels_of_all(plans))
        in_order, found = dict(enumerate(names)), [_numbers_in(dataset) for dataset in datasets]
        together = {number: name for one in reversed(found) for number, name in one.items()}
        alike = all(together[number] == name for one in found for number, name in one.items())
        if alike and set(names) <= set(together.values()) and len(set(together.values())) == len(together):
            return cls(names, together, "" if together == in_order else "as in the training data")
        fits = all(in_order.get(number) == name for one in found for number, name in one.items() if name in names)
        return cls(names, in_order, "" if fits else "in the order of the plans, as training data number them otherwise")

    def channel(self, path: Path) -> str | None:
        """The channel, of the plans' or another, that a file's number stands for; None without such a number."""
        found = numbered(path)
        return None if found is None else self.channels.get(found[1])

    def places(self, count: int) -> dict[str, int | None] | None:
        """Channel of the plans → its place in a file of so many channels, None where it is the only one.

        None where such a file can't hold all that the plans have.
        """
        if count > 1 and sorted(self.channels) == list(range(count)):
            place = {name: number for number, name in self.channels.items()}
            return {name: place[name] for name in self.names}
        if len(self.names) == 1:
            return {self.names[0]: None}
        return dict(zip(self.names, range(count), strict=True)) if count == len(self.names) else None

    @property
    def told(self) -> str:
        """How files are to be named: ``CASE_0001 for t1c, CASE_0003 for flair``."""
        wanted = [(number, name) for number, name in sorted(self.channels.items()) if name in self.names]
        return ", ".join(f"CASE_{number:04d} for {name}" for number, name in wanted)

    def say(self, where: Path) -> None:
        """Say what numbers are taken for, where that is not just the plans' order."""
        if self.why:
            say(f"{where}: channels are taken by number, {self.told}, {self.why}.")


def _numbers_in(dataset: Dataset) -> dict[int, str]:
    """Number → channel, where the files of all cases have the same; else nothing."""
    found: dict[str, int] = {}
    for case in dataset.cases:
        own = _numbers_of(case)
        if own is None or any(found.setdefault(name, number) != number for name, number in own.items()):
            return {}
    numbers = {number: name for name, number in found.items()}
    return numbers if len(numbers) == len(found) else {}


def _numbers_of(case: Case) -> dict[str, int] | None:
    """Channel → its place in a file of several, or its number; None where a file has neither."""
    found, cases = {}, set()
    for name, file in case.channels.items():
        number = (file.path.stem, file.component) if file.component is not None else numbered(file.path)
        if number is None:
            return None
        cases.add(number[0])
        found[name] = number[1]
    # P1/t1_0001.nii.gz and P1/flair_0002.nii.gz are numbered otherwise.
    return found if len(cases) <= 1 else None
