"""Shared by several commands: parsers of options, and printing a comparison."""

from typing import TYPE_CHECKING

from autoseg.utils.durations import parse_duration as parse_duration
from autoseg.utils.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from autoseg.evaluation.comparison import Comparison

#: Width of a terminal, in columns, that a table of all metrics or settings needs.
WIDE_TERMINAL = 130

#: Width of a terminal, in columns, that the table of a comparison with raw p-values needs.
_WIDE_FOR_COMPARISON = 110


#: Help of the option that says which BraTS challenge a folder is of.
CHALLENGE_HELP = "BraTS challenge that the labels are of (gli2024, ped2023, ped2024, …), where the files leave it open."


#: Help of the option that chooses among the label maps of a case.
LABEL_HELP = "Name of the label map, where several kinds lie beside each scan."

#: Help of the option that finds patients.
PATIENTS_HELP = "Regular expression; its first group, found in a case's name, is the patient."


def choices_of(**given: str | None) -> dict[str, str]:
    """What the user chose of what a dataset's files leave open, without what was not given."""
    return {name: value for name, value in given.items() if value is not None}


def print_comparison(console: "Console", comparison: "Comparison") -> None:
    """Print a comparison's table, with the test below it, and its verdicts."""
    console.print(comparison.table(wide=console.width >= _WIDE_FOR_COMPARISON))
    print_verdicts(console, comparison)


def print_verdicts(console: "Console", comparison: "Comparison") -> None:
    """Print a sentence for each method but the baseline."""
    for verdict in comparison.verdicts():
        console.print(verdict, markup=False, soft_wrap=True)


def parse_folds(text: str, option: str = "--fold") -> list[int] | None:
    """``all`` → None; ``0`` or ``0,2`` → numbers, each once.

    Raises:
        UsageError: the text is neither.
    """
    if text == "all":
        return None
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"{option} {text} is no fold; give a number, several with commas, or all.") from None


def parse_names(text: str, option: str) -> list[str]:
    """``dice, hd95`` → ``["dice", "hd95"]``.

    Raises:
        UsageError: the text has no name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} names nothing; give one or several with commas.")
    return names


def parse_channels(pairs: list[str]) -> dict[str, str]:
    """``["t1c=a.nii.gz"]`` → ``{"t1c": "a.nii.gz"}``.

    Raises:
        UsageError: an item has no ``=``, or a channel is given twice.
    """
    return parse_pairs(pairs, "--channel", "NAME=PATH")


def parse_pairs(pairs: list[str], option: str, form: str = "NAME=SOURCE") -> dict[str, str]:
    """``["a=b"]`` → ``{"a": "b"}``.

    Raises:
        UsageError: an item has no ``=``, or a name is given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name or not value:
            raise UsageError(f"{option} {pair} is not of the form {form}.")
        if name in found:
            raise UsageError(f"{option} {name} is given twice.")
        found[name] = value
    return found
