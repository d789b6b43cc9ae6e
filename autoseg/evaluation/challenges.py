"""The metrics of the BraTS challenges: what is measured, of which regions, and by which rules."""

import math
from dataclasses import dataclass, replace

from autoseg.data.layouts.brats_challenges import CHALLENGES, UP_TO_2021, Challenge
from autoseg.evaluation.cases import Structure
from autoseg.evaluation.lesion_groups import Tissue
from autoseg.evaluation.lesions import LesionRules
from autoseg.evaluation.protocol import Empty, EvaluationProtocol
from autoseg.utils.errors import UsageError

#: Gross tumour volume of BraTS-MEN-RT 2024 (arXiv 2405.18383).
_GROSS = Challenge({"gtv": 1}, {"gtv": (1,)})

#: Editions that took place, but whose rules no published code was found of.
_UNPUBLISHED = ("ssa2025", "ped2025", "met2025", "men-rt2025")

#: Of whole regions, by surfaces; and lesion by lesion.
_REGION = ("dice", "hd95")
_LESIONS = ("lesion_dice", "lesion_hd95", "lesions_found", "lesions_missed", "lesions_false")
_VOXELS = ("sensitivity", "specificity")

#: Metrics of the package ``brats-evaluation``, whose distances run between border voxels.
_REGION_2026 = ("dice", "border_hd95")

#: Lesions of 2023 by dilation and smallest volume in mm³ (github.com/rachitsaluja/BraTS-2023-Metrics).
_GLIOMA, _MENINGIOMA, _METASTASIS = (
    LesionRules(dilation=3, above_mm3=50),
    LesionRules(dilation=1, above_mm3=50),
    LesionRules(dilation=1, above_mm3=2),
)

#: Lesions of 2024 and 2025 (github.com/rachitsaluja/BraTS-2024-Metrics; gliomas at commit 9e8879a, metastases at
#: b04e5a0, Sub-Saharan Africa at f61f7de, children at 7fa0b9e, radiotherapy at bc6308f): dilation, smallest volume, and
#: what joins lesions.
_JOINED = LesionRules("joined", dilation=3, above_mm3=20)
_ENHANCING, _NECROSIS, _CAVITY = Tissue((3,), 3, 10), Tissue((1,), 5, 20), Tissue((4,), 5, 20)
_AFTER_TREATMENT = replace(
    _JOINED,
    own=(
        (_ENHANCING.values, replace(_JOINED, above_mm3=10, through=(_NECROSIS, _CAVITY))),
        (_NECROSIS.values, replace(_JOINED, dilation=5, through=(_ENHANCING, _CAVITY))),
        (_CAVITY.values, replace(_JOINED, dilation=5, through=(_ENHANCING, _NECROSIS))),
        # 3 steps, not the 5 that the code means to give it: it spells the name otherwise.
        ((2,), replace(_JOINED, through=(_ENHANCING, _CAVITY, _NECROSIS))),
    ),
)
_CHILDREN = replace(_JOINED, dilation=5, above_mm3=10)
_RADIOTHERAPY = replace(_JOINED, dilation=1, above_mm3=50, penalty_mm=math.nan, false="left_out")


def _round_necrosis(dilation: int, above_mm3: float) -> LesionRules:
    """Enhancing lesions round one necrosis are one."""
    rules = replace(_JOINED, dilation=dilation, above_mm3=above_mm3)
    through = (Tissue((1,), dilation, above_mm3),)
    return replace(rules, own=((_ENHANCING.values, replace(rules, through=through)),))


#: Pairs of 2026 (package ``brats-evaluation`` 0.0.10): misses don't count in the means of matched lesions, but where
#: metastases of 20 mm³ and more are scored.
_PAIRS = LesionRules("one_to_one", 0, 0.0, 373.0, "left_out", (math.nan, math.nan))
_LARGE_PAIRS = replace(_PAIRS, above_mm3=math.nextafter(20.0, 0.0), misses="counted")


