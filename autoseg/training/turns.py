"""Whose turn it is: which case each sample of a training comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

#: Second number of the seed of the order of cases, and of the order of samples in a batch with cases from elsewhere.
ORDER, MIXING = 2, 4


@dataclass(frozen=True)
class Turns:
    """Every case of a group comes once a round, each round in a new order; groups take turns by their shares.

    Attributes:
        counts: cases of the fold itself, then of each group from elsewhere; they are numbered in this order.
        shares: of the samples that each group from elsewhere gets; the fold's own cases get the rest.
    """

    counts: Sequence[int]
    shares: Sequence[float] = ()

    def cases(self, number: int, places: int, seed: int) -> list[int]:
        """The case of each of the ``places`` of batch ``number``."""
        first = number * places
        chosen = [self._case(*self._turn(place), seed) for place in range(first, first + places)]
        if not self.shares:
            return chosen
        # Patches centred on foreground come last in a batch: it must not always be the same group's.
        order = np.random.default_rng([seed, MIXING, number]).permutation(places)
        return [chosen[place] for place in order]

    def _turn(self, place: int) -> tuple[int, int]:
        """Group of one of all places of the training, and how many of the places before were that group's."""
        left = Fraction(1)
        for group, share in enumerate(self.shares, start=1):
            exact = Fraction(share).limit_denominator(1_000_000)
            of_these, left = exact / left, left - exact
            before, after = int(place * of_these), int((place + 1) * of_these)
            if after > before:
                return group, before
            place -= before
        return 0, place

    def _case(self, group: int, position: int, seed: int) -> int:
        count = self.counts[group]
        stream = [seed, ORDER, position // count, *([group] if group else [])]
        order = np.random.default_rng(stream).permutation(count)
        return sum(self.counts[:group]) + int(order[position % count])
