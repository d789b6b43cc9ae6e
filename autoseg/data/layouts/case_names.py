"""File names of many cases in one folder, or a folder a kind: which part is the case, and which says what it holds."""

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from autoseg.data.file_names import without_ending
from autoseg.data.names import SEQUENCES, names_label

#: A word of a file's name that may say what kind of file it is: ``flair``, ``seg``, ``0000``, ``1stHO``.
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]*|\d{4}|\d{1,2}(?:st|nd|rd|th)[A-Za-z0-9]*")

#: nnU-Net's number of a channel at the beginning of a kind, and what follows it.
_NUMBER = re.compile(r"(?P<number>[_\-.]\d{4})(?P<rest>([_\-.].*)?)")

#: Words for kinds of scans; each may have a label map of its own in one exam.
_SCANS = {*SEQUENCES, "mr", "mri", "mrt", "us", "cbct", "spect", "image", "img", "scan"}

#: Ways to part a file's name in case and kind.
_Splits = list[tuple[str, str]]


def kinds_of(files: list[Path], places: Mapping[Path, str] | None = None) -> dict[Path, str]:
    """The ending of each file's name that says its kind, as ``_flair`` or ``_brain_mask``; ``""`` where none does.

    An ending is a kind where other cases have it, too; of several such, the one whose case has most files. Where no
    other case has it (there may be but one), it is the last word, if the case has other files.

    Args:
        files: to look at.
        places: folder → what it has in common with others whose files are called likewise; None: each is alone.
    """
    where = {path: str(path.parent) if places is None else places[path.parent] for path in files}
    splits = {path: _splits(without_ending(path.name)) for path in files}
    numbered, named = _numbered(splits, where)
    splits = {path: _without_numbers(found, where[path], numbered) for path, found in splits.items()}
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    siblings: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path, found in splits.items():
        for case, kind in found:
            owners[where[path], kind].add(case)
            siblings[where[path], case].add(path.name)
    kinds = {}
    for path, found in splits.items():
        usual = [(case, kind) for case, kind in found if kind and len(owners[where[path], kind]) > 1]
        if usual:
            # Of equal ones the longest name of a case: max() keeps the first, and found begins with that.
            kinds[path] = max(usual, key=lambda split: len(siblings[where[path], split[0]]))[1]
        else:
            # A number alone tells no kind: it may be that of the case.
            told = ((c, kind) for c, kind in found if kind and (c in named or not _NUMBER.fullmatch(kind)))
            shortest = next(told, ("", ""))
            kinds[path] = shortest[1] if len(siblings[where[path], shortest[0]]) > 1 else ""
    return kinds


def exams_in(kinds: Mapping[Path, str]) -> set[str]:
    """First words of kinds, as ``_pre`` and ``_post``, that tell exams of a patient apart, each with scan and label.

    Words for a sequence don't, nor any word where a label map has none: that is drawn on all scans together.

    Args:
        kinds: of files, as :func:`kinds_of` finds them.
    """
    by_folder = len({path.parent for path in kinds}) > 1
    labelled: dict[str, set[bool]] = defaultdict(set)
    for path, kind in kinds.items():
        word, rest = _first_word(kind)
        labelled[word].add(names_label(rest) or (by_folder and names_label(path.parent.name)))
    exams = {word for word, told in labelled.items() if word[1:] and told == {True, False}}
    exams = {word for word in exams if word[1:].lower() not in _SCANS and not names_label(word) and word[1].isalpha()}
    others = any(
        names_label(kind) or (by_folder and names_label(path.parent.name))
        for path, kind in kinds.items()
        if _first_word(kind)[0] not in exams
    )
    return set() if others or len(exams) < 2 else exams


def without_exam(kind: str, exams: set[str]) -> str:
    """A kind without the word that tells the exam."""
    word, rest = _first_word(kind)
    return rest if word in exams else kind


def _first_word(kind: str) -> tuple[str, str]:
    match = re.fullmatch(r"([_\-.][^_\-.]+)(.*)", kind)
    return (match[1], match[2]) if match else ("", kind)


def _splits(stem: str) -> _Splits:
    """All ways to part a name in case and kind, the longest name of the case first."""
    parts = re.split(r"([_\-.])", stem)
    found = [(stem, "")]
    for place in range(len(parts) - 2, 0, -2):
        if not _KIND.fullmatch(parts[place + 1]):
            break
        case = "".join(parts[:place])
        if case:
            found.append((case, "".join(parts[place:])))
    return found


def _without_numbers(splits: _Splits, folder: str, numbered: set[tuple[str, str]]) -> _Splits:
    """The ways to part a name that take no number of the case for one of a channel."""

    def is_kind(split: tuple[str, str]) -> bool:
        match = _NUMBER.fullmatch(split[1])
        return match is None or (folder, match["rest"]) in numbered

    return list(takewhile(is_kind, splits))


def _numbered(splits: Mapping[Path, _Splits], where: Mapping[Path, str]) -> tuple[set[tuple[str, str]], set[str]]:
    """Where numbers of four digits tell channels apart: folders, with what follows the number in a name.

    They do where the name before the number is a case's by other files, too (``labels/CASE.nii.gz``), and where every
    case has 0000 and the numbers run on from it; unless the same number is in the names of other kinds of files, as of
    the label map of ``images/SITE_0001.nii.gz``.

    Returns:
        These, and the names of cases by files without a number.
    """
    numbers: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    places: dict[str, set[tuple[str, str]]] = defaultdict(set)
    named: set[str] = set()
    for path, found in splits.items():
        for case, kind in found:
            if match := _NUMBER.fullmatch(kind):
                place = where[path], match["rest"]
                numbers[place][case].add(match["number"])
                places[case + match["number"]].add(place)
            elif not re.search(r"[_\-.]\d{4}(?![A-Za-z0-9])", kind):
                named.add(case)
    kept = set()
    for place, cases in numbers.items():
        every = {int(number[1:]) for found in cases.values() for number in found}
        runs_on = every == set(range(len(every))) and all(any(int(n[1:]) == 0 for n in f) for f in cases.values())
        shared = any(int(n[1:]) and len(places[case + n]) > 1 for case, found in cases.items() for n in found)
        by_others = 2 * sum(case in named for case in cases) >= len(cases)
        if by_others or (runs_on and not shared):
            kept.add(place)
    return kept, named