@dataclass(frozen=True)
class BratsEvaluation:
    """How one challenge evaluates.

    Attributes:
        challenge: its labels and regions.
        empty: convention for empty masks.
        metrics: that it reports.
        lesions: rules of its lesion-wise scores, if it has any.
        parts: whether labels are reported beside the regions.
    """

    challenge: Challenge
    empty: Empty
    metrics: tuple[str, ...]
    lesions: LesionRules | None = None
    parts: bool = False

    @property
    def structures(self) -> list[Structure]:
        """What is measured: the regions, then the labels that are none, where they are reported."""
        regions = [Structure(name, values) for name, values in self.challenge.regions.items()]
        alone = {region.values for region in regions}
        labels = [Structure(name, (value,)) for name, value in self.challenge.labels.items() if (value,) not in alone]
        return regions + (labels if self.parts else [])

    def protocol(self, given: EvaluationProtocol) -> EvaluationProtocol:
        """A protocol with this challenge's conventions and values, and its metrics where none are named."""
        metrics = self.metrics if given.metrics is None else given.metrics
        known = tuple(sorted(self.challenge.labels.values()))
        return replace(given, empty=self.empty, metrics=metrics, lesions=self.lesions, known=known)


def _in_2023(name: str, rules: LesionRules) -> BratsEvaluation:
    return BratsEvaluation(CHALLENGES[name], "brats2023", (*_REGION, *_LESIONS, *_VOXELS), rules)


def _in_2024(labels: Challenge, rules: LesionRules, parts: bool = False) -> BratsEvaluation:
    return BratsEvaluation(labels, "brats2023", (*_REGION, *_LESIONS, *_VOXELS), rules, parts)


def _in_2026(labels: Challenge, rules: LesionRules = _PAIRS, parts: bool = False) -> BratsEvaluation:
    return BratsEvaluation(labels, "brats2026", (*_REGION_2026, *_LESIONS), rules, parts)


#: Challenge and year → how it evaluates. 2021 stands for all before, whose enhancing tumor is 4, too.
EVALUATIONS = {
    "gli2021": BratsEvaluation(UP_TO_2021, "brats", (*_REGION, *_VOXELS)),
    "gli2023": _in_2023("gli2023", _GLIOMA),
    "ssa2023": _in_2023("ssa2023", _GLIOMA),
    "ped2023": _in_2023("ped2023", _GLIOMA),
    "men2023": _in_2023("men2023", _MENINGIOMA),
    "met2023": _in_2023("met2023", _METASTASIS),
    "gli2024": _in_2024(CHALLENGES["gli2024"], _AFTER_TREATMENT, parts=True),
    "ssa2024": _in_2024(CHALLENGES["ssa2023"], _round_necrosis(3, 50)),
    "ped2024": _in_2024(CHALLENGES["ped2024"], _CHILDREN, parts=True),
    "met2024": _in_2024(CHALLENGES["met2023"], _round_necrosis(1, 2)),
    # Without whole-region distances, whose penalty is the diagonal of each image there.
    "men-rt2024": BratsEvaluation(_GROSS, "brats2023", ("dice", *_LESIONS, *_VOXELS), _RADIOTHERAPY),
    "gli2025": _in_2024(CHALLENGES["gli2024"], _AFTER_TREATMENT, parts=True),
    "men2025": _in_2024(CHALLENGES["men2023"], _MENINGIOMA),
    "gli2026": _in_2026(CHALLENGES["gli2024"], parts=True),
    "ped2026": _in_2026(CHALLENGES["ped2024"], parts=True),
    "men2026": _in_2026(CHALLENGES["men2023"]),
    "met2026": _in_2026(CHALLENGES["met2025"], _LARGE_PAIRS),
}


def brats_evaluation(name: str) -> BratsEvaluation:
    """How a challenge evaluates.

    Args:
        name: as ``gli2023``: the challenge in the files' names, and the year.

    Raises:
        UsageError: its rules are not known here.
    """
    if name.lower() in _UNPUBLISHED:
        raise UsageError(
            f"--brats {name}: no published code of that edition's rules is known; {name[:-1]}4 or another edition of "
            f"{', '.join(EVALUATIONS)} may serve."
        )
    if name.lower() not in EVALUATIONS:
        raise UsageError(f"--brats {name} is unknown; choose one of {', '.join(EVALUATIONS)} (gli2021: and before).")
    return EVALUATIONS[name.lower()]
