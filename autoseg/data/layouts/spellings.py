"""Patterns for names that differ in letter case, or in the ending of one format, or in a word of several.

As ``[Cc][Tt].nii*`` and ``{train,val}/ct.nii.gz``.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from autoseg.data.file_names import image_ending, is_image
from autoseg.data.formats.format import FORMATS, format_of

#: Both cases of a letter, as in ``[Cc]``.
_EITHER = re.compile(r"\[(\w)(\w)\]")

#: One of several words, as ``{train,val}``.
_ONE_OF = re.compile(r"\{([^{},/]+(?:,[^{},/]+)+)\}")

#: Characters that endings of one format share at least, where a pattern stands for all of them.
_SHARED = 3


def united(patterns: Sequence[str]) -> str | None:
    """One pattern for those that differ in letter case and endings of one format only; None where they differ more."""
    endings = [image_ending(Path(pattern)) or "" for pattern in patterns]
    bodies = [pattern.removesuffix(ending) for pattern, ending in zip(patterns, endings, strict=True)]
    if len({body.lower() for body in bodies}) > 1 or len(set(map(len, bodies))) > 1:
        return None
    if len({ending.lower() for ending in endings}) == 1:
        return _either(bodies) + _either(endings)
    found = format_of(endings[0])
    joint = None if found is None else _joint(found.endings)
    if found is None or joint is None or not {ending.lower() for ending in endings} <= {*found.endings}:
        return None
    before, after = joint
    heads = [ending[: len(before)] for ending in endings]
    tails = [ending[len(ending) - len(after) :] for ending in endings]
    return f"{_either(bodies)}{_either(heads)}*{_either(tails)}"


def spelled_freely(pattern: str) -> str:
    """A pattern that also fits names in other letter case, and other endings of its format."""
    ending = image_ending(Path(pattern)) or ""
    found = format_of(ending)
    joint = None if found is None else _joint(found.endings)
    if joint is not None:
        pattern = f"{pattern.removesuffix(ending)}{joint[0]}*{joint[1]}"
    parts = (map(_either, ([letter, letter.swapcase()] for letter in part)) for part in pattern.split("{id}"))
    return "{id}".join("".join(part) for part in parts)


def expanded(pattern: str) -> list[str]:
    """The patterns that one stands for: ``train/ct.nii.gz`` and ``val/ct.nii.gz`` for ``{train,val}/ct.nii.gz``."""
    before, *rest = _ONE_OF.split(pattern, maxsplit=1)
    if not rest:
        return [pattern]
    return [before + word + after for word in rest[0].split(",") for after in expanded(rest[1])]


def first_words(pattern: str) -> str:
    """The first ``{a,b}`` of a pattern, without its braces; "" where there is none."""
    match = _ONE_OF.search(pattern)
    return match[1] if match else ""


def plainly(pattern: str) -> str:
    """A pattern in one spelling, of those that it fits: ``ct.nii.gz`` for ``[Cc][Tt].nii*``."""
    plain = _EITHER.sub(lambda match: match[2] if _is_one_letter(match) else match[0], expanded(pattern)[0])
    for name in FORMATS:
        endings = FORMATS.find(name).endings
        joint = _joint(endings)
        if joint is not None and plain.endswith("*".join(joint)):
            return plain.removesuffix("*".join(joint)) + max(endings, key=len)
    return plain


def literalness(pattern: str) -> int:
    """How many characters a pattern spells out."""
    return len(plainly(pattern).replace("{id}", "").replace("*", ""))


def leaves_ending_open(pattern: str) -> bool:
    """Whether a pattern is for several endings of one format, so that other files, as ``ct.nii.part``, may fit it."""
    return pattern.endswith("*") and is_image(Path(_EITHER.sub(r"\2", pattern).rstrip("*")))


def escaped(pattern: str) -> str:
    """A pattern as a regular expression for one part of a path, without a meaning of ``{id}``.

    The words of a ``{a,b}`` are a group without a name, the only kind of group that there is.
    """
    pieces = _ONE_OF.split(pattern)
    words = ("|".join(map(_escaped, piece.split(","))) for piece in pieces[1::2])
    return _escaped(pieces[0]) + "".join(
        f"(?:{either}){_escaped(after)}" for either, after in zip(words, pieces[2::2], strict=True)
    )


def _escaped(pattern: str) -> str:
    text = re.escape(pattern).replace(re.escape("*"), "[^/]*")
    return re.sub(
        r"\\\[(\w)(\w)\\\]", lambda match: match[0].replace("\\", "") if _is_one_letter(match) else match[0], text
    )


def _joint(endings: Iterable[str]) -> tuple[str, str] | None:
    """What all endings of a format begin and end with; None where that is little, or there is one."""
    endings = list(endings)
    before = _beginning(endings)
    after = _beginning([ending[len(before) :][::-1] for ending in endings])[::-1]
    return (before, after) if len(endings) > 1 and len(before) >= _SHARED else None


def _beginning(texts: Iterable[str]) -> str:
    """What texts begin with alike."""
    return "".join(letters[0] for letters in takewhile(lambda found: len(set(found)) == 1, zip(*texts, strict=False)))


def _either(texts: Sequence[str]) -> str:
    """Texts that differ in letter case only, as one pattern."""
    if len(set(map(len, texts))) > 1:
        return texts[0]  # letters whose other case is longer, as of ß
    spelled = (sorted(set(letters)) for letters in zip(*texts, strict=True))
    return "".join(letters[0] if len(letters) == 1 else f"[{''.join(letters)}]" for letters in spelled)


def _is_one_letter(match: re.Match[str]) -> bool:
    return match[1] != match[2] and match[1].lower() == match[2].lower()
