"""Training patches: their positions and deformations, and the boxes of source voxels that they need.

The patches of batch number ``n`` depend on the seed, the training cases and ``n`` alone, not on interruptions, on who
reads them or on where the voxels lie.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase

from autoseg.data.boxes import Box
from autoseg.plans.recipe import Augmentation, Sampling
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.preprocessing.store import StoredCase
from autoseg.training.case_cache import CaseCache, Voxels
from autoseg.training.deformation import Deformation, draw_deformations, reach_limit
from autoseg.training.positions import Positions
from autoseg.training.turns import Turns

#: Second number of the seed of each random stream: patches, augmentation; of the order of cases see
#: :mod:`autoseg.training.turns`.
PATCHES, AUGMENTATION = 1, 3


@dataclass(frozen=True)
class Patches:
    """Description of the patches of a batch.

    Attributes:
        count: patches a batch.
        centred: voxels ``(z, y, x)`` of the part that is placed inside the image: the network's output; two numbers
            for slices across the first axis.
        size: voxels of the network's input around it.
        target: classes that foreground patches are centred on.
        sampling: share of such patches, and positions of the others.
        augmentation: ranges of the deformations.
    """

    count: int
    centred: Sequence[int]
    size: Sequence[int]
    target: Target
    sampling: Sampling
    augmentation: Augmentation

    @classmethod
    def of(cls, stage: Stage) -> "Patches":
        """Those that a stage is trained on."""
        configuration, network = stage.configuration, stage.network
        return cls(
            configuration.batch_size,
            network.output_size(configuration.patch_size),
            network.input_size(configuration.patch_size),
            stage.target,
            stage.recipe.sampling,
            stage.recipe.augmentation,
        )


@dataclass(frozen=True)
class LoadedPatch:
    """The source voxels of one patch.

    Attributes:
        voxels: ``(…, z, y, x)`` each: as much as the deformation needs of what the image has.
        first: the first of them along each axis of the patch, counted from the patch's first voxel.
        deformation: that makes the patch of them.
    """

    voxels: Voxels
    first: tuple[int, ...]
    deformation: Deformation


@dataclass(frozen=True)
class LoadedBatch:
    """The source voxels of a batch, before it is resampled and augmented.

    Attributes:
        patches: of the batch.
        present: bool ``(batch, channel)``: which of the image's own channels each case has.
        drawn: bool ``(batch, annotator)``: which annotations each case has; None where each has all there are.
        rng: random generator of the augmentation, after the deformations are drawn from it.
        noise: seed of the noise that is drawn on the device.
    """

    patches: Sequence[LoadedPatch]
    present: np.ndarray
    drawn: np.ndarray | None
    rng: np.random.Generator
    noise: int

    @property
    def nbytes(self) -> int:
        """Bytes that have to be moved to the device."""
        return sum(patch.voxels.nbytes for patch in self.patches)


class PatchLoader(SlimDataLoaderBase):
    """Loads the source voxels of one batch after the other; a batchgenerators data loader.

    A patch centred on a voxel near the image's border is moved into the image, as far as its size allows.

    Args:
        cases: preprocessed training cases.
        patches: which patches to load.
        cache: reads their voxels.
        seed: of all random choices.
        start: number of the first batch.
        turns: which case comes when; all in turn where None.
    """

    def __init__(
        self,
        cases: Sequence[StoredCase],
        patches: Patches,
        cache: CaseCache,
        seed: int,
        start: int = 0,
        turns: Turns | None = None,
    ) -> None:
        super().__init__(list(cases), patches.count)
        self.patches = patches
        self.patch = list(patches.centred)
        self.target = patches.target
        self.sampling = patches.sampling
        self.cache = cache
        self.seed = seed
        self.next_batch = start
        self._turns = turns or Turns([len(cases)])
        self._limit = reach_limit(patches.size, patches.augmentation)
        self._positions = Positions()

    def generate_train_batch(self) -> LoadedBatch:
        """The next batch, as :meth:`batch` makes it."""
        batch = self.batch(self.next_batch)
        self.next_batch += 1
        return batch

    def batch(self, number: int, readers: Executor | None = None) -> LoadedBatch:
        """Batch ``number`` of the training.

        Args:
            number: from 0.
            readers: threads that read its patches at once; one after the other where None.
        """
        rng = np.random.default_rng([self.seed, PATCHES, number])
        order = self._shuffled(number)
        guaranteed = guaranteed_foreground(self.batch_size, self.sampling.foreground_share, rng)
        corners = [
            self._corner(self._data[index], wants_foreground, rng)
            for index, wants_foreground in zip(order, guaranteed, strict=True)
        ]
        augmentation = np.random.default_rng([self.seed, AUGMENTATION, number])
        noise = int(augmentation.integers(2**62))
        deformations = draw_deformations(self.batch_size, self.patches.size, self.patches.augmentation, augmentation)
        # Of cases that are held in memory, threads would take longer than reading does.
        apply = map if readers is None or all(map(self.cache.holds, order)) else readers.map
        cases: list[StoredCase] = [self._data[index] for index in order]
        drawn = np.array([case.drawn for case in cases], bool)
        return LoadedBatch(
            list(apply(self._load, order, corners, deformations)),
            np.array([case.present for case in cases], bool),
            None if drawn.all() else drawn,
            augmentation,
            noise,
        )

    def _load(self, index: int, corner: Sequence[int], deformation: Deformation) -> LoadedPatch:
        box, first = self._box(self._data[index].shape, corner, deformation)
        return LoadedPatch(self.cache.read(index, box), first, deformation)

    def _box(
        self, shape: Sequence[int], corner: Sequence[int], deformation: Deformation
    ) -> tuple[Box, tuple[int, ...]]:
        """The source voxels of a patch that the image has, and the first of them, counted from the patch's first."""
        leading = 3 - len(self.patches.size)  # of a slice: the axis that it lies across
        reach = [(0, 1)] * leading + deformation.reach()
        size = [1] * leading + list(self.patches.size)
        limit = [1] * leading + self._limit
        box, first = [], []
        for place, n, (low, high), p, most in zip(corner, shape, reach, size, limit, strict=True):
            margin = (most - p) // 2
            start = max(place + max(low, -margin), 0)
            stop = min(place + min(high, most - margin), n)
            box.append(slice(start, max(start, stop)))
            first.append(start - place)
        return (box[0], box[1], box[2]), tuple(first[leading:])

    def _shuffled(self, number: int) -> list[int]:
        """Index of the case of each patch of batch ``number``."""
        places = min(self.batch_size, self.sampling.cases_per_batch or self.batch_size)
        chosen = self._turns.cases(number, places, self.seed)
        # In turn, so that the patches centred on foreground, which come last, are of all these cases.
        return [chosen[patch % places] for patch in range(self.batch_size)]

    def _corner(self, case: StoredCase, wants_foreground: bool, rng: np.random.Generator) -> list[int]:
        """First voxel of the patch; negative where it reaches beyond the image."""
        leading = 3 - len(self.patch)
        size = [1] * leading + self.patch
        sides = zip(self._limit, self.patches.size, self.patch, strict=True)
        around = [0] * leading + [(most - p) // 2 - (most - n) // 2 for most, n, p in sides]
        centre = self._foreground_voxel(case, rng) if wants_foreground else None
        if centre is None:
            centre = self._background_voxel(case, rng)
        corner = []
        for axis, (n, p) in enumerate(zip(case.shape, size, strict=True)):
            # Inside the image where it fits; centred on an axis where the patch is larger.
            low, high = (0, n - p) if n >= p else ((n - p) // 2, (n - p) // 2)
            first = int(rng.integers(low, high + 1)) if centre is None else int(centre[axis]) - p // 2
            corner.append(min(max(first, low), high) - around[axis])
        return corner

    def _foreground_voxel(self, case: StoredCase, rng: np.random.Generator) -> np.ndarray | None:
        """A random voxel of a random output that the case has, or of all of them together."""
        voxels_of = self._positions.foreground(case)
        present = [o for o in self.target.outputs if any(value in voxels_of for value in o.values)]
        if not present:
            return None
        if self.sampling.foreground == "voxel":
            values = sorted({value for output in present for value in output.values if value in voxels_of})
            # Of large labels not all positions are stored, but all their voxels count.
            sizes = np.array([case.label_voxels[value] for value in values], float)
            return _one_of(voxels_of[int(rng.choice(values, p=sizes / sizes.sum()))], rng)
        output = present[int(rng.integers(len(present)))]
        voxels = [voxels_of[value] for value in output.values if value in voxels_of]
        pick = int(rng.integers(sum(len(v) for v in voxels)))
        for positions in voxels:
            if pick < len(positions):
                return np.asarray(positions[pick])
            pick -= len(positions)
        return None

    def _background_voxel(self, case: StoredCase, rng: np.random.Generator) -> np.ndarray | None:
        """A random centre for a patch that needs no foreground; None for anywhere."""
        if self.sampling.background == "anywhere":
            return None
        # An image may have no healthy voxel, or only zeros.
        for place in ("healthy", "inside") if self.sampling.background == "healthy" else ("inside",):
            if len(positions := self._positions.places(case)[place]):
                return _one_of(positions, rng)
        return None


def _one_of(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(positions[int(rng.integers(len(positions)))])


def guaranteed_foreground(batch_size: int, share: float, rng: np.random.Generator) -> list[bool]:
    """Which patches of a batch must be centred on foreground: the last ones, of several at least one if ``share`` > 0.

    A share that is no whole number of patches is met on average, and so is that of batches of one: else a network would
    never see anything but foreground.
    """
    if share <= 0:
        return [False] * batch_size
    exact = batch_size * share
    count = int(exact) + int(rng.random() < exact - int(exact))
    count = min(max(count, int(batch_size > 1)), batch_size)
    return [False] * (batch_size - count) + [True] * count
