"""How much of a source to keep: chosen by cases that were not trained on, which must show a gain.

Networks on the line from a source's weights to the tuned ones (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
models") are scored on held-out cases beside the source as it is. A share that gains less than one standard error of its
paired differences to the source is not taken (the one-standard-error rule of Breiman et al. 1984, "Classification and
regression trees", section 3.4.3): with few cases the best of several is often the best by luck. A share of no effect is
still taken about one time in five, so that the result is no worse than the source on average. The standard error of
two differences is near 0 whenever the two happen to be alike, so that two cases decide nothing.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Shares of the source's weights that are tried, 0 for the tuned weights; in the order in which time allows for them.
TRIED_SHARES = (0.0, 0.5, 0.25, 0.75)

#: Fewer held-out cases than these decide nothing: with two, a tuning of four sarcomas was taken that lost
#: (benchmarks/results/cohort_rows.md).
FEWEST = 3

#: Share → case (or patient) → score, the higher the better; NaN where it is undefined.
Scores = Mapping[float, Mapping[str, float]]


@dataclass(frozen=True)
class ShareChoice:
    """A share of the source's weights, and why.

    Attributes:
        share: that is taken; :data:`~autoseg.runs.run.SOURCE` or :data:`~autoseg.runs.run.UNTOUCHED` for the source
            as it is.
        best: that has the highest mean.
        means: mean score of each share over the cases.
        difference: mean difference of the best to the source as its own run predicts, over the cases.
        error: its standard error; NaN of fewer than two cases.
        cases: number of cases (or patients) that decided.
    """

    share: float
    best: float
    means: dict[float, float]
    difference: float
    error: float
    cases: int

    @property
    def does_nothing(self) -> bool:
        """Whether the source is taken as its own run predicts."""
        return self.share == _nothing(self.means)


def _nothing(shares: Collection[float]) -> float:
    """The share that stands for doing nothing: the largest."""
    return max(shares)


def too_few(patients: int) -> str:
    """That so many held-out patients decide nothing, as a part of a sentence; empty where they do."""
    return f"{patients} held-out patient(s) can't tell whether tuning helps, {FEWEST} can" if patients < FEWEST else ""


def with_a_say(patients: Sequence[str], learned: Collection[str]) -> list[str]:
    """The patients by whom is chosen: those that the source was not trained on, or all where these decide nothing.

    A tuning that beats the source on cases that this has learned is better all the same; the reverse tells nothing.
    """
    others = [patient for patient in patients if patient not in learned]
    return others if len(others) >= FEWEST else list(patients)


def choose_share(scores: Scores, cases: Collection[str]) -> ShareChoice:
    """The share to take.

    Args:
        scores: of several shares. The largest of them stands for doing nothing; the others are held against it.
        cases: that decide; those that are not scored for every share are left out. Fewer than :data:`FEWEST`
            decide nothing, and the largest share is taken.
    """
    nothing = _nothing(scores)
    known = [case for case in cases if all(math.isfinite(of.get(case, math.nan)) for of in scores.values())]
    means = {share: float(np.mean([of[case] for case in known])) if known else math.nan for share, of in scores.items()}
    if len(known) < 2:
        return ShareChoice(nothing, nothing, means, math.nan, math.nan, len(known))
    best = max(means, key=lambda share: (means[share], share))
    differences = np.array([scores[best][case] - scores[nothing][case] for case in known])
    difference, error = float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(known)))
    taken = best if len(known) >= FEWEST and difference > error else nothing
    return ShareChoice(taken, best, means, difference, error, len(known))


def share_for_each(scores: Scores, groups: Sequence[Collection[str]], deciding: Collection[str]) -> dict[str, float]:
    """For each case a share that the case itself did not choose.

    Args:
        scores: as for :func:`choose_share`.
        groups: the cases of each fold. A fold's cases get the share that the other folds' cases choose; where there is
            one fold alone, each case gets the share that the others choose.
        deciding: the cases that have a say (:func:`with_a_say`).

    Returns:
        Case → share.
    """
    found = {}
    for place, group in enumerate(groups):
        elsewhere = [case for number, other in enumerate(groups) if number != place for case in other]
        others = [case for case in elsewhere if case not in group]  # a patient may have exams in several folds
        whole = choose_share(scores, [case for case in others if case in deciding]).share if others else None
        for case in group:
            own = [other for other in group if other != case and other in deciding]
            found[case] = choose_share(scores, own).share if whole is None else whole
    return found
