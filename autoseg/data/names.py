"""Names of MR sequences and tumor structures, which differ between datasets, and matching them."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from autoseg.data.series_words import said_of_contrast

#: Names of a sequence → its name in autoseg.
SEQUENCES = {
    **dict.fromkeys(("t1", "t1w", "t1n", "t1pre"), "t1"),
    **dict.fromkeys(("t1c", "t1ce", "t1gd", "t1post", "t1km", "t1wce", "t1wgd"), "t1c"),
    **dict.fromkeys(("t2", "t2w"), "t2"),
    **dict.fromkeys(("flair", "t2f", "t2flair"), "flair"),
    **{name: name for name in ("adc", "dwi", "swi", "pd", "pet", "ct", "cbf", "cbv", "mra", "dce")},
}


#: A contrast agent as BIDS tells it: ``ce-gadolinium_T1w``.
_AGENT = re.compile(r"(?:^|_)ce-[A-Za-z0-9]+_", re.IGNORECASE)


def sequence_in(name: str) -> str | None:
    """The last sequence that a file's name mentions (``p1_T1_Gd``, ``post_T1`` → ``t1c``), or None.

    A T1 of which the name says both, with and without a contrast agent, is ``t1``.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    together = ["".join(pair) for pair in pairwise(words)]
    found = next((SEQUENCES[word] for word in reversed([*words, *together]) if word in SEQUENCES), None)
    if found != "t1":
        return found
    after, before = said_of_contrast(name.lower().replace("_", " "))
    return "t1c" if _AGENT.search(name) or (after and not before) else "t1"


#: Names of a part of a glioma (BraTS and others) → its name in autoseg.
STRUCTURES = {
    **dict.fromkeys(("wholetumor", "wt", "wholelesion"), "whole_tumor"),
    **dict.fromkeys(("tumorcore", "tc", "core"), "tumor_core"),
    **dict.fromkeys(("enhancingtumor", "et", "enhancing", "enhancingcore", "at"), "enhancing_tumor"),
    **dict.fromkeys(("edema", "ed", "peritumoraledema"), "edema"),
    **dict.fromkeys(("necrosis", "ncr", "necroticcore", "necrotic"), "necrosis"),
    **dict.fromkeys(("nonenhancing", "net", "nonenhancingtumor"), "non_enhancing"),
}


#: Where a word ends without a separator: ``lungLeft``, ``GTVRight``.
_NEXT_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])")


def name_words(name: str) -> list[str]:
    """The words of a structure's name, by its punctuation and capitals: ``LeftKidney``, ``left kidney``."""
    return re.findall("[A-Za-z0-9]+", _NEXT_WORD.sub(" ", name))


#: Words of a file's name that label maps have; the names of targets of radiotherapy are among :data:`_TARGET_WORDS`.
LABEL_WORDS = re.compile(
    r"seg|label|lbl|mask|annot|(^|[^a-z])gt([^a-z]|$)|truth|multiclass|lesion|tumou?r|roi|contour|rater", re.I
)
_TARGET_WORDS = re.compile(r"(^|[^a-z])(gtv|ctv|ptv|itv)[a-z]?\d*([^a-z]|$)", re.I)


def names_label(name: str) -> bool:
    """Whether a file's name speaks of a label map: ``pt1_seg2``, ``Maske``, ``GTVp``."""
    return LABEL_WORDS.search(name) is not None or _TARGET_WORDS.search(name) is not None


def channel_key(name: str) -> str:
    """One key for all names of a sequence: ``T1ce``, ``t1_gd``, ``ce-gadolinium_T1w`` and ``t1c`` → ``t1c``."""
    plain = _plain(name)
    if SEQUENCES.get(_plain(_AGENT.sub("", name))) == "t1" and _AGENT.search(name):
        return "t1c"
    return SEQUENCES.get(plain, plain)


def output_key(name: str) -> str:
    """One key for all names of a structure: ``WT`` and ``whole tumour`` → ``whole_tumor``."""
    plain = _plain(name).replace("tumour", "tumor").replace("oedema", "edema")
    return STRUCTURES.get(plain, plain)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower()) or name


def pair(names: Sequence[str], others: Iterable[str], key: Callable[[str], str]) -> dict[str, str]:
    """Match names to others: equal ones first, then those with the same key; each of the others at most once.

    Args:
        names: to match.
        others: to match them to.
        key: :func:`channel_key` or :func:`output_key`.

    Returns:
        Name → other; names without a match are left out.
    """
    free = list(others)
    found = {name: name for name in names if name in free}
    free = [other for other in free if other not in found]
    for name in names:
        if name not in found:
            other = next((other for other in free if key(other) == key(name)), None)
            if other is not None:
                found[name] = other
                free.remove(other)
    return {name: found[name] for name in names if name in found}
