"""Which sequence a series is: from its words, contrast agent, times and image type, with the reason.

Where words and times contradict each other the words count, and the series is listed as doubtful. The limits of times
are those of clinical protocols at 1.5 and 3 T: T1 has a short TR or an inversion time near 900 ms, T2 a long TR and a
long TE, FLAIR an inversion time above 1500 ms besides, which nulls water.
"""

import re
from dataclasses import dataclass, replace

from autoseg.clinical.series import SequenceFacts
from autoseg.data.names import SEQUENCES, sequence_in
from autoseg.data.series_words import names_agent, other_kind_in, said_of_contrast

#: Sequences that a channel is made of; all else is something else.
BRAIN_SEQUENCES = ("t1", "t1c", "flair", "t2")

#: Words for proton density, which the second echo of a series with both is not.
_PROTON_DENSITY = r"(?<![a-z])(?:pd|dp)(?![a-z])|pdw|proton|protonen|densit[eé] de p"

#: Values of ImageType that a map computed from others, or an image of fat alone, has.
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
    "T1 MAP",
    "T2 MAP",
    "T2_STAR MAP",
    "P",
    "PHASE",
    "PHASE MAP",
    "F",
    "FAT",
    "OP",
    "OPP_PHASE",
    "OUT_PHASE",
    "FAT_FRACTION",
}

#: As often as this, a series is measured to see something change (contrast, oxygen), not to see anatomy.
_DYNAMIC = 8

_FLAIR = r"flair|tirm|dark[ _-]?fluid|(?<![a-z0-9])t2f(?![a-z0-9])"
_T1 = r"(?<!par)t1(?!\d)|mp[ _-]?rage|(?<![a-z])(?:f?spgr|bravo|vibe|tfe|flash)"
_T2 = r"t2(?!\d)"

#: Words for an exam of a brain, for one of a head, and for one of more than that.
_OF_BRAIN = r"brain|skull|cerebr|glio|neuro|sch[aä]del|hirn|cran"
_OF_HEAD = r"head(?!er)|kopf"
_HEAD_AND_NECK = r"head[ _/-]*(?:and|&|\+)?[ _/-]*neck|kopf[ _/-]*(?:und|&|\+)?[ _/-]*hals"


@dataclass(frozen=True)
class Recognised:
    """What a series is.

    Attributes:
        sequence: ``t1``, ``t1c``, ``flair``, ``t2``, or what else it is (``localizer``, ``diffusion``, …, ``unknown``).
        reason: how that is known; quotes no text of the header.
        certain: whether nothing speaks against it.
        derived: whether it was computed or cut anew from another series, which is better then.
        after_agent: whether its words say contrast though it is no T1: where there is one without, that is better.
        repeated: whether it is a T1 with contrast, measured several times, the first perhaps before the injection.
    """

    sequence: str
    reason: str
    certain: bool = True
    derived: bool = False
    after_agent: bool = False
    repeated: bool = False

    @property
    def is_channel(self) -> bool:
        """Whether it can be a channel of a dataset."""
        return self.sequence in BRAIN_SEQUENCES or self.sequence == "ct"


def recognise_sequence(facts: SequenceFacts) -> Recognised:
    """Say which sequence a series is.

    Args:
        facts: of its headers, or with the words of a file's name as ``description``.
    """
    types = {value.upper() for value in facts.image_type}
    derived = bool(types & {"DERIVED", "SECONDARY"})
    if other := _by_type(facts, types):
        return replace(other, derived=derived)
    words = _telling_words(facts)
    measured_as = _by_times(facts)
    if kind := _other_kind(words, facts, measured_as[0]):
        return Recognised(kind, "its description says so", derived=derived)
    by_words, told = _by_words(words)
    by_times, measured = measured_as
    if by_words is None and by_times in (None, *BRAIN_SEQUENCES[2:]) and (short := sequence_in(facts.description)):
        by_words, told = short, f"its name says {short}"
    if by_times not in (None, *BRAIN_SEQUENCES) and (by_words is None or by_words in ("t2", "flair")):
        return Recognised(by_times or "", measured, derived=derived)
    if by_words is None and by_times is None:
        return Recognised("unknown", "neither its words nor its times say what it is", certain=False, derived=derived)
    sequence = by_words or by_times or ""
    certain = by_words is None or by_times is None or by_words.rstrip("c") == by_times
    reasons = [told] if told else []
    if measured:
        reasons.append(measured if certain else f"but {measured}, as of {by_times}")
    if sequence in ("t1", "t1c"):
        sequence, why, agreed = _with_contrast(sequence, facts)
        reasons += [why] if why else []
        certain = certain and agreed
        if sequence == "t1c" and facts.repetitions > 1:
            reasons.append(f"but it was measured {facts.repetitions} times, the first may be before contrast")
            return Recognised(sequence, ", ".join(reasons), False, derived, repeated=True)
    elif said_of_contrast(facts.description.lower()) == (True, False):
        return Recognised(sequence, ", ".join((*reasons, "after contrast")), certain, derived, after_agent=True)
    return Recognised(sequence, ", ".join(reasons), certain, derived)


