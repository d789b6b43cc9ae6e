"""Words of descriptions of MR series: what is no plain scan, and whether there is a contrast agent.

English, German and French, and the makers' own names.
"""

import re

#: Words → kinds of series that are no plain scan, in the order in which they are looked for.
_OTHERS = (
    (
        "localizer",
        r"lo[ck]ali[sz]|scout|survey|rep[eé]rage|pilot|[uü]e?bersicht|(?<![a-z])loc(?![a-z])|3[ -]?plane|"
        r"plan(?:ning)? scan",
    ),
    ("angiography", r"(?<![a-z])(?:tof|mr[av]|pc[av])(?![a-z])|angio|venogra|(?<![a-z])mip(?![a-z])"),
    ("diffusion", r"dwi|dti|(?<![a-z])adc|trace|diffusion|(?<![a-z])diff(?![a-z])|(?<![a-z])b ?[1-9]\d{2,3}(?!\d)"),
    ("perfusion", r"perf|(?<![a-z])(?:dsc|dce|asl)(?![a-z])|r?cb[vf](?![a-z])|(?<![a-z])(?:mtt|ttp)(?![a-z])"),
    (
        "susceptibility",
        r"(?<![a-z])swi|swan|swip|venobold|t2[ _-]?(?:\*|star)|h[aä]?emo|(?<![a-z])mprg|(?:pha|mag)_images",
    ),
    ("spectroscopy", r"spectro|spektro|(?<![a-z])(?:mrs|csi|svs)(?![a-z])"),
    ("functional", r"bold|fmri|resting"),
    ("fat-suppressed inversion", r"(?<![a-z])stir(?![a-z])"),
    ("steady-state sequence", r"(?<![a-z])(?:ciss|fiesta|trufi|dess)(?![a-z])|true ?fisp"),
    ("fat image", r"(?<![a-z])fat ?(?:only|:)|[_ ]dixon.*_f(?![a-z])|(?<![a-z])opp(?:osed)?[ _-]?(?:phase)?(?![a-z])"),
    (
        "derived",
        r"subtra[ck]t|soustra|(?<![a-z])sub(?![a-z])|field ?map|screen ?save|(?<![a-z])(?:fa|eadc)(?![a-z0-9])|"
        r"t[12]\*?[ _-]?(?:map|rho)",
    ),
)

#: What a contrast agent is called: in words, by its makers, in German (Kontrastmittel) and French.
_AGENT = (
    r"(?:i\.?v\.? ?)?(?:contrast|kontrast(?:mittel)?|gado[a-z]*|gad(?![a-z])|gd(?![a-z])|km(?![a-z])|k\.m\.|"
    r"inj(?:ection|\.)?(?![a-z])|dotarem|magnevist|multihance|prohance|omniscan|clariscan|primovist)"
)
_NONE = r"(?<![a-z])(?:no|non|without|w/o|wo|ohne|o\.|sans|kein|vor|pr[aä]e?|pre|avant|before)"
_WITHOUT = (
    rf"{_NONE}[ _.-]*{_AGENT}|(?<![a-z])pre(?![sp]|[ _-]?op)|without|w/o|native|plain|nativ|t1n(?![a-z])|"
    r"(?<![a-z])c-(?![a-z])"
)
_WITH = (
    rf"post(?!er|[ _-]?(?:op|surg|rt|rad|treat|proc|lab))|(?<![a-z]){_AGENT}|\+ ?(?:c(?![a-z])|{_AGENT})|"
    r"(?<![a-z])c ?\+|t1 ?(?:ce|gd|gad|km)(?![a-z])|t1c(?![a-z])|(?<![a-z])(?:ce|with c)(?![a-z])|enhanced|"
    r"inject[eé]"
)

#: An exam before and after the agent.
_BOTH = (
    r"(?<![a-z])(?:w/? ?(?:&|and|/|\+)? ?w/?o|w/?o ?(?:&|and|/|\+)? ?w/?(?![a-z/])|with (?:and|&|/) ?without|"
    r"without (?:and|&|/) ?with|mit und ohne|ohne und mit|avec et sans|sans et avec|pre ?(?:and|&|/|\+) ?post)"
)

#: Beginnings of ContrastBolusAgent that say there was none.
_NO_AGENT = r"(?:no|non|none|n|0|without|nein|ohne|kein|keine|keines|sans|aucun|nil|unknown|n/?a|-)(?![a-z])"


def other_kind_in(words: str) -> str | None:
    """What else than a plain scan words in lower case say it is (``localizer``, ``diffusion``, …), or None."""
    return next((kind for kind, pattern in _OTHERS if re.search(pattern, words)), None)


def said_of_contrast(words: str) -> tuple[bool, bool]:
    """Whether words in lower case say that there is a contrast agent, and that there is none."""
    if re.search(_BOTH, words):
        return True, True
    pre = re.search(_WITHOUT, words) is not None
    return re.search(_WITH, re.sub(_WITHOUT, " ", words)) is not None, pre


def names_agent(text: str) -> bool:
    """Whether ContrastBolusAgent names one: neither nothing, nor a word for none."""
    text = text.strip().lower()
    return text != "" and re.match(_NO_AGENT, text) is None
