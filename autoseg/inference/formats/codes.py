"""Codes of structures in DICOM's terms, by their names; the words are those of pydicom's dictionaries."""

import re
from functools import cache
from typing import Any, NamedTuple

from autoseg.data.dicom import import_pydicom
from autoseg.data.names import name_words, output_key

#: Structures of a glioma, and words of a lesion → a keyword of "Segmentation Property Types" (CID 7151): parts of one
#: tumour have one code and names of their own.
_LESIONS = {
    "whole_tumor": "Neoplasm",
    "tumor_core": "Neoplasm",
    "tumor": "Neoplasm",
    "gtv": "Neoplasm",
    "neoplasm": "Neoplasm",
    "enhancing_tumor": "EnhancingLesion",
    "non_enhancing": "NonEnhancingLesion",
    "edema": "Edema",
    "necrosis": "Necrosis",
    "lesion": "Lesion",
    "mass": "Mass",
}

#: Words of a side → code value and meaning (SNOMED CT).
_SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}


class StructureCodes(NamedTuple):
    """How DICOM calls a structure; each code is pydicom's, of value, scheme and meaning.

    Attributes:
        category: "Segmentation Property Categories" (CID 7150).
        kind: property type.
        side: left or right, or None.
    """

    category: Any
    kind: Any
    side: Any = None


def structure_codes(name: str, given: str = "") -> StructureCodes:
    """The codes of a structure.

    Args:
        name: of the plan's output; found among DICOM's property types whatever its case and punctuation, with left or
            right apart.
        given: ``SCHEME:VALUE:MEANING`` of the plan, which counts instead.

    Returns:
        "Tissue" for a name that no dictionary has; the segment's label still holds it.
    """
    import_pydicom()
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    altered = codes.SCT.MorphologicallyAbnormalStructure
    words = name_words(name)
    side = next((_SIDES[word.lower()] for word in words if word.lower() in _SIDES), None)
    sided = None if side is None else Code(side[0], "SCT", side[1])
    if given:
        scheme, value, meaning = given.split(":", 2)
        return StructureCodes(altered if _lesion(name) else codes.SCT.Tissue, Code(value, scheme, meaning), sided)
    if keyword := _lesion(name):
        return StructureCodes(altered, _types()[keyword.lower()], sided)
    plain = "".join(word for word in words if word.lower() not in _SIDES).lower()
    kind = _types().get(plain)
    if kind is None:
        return StructureCodes(codes.SCT.Tissue, codes.SCT.Tissue, sided)
    return StructureCodes(codes.SCT.AnatomicalStructure, kind, sided)


def _lesion(name: str) -> str | None:
    """The keyword of a lesion that a name tells of as a whole, or by its first word (``GTV_Mass``)."""
    first = re.split(r"[^A-Za-z0-9]+", name.strip("_- "))[0].lower()
    return _LESIONS.get(output_key(name)) or _LESIONS.get(first)


@cache
def _types() -> dict[str, Any]:
    """Keyword in lower case → code, of "Segmentation Property Types"."""
    from pydicom.sr.codedict import codes

    found = codes.CID7151
    return {keyword.lower(): getattr(found, keyword) for keyword in found.dir()}
