"""Which sequence a series is: from its words, contrast agent, times and image type, with the reason.

Where words and times contradict each other the words count, and the series is listed as doubtful. The limits of times
are those of clinical protocols at 1.5 and 3 T: T1 has a short TR or an inversion time near 900 ms, T2 a long TR and a
long TE, FLAIR an inversion time above 1500 ms besides, which nulls water.
"""

import re
from dataclasses import dataclass

from autoseg.clinical.series import SequenceFacts
from autoseg.data.names import SEQUENCES, sequence_in

#: Sequences that a channel is made of; all else is something else.
BRAIN_SEQUENCES = ("t1", "t1c", "flair", "t2")

#: Words of descriptions → kinds of series that are no channel, in the order in which they are looked for.
_OTHERS = (
    ("localizer", r"locali[sz]er|scout|survey|(?<![a-z])loc(?![a-z])|3[ -]?plane|plan(?:ning)? scan"),
    ("angiography", r"(?<![a-z])(?:tof|mr[av]|pc[av])(?![a-z])|angio|venogra|(?<![a-z])mip(?![a-z])"),
    ("diffusion", r"dwi|dti|(?<![a-z])adc|trace|diffusion|(?<![a-z])diff(?![a-z])|(?<![a-z])b ?[1-9]\d{2,3}(?!\d)"),
    ("perfusion", r"perf|(?<![a-z])(?:dsc|dce|asl)(?![a-z])|r?cb[vf](?![a-z])|(?<![a-z])(?:mtt|ttp)(?![a-z])"),
    ("susceptibility", r"(?<![a-z])swi|swan|venobold|t2[ _-]?(?:\*|star)|hemo|(?<![a-z])mprg"),
    ("spectroscopy", r"spectro|(?<![a-z])(?:mrs|csi|svs)(?![a-z])"),
    ("functional", r"bold|fmri|resting"),
    ("fat-suppressed inversion", r"(?<![a-z])stir(?![a-z])"),
    ("proton density", r"(?<![a-z])pd(?![a-z])|proton"),
    ("derived", r"subtract|(?<![a-z])sub(?![a-z])|field ?map|screen ?save|(?<![a-z])(?:fa|eadc)(?![a-z])"),
)

#: Values of ImageType that a map computed from others has.
_DERIVED_TYPES = {
    "ADC",
    "FA",
    "TRACEW",
    "SUBTRACT",
    "SUBTRACTION",
    "SUB",
    "PROJECTION IMAGE",
    "MIP",
    "MIN IP",
    "CBV",
    "CBF",
}

_FLAIR = r"flair|tirm|dark[ _-]?fluid|(?<![a-z0-9])t2f(?![a-z0-9])"
_T1 = r"t1(?!\d)|mp-?rage|(?<![a-z])(?:f?spgr|bravo|vibe|tfe|flash)"
_T2 = r"t2(?!\d)"
_WITH = (
    r"post(?!er)|(?<![a-z])gd|gado|(?<!no )(?<!w/o )(?<!without )contrast|\+ ?(?:c|gd|km|contrast)(?![a-z])|"
    r"(?<![a-z])c ?\+|t1 ?ce(?![a-z])|t1c(?![a-z])|(?<![a-z])(?:ce|km|with c)(?![a-z])|enhanced"
)
_WITHOUT = r"(?<![a-z])pre(?![sp])|without|w/o|(?<![a-z])no contrast|native|plain|nativ|t1n(?![a-z])"

#: Contents of ContrastBolusAgent that say there was none.
_NO_AGENT = {"", "no", "none", "n", "0", "without", "no contrast", "nein", "ohne", "unknown", "n/a", "na"}


@dataclass(frozen=True)
class Recognised:
    """What a series is.

    Attributes:
        sequence: ``t1``, ``t1c``, ``flair``, ``t2``, or what else it is (``localizer``, ``diffusion``, …, ``unknown``).
        reason: how that is known; quotes no text of the header.
        certain: whether nothing speaks against it.
        derived: whether it was computed or cut anew from another series, which is better then.
    """

    sequence: str
    reason: str
    certain: bool = True
    derived: bool = False

    @property
    def is_channel(self) -> bool:
        """Whether it can be a channel of a dataset."""
        return self.sequence in BRAIN_SEQUENCES or self.sequence == "ct"


