"""Shared by several commands: parsers of options, the console for results, and printing a comparison."""

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

#: Columns of a file or pipe, which has no width of its own: rich's 80 would wrap names, or cut them short.
_PIPE_WIDTH = 160

#: Help of the option that says which BraTS challenge a folder is of.
CHALLENGE_HELP = "BraTS challenge that the labels are of (gli2024, ped2023, ped2024, …), where the files leave it open."

#: Help of the option that chooses a configuration of a run.
CONFIG_HELP = "Configuration; the recommended one by default."

#: Help of the option that says where a command computes.
DEVICE_HELP = "Device that computes: auto, cpu, cuda or mps."

#: Help of the option that says how many processes read a dataset.
READERS_HELP = "Number of processes that read cases; one for each core by default."

#: Help of the option that names a dataset's layout.
LAYOUT_HELP = "How the dataset is laid out; recognised by default."

#: Help of the option that says what is measured of label maps.
STRUCTURES_HELP = "What to measure: 'edema=2,core=1+4' (a sum of values is a region)."

#: Help of the option that sets the tolerance of the normalised surface Dice.
TOLERANCE_HELP = "Tolerance of the normalised surface Dice (NSD), in mm."

#: Help of the option that says how many cases are measured at once.
WORKERS_HELP = "Number of cases measured at a time."

#: Help of the option that says how absent structures count.
EMPTY_HELP = "Absent structures: 'skip' what is undefined, or count it as 'brats', 'brats2023' or 'brats2026' does."

#: Help of the option that chooses among the label maps of a case.
LABEL_HELP = "Name of the label map, where several kinds lie beside each scan."

#: Help of the option that finds patients.
PATIENTS_HELP = "Regular expression; its first group, found in a case's name, is the patient."


def choices_of(**given: str | None) -> dict[str, str]:
    """What the user chose of what a dataset's files leave open, without what was not given."""
    return {name: value for name, value in given.items() if value is not None}


def results_console() -> "Console":
    """The console for results: standard output, wide enough for every table where it is a file or a pipe."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _PIPE_WIDTH))


def print_comparison(console: "Console", comparison: "Comparison") -> None:
    """Print a comparison's table, with the test below it, and its verdicts."""
    console.print(comparison.table(wide=console.width >= _WIDE_FOR_COMPARISON))
    print_verdicts(console, comparison)


def print_verdicts(console: "Console", comparison: "Comparison") -> None:
    """Print a sentence for each method but the baseline."""
    for verdict in comparison.verdicts():
        console.print(verdict, markup=False, soft_wrap=True)


def one_spelling(option: str) -> str:
    """``folds`` → ``fold``: where a command takes some of a run's folds, both spellings are the same option."""
    return "fold" if option == "folds" else option


def parse_folds(text: str) -> list[int] | None:
    """``all`` → None; ``0`` or ``0,2`` → numbers, each once.

    Raises:
        UsageError: the text is neither.
    """
    if text == "all":
        return None
    return _numbers(text, f"--fold {text} is no fold; give a number, several with commas, or all.")


def parse_numbers(text: str, option: str) -> list[int]:
    """``0`` or ``0,2`` → numbers, each once.

    Raises:
        UsageError: the text is none.
    """
    return _numbers(text, f"{option} {text}: give numbers with commas, such as 0 or 0,1.")


def _numbers(text: str, refusal: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(refusal) from None


def parse_names(text: str, option: str) -> list[str]:
    """``dice, hd95`` → ``["dice", "hd95"]``.

    Raises:
        UsageError: the text has no name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} names nothing; give one or several with commas.")
    return names


def parse_names_if_given(text: str, option: str) -> tuple[str, ...]:
    """As :func:`parse_names`, of an option that is empty where it was not given: then no name.

    Raises:
        UsageError: the text is not empty and has no name.
    """
    return tuple(parse_names(text, option)) if text else ()


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
