"""Training patches: their positions, and the workers that load them.

The patches of batch number ``n`` depend on the seed, the training cases and ``n`` alone, not on the number of workers
or on interruptions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

from autoseg.plans.recipe import Sampling
from autoseg.plans.target import Target
from autoseg.preprocessing.fields import ANNOTATIONS, Field
from autoseg.preprocessing.store import StoredCase

#: Memory for decompressed cases, in bytes, shared by all workers; small datasets are decompressed only once.
CACHE_BYTES = 500_000_000

#: Second number of the seed of each random stream: patches, order of cases, augmentation.
PATCHES, ORDER, AUGMENTATION = 1, 2, 3


@dataclass(frozen=True)
class Patches:
    """Description of the patches of a batch.

    Attributes:
        count: patches a batch.
        size: voxels of the patch ``(z, y, x)``; two numbers for slices across the first axis.
        target: classes that foreground patches are centred on.
        sampling: share of such patches, and positions of the others.
        loaded: voxels to load around each patch, for rotation and scaling; the patch alone where None. The box may
            reach beyond the image, where it is zero; the patch at its centre only where the image is smaller.
    """

    count: int
    size: Sequence[int]
    target: Target
    sampling: Sampling
    loaded: Sequence[int] | None = None


class PatchLoader(SlimDataLoaderBase):
    """Loads the patches of one batch; a batchgenerators data loader.

    A patch centred on a voxel near the image's border is moved into the image, as far as its size allows.

    Args:
        cases: preprocessed training cases.
        patches: which patches to load.
        seed: of all random choices.
        start: number of the first batch.
        workers: number of copies of this loader that share the work.
    """

    def __init__(
        self, cases: Sequence[StoredCase], patches: Patches, seed: int, start: int = 0, workers: int = 1
    ) -> None:
        super().__init__(list(cases), patches.count, workers)
        self.patch = list(patches.size)
        self.loaded = list(patches.size if patches.loaded is None else patches.loaded)
        self.target = patches.target
        self.sampling = patches.sampling
        self.seed = seed
        self.thread_id = 0
        self.workers = workers
        self.next_batch = start
        self.first = True
        self.cache: dict[str, _Arrays] = {}
        self.cached_bytes = 0

    def generate_train_batch(self) -> dict[str, Any]:
        """The next batch of this worker, as :meth:`batch` makes it."""
        if self.first:
            # Worker w of n makes the batches start + w, start + w + n, …; batchgenerators collects them in turn.
            self.next_batch += self.thread_id
            self.first = False
        batch = self.batch(self.next_batch)
        self.next_batch += self.workers
        return batch

    def batch(self, number: int) -> dict[str, Any]:
        """Batch ``number`` of the training.

        Returns:
            ``image`` (batch, channel, *loaded); ``label`` (batch, *loaded), unless annotations replace it;
            ``fields``: field → (batch, channel, *loaded); ``present`` (batch, channel): which of the image's own
            channels each case has; and with annotations ``drawn`` (batch, annotator): which of them there are.
        """
        rng = np.random.default_rng([self.seed, PATCHES, number])
        order = self._shuffled(number)
        guaranteed = guaranteed_foreground(self.batch_size, self.sampling.foreground_share, rng)
        cases, patches = [], []
        for index, wants_foreground in zip(order, guaranteed, strict=True):
            case = self._data[index]
            cases.append(case)
            patches.append(self._cut(case, self._corner(case, wants_foreground, rng)))
        batch: dict[str, Any] = {
            "image": np.stack([patch.image for patch in patches]),
            "present": np.array([case.present for case in cases], bool),
            "fields": {field: np.stack([patch.fields[field] for patch in patches]) for field in patches[0].fields},
        }
        if cases[0].drawn:
            batch["drawn"] = np.array([case.drawn for case in cases], bool)
        else:
            batch["label"] = np.stack([patch.label for patch in patches])
        return batch

    def _shuffled(self, number: int) -> list[int]:
        """Index of the case of each patch of batch ``number``: every case once a round, each round in a new order."""
        count = len(self._data)
        places = min(self.batch_size, self.sampling.cases_per_batch or self.batch_size)
        first = number * places
        chosen = []
        for position in range(first, first + places):
            order = np.random.default_rng([self.seed, ORDER, position // count]).permutation(count)
            chosen.append(int(order[position % count]))
        # In turn, so that the patches centred on foreground, which come last, are of all these cases.
        return [chosen[patch % places] for patch in range(self.batch_size)]

    def _corner(self, case: StoredCase, wants_foreground: bool, rng: np.random.Generator) -> list[int]:
        """First voxel of the box to load; negative where that reaches beyond the image."""
        size = [1] * (3 - len(self.patch)) + self.patch
        margins = [0] * (3 - len(self.patch)) + [(n - p) // 2 for n, p in zip(self.loaded, self.patch, strict=True)]
        centre = self._foreground_voxel(case, rng) if wants_foreground else None
        if centre is None:
            centre = self._background_voxel(case, rng)
        corner = []
        for axis, (n, p) in enumerate(zip(case.shape, size, strict=True)):
            # Inside the image where it fits; centred on an axis where the patch is larger.
            low, high = (0, n - p) if n >= p else ((n - p) // 2, (n - p) // 2)
            first = int(rng.integers(low, high + 1)) if centre is None else int(centre[axis]) - p // 2
            corner.append(min(max(first, low), high) - margins[axis])
        return corner

    def _foreground_voxel(self, case: StoredCase, rng: np.random.Generator) -> np.ndarray | None:
        """A random voxel of a random output that the case has, or of all of them together."""
        voxels_of = case.foreground
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
            if len(positions := case.places[place]):
                return _one_of(positions, rng)
        return None

    def _cut(self, case: StoredCase, corner: list[int]) -> "_Arrays":
        size = [1] * (3 - len(self.loaded)) + self.loaded
        inside = tuple(slice(max(c, 0), min(c + p, n)) for c, p, n in zip(corner, size, case.shape, strict=True))
        margins = [(s.start - c, c + p - s.stop) for s, c, p in zip(inside, corner, size, strict=True)]
        return self._read(case, inside).map(lambda array: self._padded(array, margins))

    def _padded(self, array: np.ndarray, margins: list[tuple[int, int]]) -> np.ndarray:
        """Pad with zeros beyond the image; of a slice, drop the first spatial axis."""
        padded = np.pad(array, [*[(0, 0)] * (array.ndim - 3), *margins])
        return padded[..., 0, :, :] if len(self.patch) == 2 else padded

    def _read(self, case: StoredCase, box: tuple[slice, ...]) -> "_Arrays":
        if case.id not in self.cache:
            voxels = int(np.prod(case.shape))
            if self.cached_bytes + voxels * 6 > CACHE_BYTES // self.workers:
                return _Arrays.of(case, box)
            self.cache[case.id] = whole = _Arrays.of(case)
            self.cached_bytes += whole.nbytes
        return self.cache[case.id].map(lambda array: _part(array, box))


@dataclass(frozen=True)
class _Arrays:
    """Image and fields ``(channel, z, y, x)`` and label ``(z, y, x)`` of a case, or of a part of it."""

    image: np.ndarray
    label: np.ndarray
    fields: dict[Field, np.ndarray]

    @classmethod
    def of(cls, case: StoredCase, box: tuple[slice, ...] = ()) -> "_Arrays":
        fields = {field: case.field(field, box) for field in case.fields}
        image = case.image(box)
        # Annotations replace the label.
        label = np.empty(image.shape[1:], np.int8) if ANNOTATIONS in fields else case.label(box)
        return cls(image, label, fields)

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> "_Arrays":
        fields = {field: change(values) for field, values in self.fields.items()}
        return _Arrays(change(self.image), change(self.label), fields)

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.label.nbytes + sum(values.nbytes for values in self.fields.values())


def _part(array: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """An array ``(…, z, y, x)`` inside a box."""
    index: tuple[Any, ...] = (..., *box)
    return array[index]


def _one_of(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(positions[int(rng.integers(len(positions)))])


def guaranteed_foreground(batch_size: int, share: float, rng: np.random.Generator) -> list[bool]:
    """Which patches of a batch must be centred on foreground: the last ones, at least one where ``share`` > 0.

    A share that is no whole number of patches is met on average.
    """
    if share <= 0:
        return [False] * batch_size
    exact = batch_size * share
    count = int(exact) + int(rng.random() < exact - int(exact))
    count = min(max(count, 1), batch_size)
    return [False] * (batch_size - count) + [True] * count


class BatchStream(Iterator[dict[str, Any]]):
    """Batches in order; :meth:`close` ends the workers."""

    def __init__(self, loader: PatchLoader, workers: int) -> None:
        self._augmenter: Any
        if workers == 0:
            self._augmenter = SingleThreadedAugmenter(loader, None)
        else:
            self._augmenter = MultiThreadedAugmenter(loader, None, workers, num_cached_per_queue=2, pin_memory=False)

    def __next__(self) -> dict[str, Any]:
        batch: dict[str, Any] = next(self._augmenter)
        return batch

    def close(self) -> None:
        """End the worker processes."""
        if isinstance(self._augmenter, MultiThreadedAugmenter):
            self._augmenter._finish()