def _by_type(facts: SequenceFacts, types: set[str]) -> Recognised | None:
    """What image type, modality and repetitions say, whatever the words."""
    if "LOCALIZER" in types:
        return Recognised("localizer", "its image type says so")
    if facts.planes > 1:
        return Recognised("localizer", f"its slices lie in {facts.planes} planes")
    if "MOSAIC" in types:
        return Recognised("mosaic", "its slices are tiles of one picture, as in diffusion and functional series")
    if facts.modality.upper() == "CT":
        return Recognised("ct", "its modality is CT")
    if facts.modality and facts.modality.upper() not in ("MR", "OT", "SC"):
        return Recognised(facts.modality.lower(), f"its modality is {facts.modality}")
    if types & _DERIVED_TYPES:
        return Recognised("derived", f"its image type is {', '.join(sorted(types & _DERIVED_TYPES)).lower()}")
    if facts.diffusion_weighting:
        return Recognised("diffusion", f"its b-value is {facts.diffusion_weighting:g} s/mm²")
    if facts.angiography:
        return Recognised("angiography", "its header says angiography")
    if facts.repetitions >= _DYNAMIC:
        return Recognised("dynamic", f"it was measured {facts.repetitions} times")
    return None


def _telling_words(facts: SequenceFacts) -> str:
    """The description; the protocol's name, which often is the whole exam's, only where that tells nothing."""
    description, protocol = facts.description.lower(), facts.protocol.lower()
    told = _by_words(description)[0] or _other_kind(description, facts, None) or sequence_in(description)
    return description if told else f"{description} {protocol}"


def _other_kind(words: str, facts: SequenceFacts, by_times: str | None) -> str | None:
    """What else than a channel the words say it is."""
    if kind := other_kind_in(words):
        return kind
    if re.search(_PROTON_DENSITY, words) and not (by_times == "t2" and re.search(_T2, words)):
        return "proton density"
    flair = re.search(_FLAIR, words)
    if re.search(_T2, words) and not flair and not re.search(r"t1(?!\d)", words) and _is_gradient_echo(facts):
        return "susceptibility"
    return None


def _is_gradient_echo(facts: SequenceFacts) -> bool:
    return "GR" in facts.scanning_sequence and "SE" not in facts.scanning_sequence


def is_brain(found: list[tuple[SequenceFacts, Recognised]]) -> bool:
    """Whether an exam's series are of a brain: headers say so, or a FLAIR or three sequences of a brain are there."""
    parts = " ".join(f"{facts.body_part} {facts.description} {facts.protocol}".lower() for facts, _ in found)
    if re.search(_OF_BRAIN, parts) or (re.search(_OF_HEAD, parts) and not re.search(_HEAD_AND_NECK, parts)):
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
    gradient = _is_gradient_echo(facts)
    if ti and ti >= 1500 and tr >= 4000:
        return "flair", text
    if ti and ti < 350 and tr > 1500 and te >= 20:
        return "fat-suppressed inversion", text
    if echo_planar:
        return None, ""
    if inverted and te < 40 and (ti is None or 350 <= ti < 1500):
        return "t1", text
    if gradient:
        spoiled = tr < 50 or (inverted and tr < 4000) or (tr <= 500 and (facts.flip_angle or 0) >= 50)
        return ("t1", text) if te < 12 and spoiled else (None, "")
    if not inverted and tr >= 1800 and te >= 60:
        return "t2", text
    if not inverted and tr >= 1800 and te <= 40:
        return "proton density", text
    if tr <= 1200 and te <= 30:
        return "t1", text
    return None, ""


def _with_contrast(sequence: str, facts: SequenceFacts) -> tuple[str, str, bool]:
    """``t1`` or ``t1c``, why, and whether nothing speaks against it."""
    agent = names_agent(facts.contrast)
    # The protocol's name is often the whole exam's, with and without contrast.
    post, pre = said_of_contrast(facts.description.lower())
    protocol = said_of_contrast(facts.protocol.lower())
    if not post and not pre and protocol != (True, True):
        post, pre = protocol
    post = post or (sequence == "t1c" and not pre)
    if post and pre:
        return ("t1c" if agent else "t1"), "its description says both with and without contrast", False
    if post:
        return "t1c", "and contrast", True
    if pre:
        return "t1", "and no contrast" + (", though an agent is named" if agent else ""), not agent
    return ("t1c", "a contrast agent is named", True) if agent else ("t1", "no contrast agent", True)


#: Words of file names that say how a scan was made, and nothing about who it is of.
_PLAIN_WORDS = re.compile(
    r"ax(?:ial)?|sag(?:ittal)?|cor(?:onal)?|tra(?:nsversal)?|2d|3d|pre|post|gd|gado?|km|ce|contrast|nativ|native|plain|"
    r"scan|image|img|brain|head|reg|registered|raw|ir|t?se|fse|fs|fatsat|spc|space|cube|vista|mprage|bravo|flash|vibe|"
    r"f?spgr|tfe|tirm|stir|swi|swan|dti|trace|tof|loc|localizer|scout|survey|map|mag|phase|sub|dixon|water|fat|in|opp|"
    r"iso|bold|asl|perf|[a-z]|[0-9]{1,3}",
    re.I,
)


def safe_name(name: str) -> str:
    """A file's name without words that could be a patient's: known ones, single letters and short numbers stay."""
    words = re.split(r"[_\-. ]+", name)
    kept = [word for word in words if word.lower() in SEQUENCES or _PLAIN_WORDS.fullmatch(word)]
    return "_".join(kept) or "scan"


def words_of(name: str) -> str:
    """A file's name as the words of a description: ``BraTS-1_t1n`` → ``brats 1 t1n``, with known names spelled out."""
    words = [word for word in re.sub(r"[^a-z0-9*+]+", " ", name.lower()).split() if word not in ("sub", "ses")]
    spelled = {"t1": "t1", "t1c": "t1 post", "t2": "t2", "flair": "flair"}
    return " ".join(spelled.get(SEQUENCES.get(word, ""), word) if word != "t1n" else "t1 pre" for word in words)
