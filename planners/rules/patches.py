"""Patch and batch: the largest that fit the memory budget, with the proportions of the median image.

The candidates do not depend on the budget. Of those that fit, all that need nearly as much memory as the largest are
looked at, and the best-proportioned one is taken. So the plan's memory can only grow with the budget: a larger budget
adds candidates that need more memory than any before, and takes away only the smallest of those looked at.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from autoseg.planning.memory import Scaling, TrainingPrecision, scaling
from autoseg.plans.recipe import Recipe
from autoseg.plans.target import Target
from autoseg.step.setup import StepSetup
from autoseg.utils.errors import AutosegError
from planners.rules.topology import Family, Pooling, network, pooling

#: Patches in a batch, at least, where memory decides: nnU-Net's.
MIN_BATCH = 2

#: Patches in a batch, at most, while a patch could still grow: context comes before batch, and more than
#: :data:`MIN_BATCH` are taken only where the budget lies between two patches.
FILLING_BATCH = 8

#: A batch may hold this share of all voxels of the dataset, at most (nnU-Net's; more would overfit).
BATCH_SHARE = 0.05

#: Candidates that need at least this share of the most that fits count as equal, and proportions decide.
_KEEP = 0.92

#: The memory of a topology is guessed from another's to within this factor, by the channels that a voxel goes through.
_MARGIN = 1.4

#: Voxels that an axis of a patch has, at least (or all the image's).
MIN_SIDE = 8

#: Largest ratio between two axes' shares of the image, except where rounding to what can be pooled makes it larger.
DISTORTION = 1.5

#: Relative sizes of patches that are tried, from the smallest to the whole image; 2 % apart is finer than any axis
#: can be rounded.
_SCALES = np.geomspace(0.04, 1.0, 160)


@dataclass(frozen=True)
class Need:
    """What decides the memory of a step apart from patch and batch."""

    family: Family
    in_channels: int
    target: Target
    recipe: Recipe
    precision: TrainingPrecision
    base_features: int
    device: str = "cuda"

    def of(self, pooled: Pooling) -> Scaling:
        """Memory of a topology as a function of voxels."""
        topology = network(self.family, pooled, self.base_features)
        setup = StepSetup(topology, self.in_channels, self.target, topology.divisor, 1, self.recipe)
        return scaling(setup, self.precision, self.device)


@dataclass(frozen=True)
class Patch:
    """A patch that a topology fits exactly.

    Attributes:
        size: voxels.
        pooled: its topology.
        share: share of the median image's voxels that it covers, at most 1.
        distortion: largest ratio between two axes' shares of the image; 1 has the image's proportions.
    """

    size: tuple[int, ...]
    pooled: Pooling
    share: float
    distortion: float

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.size)

    @property
    def covers(self) -> bool:
        """Whether it holds the whole median image."""
        return self.share >= 1


@dataclass(frozen=True)
class Choice:
    """A patch, a batch size and why."""

    patch: Patch
    batch: int
    patch_reason: str
    batch_reason: str


def patches(shape: Sequence[float], spacing: Sequence[float]) -> list[Patch]:
    """Every patch near the line from a point to the whole image, the topology of each fitting it exactly.

    Args:
        shape: median shape of the images, voxels.
        spacing: mm.
    """
    image = [max(1, round(n)) for n in shape]
    found: dict[tuple[int, ...], Patch] = {}
    for scale in _SCALES:
        ideal = [min(n, max(MIN_SIDE, scale * n)) for n in image]
        divisor = pooling([math.ceil(v - 1e-9) for v in ideal], spacing).divisor
        sides = []
        for wanted, d, n in zip(ideal, divisor, image, strict=True):
            most = math.ceil(n / d) * d
            below = math.floor(wanted / d)
            sides.append(sorted({min(most, max(d, (below + more) * d)) for more in (-1, 0, 1, 2)}))
        for size in product(*sides):
            if size in found:
                continue
            pooled = pooling(size, spacing)
            if any(side % d for side, d in zip(size, pooled.divisor, strict=True)):
                continue
            shares = [min(1.0, side / n) for side, n in zip(size, image, strict=True)]
            # Sides of one pooling step are never too far from the image's proportions; larger ones may be.
            if max(shares) / min(shares) > DISTORTION and any(
                abs(side - v) >= d for side, v, d in zip(size, ideal, pooled.divisor, strict=True)
            ):
                continue
            found[size] = Patch(size, pooled, math.prod(shares), max(shares) / min(shares))
    return sorted(found.values(), key=lambda patch: patch.voxels)


def largest_batch(cases: int, shape: Sequence[float], patch: Patch) -> int:
    """Patches that together hold :data:`BATCH_SHARE` of the dataset's voxels, at least :data:`MIN_BATCH`.

    Args:
        cases: number of cases.
        shape: median shape of the images, voxels (all three axes, for slices too).
        patch: whose batch it is.
    """
    return max(MIN_BATCH, round(BATCH_SHARE * cases * math.prod(shape) / patch.voxels))


def choose(
    candidates: Sequence[Patch],
    need: Need,
    budget: float,
    batch_limit: Sequence[int],
    max_voxels: float = math.inf,
    name: str = "",
) -> Choice:
    """The largest patch, then the largest batch, within the budget.

    Args:
        candidates: from :func:`patches`.
        need: of memory.
        budget: bytes.
        batch_limit: largest batch of each candidate.
        max_voxels: that a patch may have, where something other than memory is short.
        name: of the configuration, for messages.

    Raises:
        AutosegError: not even the smallest patch fits.
    """
    allowed = [(p, limit) for p, limit in zip(candidates, batch_limit, strict=True) if p.voxels <= max_voxels]
    allowed = allowed or [(candidates[0], batch_limit[0])]
    # One topology's memory tells roughly which sizes are worth an exact look (which takes half a second a topology).
    reference = allowed[len(allowed) // 2][0].pooled
    rough = need.of(reference)
    sizes = [
        (rough.peak(batch * patch.voxels * _channels(patch.pooled) / _channels(reference)), patch, batch)
        for patch, limit in allowed
        for batch in _batches(patch, limit, max_voxels)
    ]
    options: list[tuple[float, Patch, int]] = []
    for guess, patch, batch in sorted(sizes, key=lambda item: (-item[0], item[1].size)):
        if guess > budget * _MARGIN:
            continue
        if options and guess * _MARGIN < max(needed for needed, _, _ in options):
            break
        needed = need.of(patch.pooled).peak(batch * patch.voxels)
        if needed <= budget:
            options.append((needed, patch, batch))
    if not options:
        patch, limit = allowed[0]
        least = need.of(patch.pooled).peak(min(MIN_BATCH, limit) * patch.voxels)
        raise AutosegError(
            f"configuration {name} needs {least / 1e9:.2f} GB for its smallest patch and the budget is "
            f"{budget / 1e9:.2f} GB; give more with --gpu-memory."
        )
    _, patch, batch = _best(options)
    return Choice(patch, batch, *_reasons(patch, batch, dict(allowed)[patch], budget, max_voxels))


def _channels(pooled: Pooling) -> float:
    """Channels that a voxel goes through over all stages, relative to the first; activations are proportional to it."""
    total, share = 0.0, 1.0
    for stage, stride in enumerate(pooled.strides):
        share /= math.prod(stride)
        total += 2**stage * share
    return total


def _batches(patch: Patch, limit: int, max_voxels: float) -> range:
    if patch.covers or max_voxels < math.inf:
        return range(min(MIN_BATCH, limit), limit + 1)
    return range(MIN_BATCH, min(limit, FILLING_BATCH) + 1)


def _best(options: Sequence[tuple[float, Patch, int]]) -> tuple[float, Patch, int]:
    enough = _KEEP * max(needed for needed, _, _ in options)
    return min(
        (option for option in options if option[0] >= enough),
        key=lambda option: (not option[1].covers and option[2], option[1].distortion, -option[0], option[1].size),
    )


def _reasons(patch: Patch, batch: int, limit: int, budget: float, max_voxels: float) -> tuple[str, str]:
    if patch.covers:
        why = "covers the median image, rounded up to what the network can pool"
    elif max_voxels < math.inf:
        why = f"the image's proportions, at most {max_voxels:.0f} voxels, which is what this machine computes in time"
    else:
        why = (
            f"the image's proportions, the largest that fits {budget / 1e9:.2f} GB at batch {batch} "
            f"({100 * patch.share:.0f} % of the median image)"
        )
    if batch == limit and batch > MIN_BATCH:
        batch_why = f"the most that holds no more than {100 * BATCH_SHARE:.0f} % of the dataset's voxels"
    elif batch == limit:
        batch_why = f"never fewer than {MIN_BATCH}; more would hold over {100 * BATCH_SHARE:.0f} % of the dataset"
    elif patch.covers:
        batch_why = f"the largest that fits {budget / 1e9:.2f} GB"
    elif batch > MIN_BATCH:
        batch_why = "the budget lies between two patches at a smaller batch"
    else:
        batch_why = f"{MIN_BATCH} while a patch can still grow: context before batch"
    return why, batch_why
