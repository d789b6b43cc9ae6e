"""Statistics of paired differences: how much one method's values differ from another's, case by case.

* *Mean difference* to the baseline, with a bootstrap confidence interval that draws cases (pairs) with replacement
  (bias-corrected and accelerated: Efron, J Am Stat Assoc 82, 171, 1987; :func:`scipy.stats.bootstrap`). Of fewer than
  :data:`BOOTSTRAP_FROM` pairs, which it would make too narrow, Student's t.
* *Wilcoxon signed-rank test*, two-sided (Wilcoxon, Biometrics Bulletin 1, 80, 1945; :func:`scipy.stats.wilcoxon`).
  Differences of zero are left out, as Wilcoxon did; where all are zero, p = 1. The p-value is exact for up to 50
  differences without ties and up to 13 with ties, else from the normal approximation with correction for ties.
* *Holm's correction* of all p-values of the call (Holm, Scand J Stat 6, 65, 1979).
* *Effect size*: the matched-pairs rank-biserial correlation of the same ranks, (R₊ − R₋) / (R₊ + R₋), from −1 (lower in
  every case) to 1 (higher in every case) (Kerby, Compr Psychol 3, 1, 2014).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from autoseg.evaluation.protocol import RESAMPLES
from autoseg.utils.errors import UsageError

#: Decimals to which differences are rounded, so that 0.3 − 0.2 and 0.2 − 0.1 are the tie that they are in decimals.
_DECIMALS = 12

#: From this many pairs on an interval is a bootstrap's; below, Student's t, as too few values have no tails to draw.
BOOTSTRAP_FROM = 10

#: What is computed, in words that go beside the numbers.
METHODS = {
    "test": "Wilcoxon signed-rank test, two-sided, zero differences left out",
    "correction": "Holm, over all comparisons of the table",
    "interval": f"bootstrap over cases, bias-corrected and accelerated (BCa); below {BOOTSTRAP_FROM} Student's t",
    "effect": "matched-pairs rank-biserial correlation (Kerby 2014)",
}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the k-th smallest of m p-values times m − k + 1, never below the one before.

    NaN (no test was possible) stays NaN and does not count.
    """
    order = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    corrected = [math.nan] * len(p)
    largest = 0.0
    for rank, (value, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[index] = largest
    return corrected


def signed_rank(differences: np.ndarray) -> tuple[float, float]:
    """Wilcoxon's signed-rank test and the rank-biserial correlation of the same ranks.

    Args:
        differences: ``(n,)``, defined.

    Returns:
        p (two-sided; 1 where every difference is zero) and effect (0 there).
    """
    nonzero = np.round(differences, _DECIMALS)
    nonzero = nonzero[nonzero != 0]
    if not len(nonzero):
        return 1.0, 0.0
    ranks = stats.rankdata(np.abs(nonzero))
    effect = float(np.sum(np.sign(nonzero) * ranks) / ranks.sum())
    return float(stats.wilcoxon(nonzero, method="auto").pvalue), effect


@dataclass(frozen=True)
class Bootstrap:
    """How confidence intervals are made; every one draws the same cases.

    Attributes:
        confidence: of the intervals; a corrected p below 1 − confidence is called significant.
        resamples: number of bootstrap samples.
        seed: of the random numbers.

    Raises:
        UsageError: a confidence or a number of resamples that makes no sense.
    """

    confidence: float = 0.95
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"--confidence {self.confidence} is no level of confidence; give 0.95 or another below 1.")
        if self.resamples < 100:
            raise UsageError(f"--resamples {self.resamples} are too few for an interval; give 1000 or more.")

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Confidence interval of the mean; BCa, and the value itself where all are the same."""
        if not len(values) or np.ptp(np.round(values, _DECIMALS)) == 0:
            mean = float(values.mean()) if len(values) > 1 else math.nan
            return mean, mean
        found = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=self.resamples,
            confidence_level=self.confidence,
            method="BCa",
            batch=max(1, 2**22 // len(values)),  # 32 MB at a time
            rng=np.random.default_rng(self.seed),
        ).confidence_interval
        return float(found.low), float(found.high)


def paired_interval(
    differences: Sequence[float] | np.ndarray, bootstrap: Bootstrap = Bootstrap()
) -> tuple[float, float]:
    """Confidence interval of a mean of paired differences: of few pairs Student's t, else :meth:`Bootstrap.interval`.

    Args:
        differences: defined; NaN twice for fewer than two.
        bootstrap: confidence, and how a bootstrap is made.
    """
    values = np.asarray(differences, float)
    if len(values) < 2:
        return math.nan, math.nan
    if len(values) >= BOOTSTRAP_FROM or np.ptp(np.round(values, _DECIMALS)) == 0:
        return bootstrap.interval(values)
    found = stats.ttest_1samp(values, 0.0).confidence_interval(bootstrap.confidence)
    return float(found.low), float(found.high)
