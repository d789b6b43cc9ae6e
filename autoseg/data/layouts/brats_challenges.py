"""What label values mean in each of the BraTS challenges, and which challenge a folder is of."""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from autoseg.data.counts import value_counts
from autoseg.data.image import read_image
from autoseg.data.label_maps import label_values
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.parallel import available_cpus

#: Label maps that are looked into for the value 4 where nothing but that tells an edition, spread over the folder; of
#: PED all are, since without a 4 the user has to say.
_LOOK_AT = 40


@dataclass(frozen=True)
class Challenge:
    """One challenge's labels.

    Attributes:
        labels: name → value.
        regions: name → values.
    """

    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]]


def _regions(whole: tuple[int, ...], core: tuple[int, ...], enhancing: int) -> dict[str, tuple[int, ...]]:
    return {"whole_tumor": whole, "tumor_core": core, "enhancing_tumor": (enhancing,)}


_PLAIN = Challenge({"necrosis": 1, "edema": 2, "enhancing": 3}, _regions((1, 2, 3), (1, 3), 3))
_TREATED = Challenge(
    {"non_enhancing": 1, "edema": 2, "enhancing": 3, "resection_cavity": 4},
    {**_regions((1, 2, 3), (1, 3), 3), "resection_cavity": (4,)},
)

#: Up to 2021, by the files' names.
UP_TO_2021 = Challenge({"necrosis": 1, "edema": 2, "enhancing": 4}, _regions((1, 2, 4), (1, 4), 4))

#: From 2023 on, by the name that ``--challenge`` takes: the word in the files' names and the year. Values as the
#: challenges' data descriptions on synapse.org give them; PED: Kazerooni et al. 2024 (arXiv 2404.15009).
CHALLENGES = {
    "gli2023": _PLAIN,
    "gli2024": _TREATED,
    "met2023": _PLAIN,
    "met2025": _TREATED,
    "men2023": _PLAIN,
    "ssa2023": _PLAIN,
    "ped2023": _PLAIN,
    "ped2024": Challenge(
        {"enhancing": 1, "non_enhancing": 2, "cyst": 3, "edema": 4}, _regions((1, 2, 3, 4), (1, 2, 3), 1)
    ),
}

#: Challenges with treated patients, whose 4 is the resection cavity.
_WITH_CAVITY = {"gli": "gli2024", "met": "met2025"}


@dataclass(frozen=True)
class Answer:
    """The challenge of a folder.

    Attributes:
        challenge: what its labels mean; a guess where a question is left.
        question: what the user has to say first, or "".
    """

    challenge: Challenge
    question: str = ""


def challenge_of(path: Path, cases: Sequence[str], labels: Sequence[Path], chosen: str | None) -> Answer:
    """Find out which challenge from 2023 on a folder is of.

    Args:
        path: of the folder, for messages.
        cases: names of its cases, as ``BraTS-GLI-00001-000``.
        labels: its label maps, whose values may tell.
        chosen: by the user (``--challenge``), or None.

    Raises:
        UsageError: there is no such challenge, or none of its cases.
        AutosegError: challenges whose values mean other things lie together.
    """
    kinds = sorted({name.split("-")[1].lower() for name in cases})
    if chosen is not None:
        if chosen not in CHALLENGES:
            raise UsageError(f"--challenge {chosen} is unknown; choose one of {', '.join(CHALLENGES)}.")
        if chosen[:3] not in kinds:
            raise UsageError(f"--challenge {chosen}: {path} holds cases of BraTS {', '.join(map(str.upper, kinds))}.")
        return Answer(CHALLENGES[chosen])
    if "ped" in kinds and len(kinds) > 1 and labels:
        others = ", ".join(kind.upper() for kind in kinds if kind != "ped")
        raise AutosegError(f"{path} mixes BraTS-PED with {others}, whose values mean other things; part them.")
    if kinds == ["ped"]:
        if not labels or _has_four(labels):
            return Answer(CHALLENGES["ped2024"])
        return Answer(
            CHALLENGES["ped2023"],
            f"{path}: BraTS-PED numbers its labels since 2024 (1 enhancing, 2 non-enhancing, 3 cyst, 4 edema) "
            "otherwise than in 2023 (1 non-enhancing, 2 edema, 3 enhancing), and without any 4 it can't be told which "
            "these are; "
            "give --challenge ped2023 or --challenge ped2024.",
        )
    treated = [kind for kind in kinds if kind in _WITH_CAVITY]
    # Scans after a treatment have the numbers from 100 on (BraTS-GLI-02405-100).
    late = "gli" in treated and any(re.fullmatch(r"brats-gli-\d+-[1-9]\d\d", name, re.I) for name in cases)
    if late or (treated and _has_four(labels[:: max(1, len(labels) // _LOOK_AT)])):
        return Answer(CHALLENGES[_WITH_CAVITY[treated[0]]])
    return Answer(_PLAIN)


def _has_four(labels: Sequence[Path]) -> bool:
    """Whether a label map has the value 4; the first ones that have it end the search."""
    step = 2 * available_cpus()
    with ThreadPoolExecutor(available_cpus()) as pool:
        parts: Iterable[Sequence[Path]] = (labels[start : start + step] for start in range(0, len(labels), step))
        return any(any(pool.map(_holds_four, part)) for part in parts)


def _holds_four(path: Path) -> bool:
    try:
        return 4 in value_counts(label_values(read_image(path)))
    except AutosegError:  # reported by the check
        return False