def recognise_sequence(facts: SequenceFacts) -> Recognised:
    """Say which sequence a series is.

    Args:
        facts: of its headers, or with the words of a file's name as ``description``.
    """
    words = " ".join((facts.description, facts.protocol)).lower()
    types = {value.upper() for value in facts.image_type}
    derived = bool(types & {"DERIVED", "SECONDARY"})
    if "LOCALIZER" in types:
        return Recognised("localizer", "its image type says so")
    if facts.planes > 1:
        return Recognised("localizer", f"its slices lie in {facts.planes} planes")
    if "MOSAIC" in types:
        return Recognised("mosaic", "its slices are tiles of one picture, as in diffusion and functional series")
    if facts.modality.upper() == "CT":
        return Recognised("ct", "its modality is CT", derived=derived)
    if facts.modality and facts.modality.upper() not in ("MR", "OT", "SC"):
        return Recognised(facts.modality.lower(), f"its modality is {facts.modality}")
    if types & _DERIVED_TYPES:
        return Recognised("derived", f"its image type is {', '.join(sorted(types & _DERIVED_TYPES)).lower()}")
    if facts.diffusion_weighting:
        return Recognised("diffusion", f"its b-value is {facts.diffusion_weighting:g} s/mm²")
    if facts.angiography:
        return Recognised("angiography", "its header says angiography")
    for kind, pattern in _OTHERS:
        if re.search(pattern, words):
            return Recognised(kind, "its description says so", derived=derived)
    by_words, told = _by_words(words)
    by_times, measured = _by_times(facts)
    if by_words is None and by_times in (None, *BRAIN_SEQUENCES[2:]) and (short := sequence_in(facts.description)):
        by_words, told = short, f"its name says {short}"
    if by_words is None and by_times is None:
        return Recognised("unknown", "neither its words nor its times say what it is", certain=False, derived=derived)
    sequence = by_words or by_times or ""
    certain = by_words is None or by_times is None or by_words.rstrip("c") == by_times
    reasons = [told] if told else []
    if measured:
        reasons.append(measured if certain else f"but {measured}, as of {by_times}")
    if sequence in ("t1", "t1c"):
        sequence, why, agreed = _with_contrast(sequence, words, facts)
        reasons += [why] if why else []
        certain = certain and agreed
    return Recognised(sequence, ", ".join(reasons), certain, derived)


def is_brain(found: list[tuple[SequenceFacts, Recognised]]) -> bool:
    """Whether an exam's series are of a brain: headers say so, or a FLAIR or three sequences of a brain are there."""
    parts = " ".join(f"{facts.body_part} {facts.description} {facts.protocol}".lower() for facts, _ in found)
    if re.search(r"brain|head(?!er)|skull|cerebr|glio|neuro|kopf|sch[aä]del|hirn|cran", parts):
        return True
    if any(facts.body_part for facts, _ in found):
        return False
    kinds = {one.sequence for _, one in found}
    return "flair" in kinds or len(kinds & set(BRAIN_SEQUENCES)) >= 3


def _by_words(words: str) -> tuple[str | None, str]:
    t1 = re.search(_T1, words) or re.search(r"(?<![a-z0-9])t1(?:c|ce|n|gd|w)", words)
    flair = re.search(_FLAIR, words)
    if flair and t1 and not re.search(_T2, words):
        return "t1", "its description says T1 with inversion"
    if flair:
        return "flair", "its description says FLAIR"
    if t1 and re.search(_T2, words):
        return None, ""
    if t1:
        return "t1", "its description says T1"
    if re.search(_T2, words):
        return "t2", "its description says T2"
    return None, ""


def _by_times(facts: SequenceFacts) -> tuple[str | None, str]:
    tr, te, ti = facts.repetition_time, facts.echo_time, facts.inversion_time
    if tr is None or te is None:
        return None, ""
    text = f"TR {tr:g} ms, TE {te:g} ms" + (f", TI {ti:g} ms" if ti else "")
    inverted = bool(ti) or "IR" in facts.scanning_sequence
    echo_planar = "EP" in facts.scanning_sequence
    gradient = "GR" in facts.scanning_sequence and "SE" not in facts.scanning_sequence
    if ti and ti >= 1500 and tr >= 4000:
        return "flair", text
    if ti and ti < 350 and tr > 1500 and te >= 20:
        return None, ""
    if echo_planar:
        return None, ""
    if inverted and te < 40 and (ti is None or 350 <= ti < 1500):
        return "t1", text
    if gradient:
        return ("t1", text) if te < 12 and (tr < 50 or (inverted and tr < 4000)) else (None, "")
    if not inverted and tr >= 1800 and te >= 60:
        return "t2", text
    if tr <= 1200 and te <= 30:
        return "t1", text
    return None, ""


def _with_contrast(sequence: str, words: str, facts: SequenceFacts) -> tuple[str, str, bool]:
    """``t1`` or ``t1c``, why, and whether nothing speaks against it."""
    agent = facts.contrast.strip().lower() not in _NO_AGENT
    post = sequence == "t1c" or re.search(_WITH, words) is not None
    pre = re.search(_WITHOUT, words) is not None
    if post and pre:
        return ("t1c" if agent else "t1"), "its description says both with and without contrast", False
    if post:
        return "t1c", "and contrast", True
    if pre:
        return "t1", "and no contrast" + (", though an agent is named" if agent else ""), not agent
    return ("t1c", "a contrast agent is named", True) if agent else ("t1", "no contrast agent", True)


def words_of(name: str) -> str:
    """A file's name as the words of a description: ``BraTS-1_t1n`` → ``brats 1 t1n``, with known names spelled out."""
    words = [word for word in re.sub(r"[^a-z0-9*+]+", " ", name.lower()).split() if word not in ("sub", "ses")]
    spelled = {"t1": "t1", "t1c": "t1 post", "t2": "t2", "flair": "flair"}
    return " ".join(spelled.get(SEQUENCES.get(word, ""), word) if word != "t1n" else "t1 pre" for word in words)
