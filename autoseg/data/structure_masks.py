"""Label maps: read from one file, or united from a binary mask a structure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from math import comb
from pathlib import Path

import numpy as np

from autoseg.data.counts import value_counts
from autoseg.data.description import LabelSource, StructureMasks
from autoseg.data.image import Image, read_image
from autoseg.data.label_maps import NotALabelMap, label_values
from autoseg.utils.errors import AutosegError
from autoseg.utils.parallel import available_cpus
from autoseg.utils.progress import Steps, say
from autoseg.utils.text import listed

#: The largest label value: that of a signed integer of 32 bits.
_LARGEST = 2**31 - 1

#: A structure is inside another if less than this part of it is outside: masks drawn one by one differ by some voxels
#: along a common border.
_STRAY = 0.01


def read_label_map(source: str | LabelSource) -> Image:
    """Read a label as an image of one channel (or of as many as its file has).

    A mask a structure becomes one label map: background is 0, a voxel of the structure number i alone is i + 1, and
    every combination of structures has a value of its own (:func:`combination_value`).

    Raises:
        AutosegError: a file is unreadable, is no binary mask, or masks of a case are not on one grid.
    """
    if not isinstance(source, StructureMasks):
        return read_image(source)
    return _united(source)


def combination_value(members: Sequence[int], structures: int) -> int:
    """The label value of voxels that lie in these structures and in no other.

    Combinations are numbered by size, then in the order of the combinatorial number system, so that a value does
    not depend on which combinations a dataset has: of 3 structures, 1, 2 and 3 are each alone, 4 is both of the first
    two, 7 all.

    Args:
        members: numbers of the structures, from 0 on; not empty.
        structures: how many there are.

    Raises:
        AutosegError: the value takes more than 31 bits.
    """
    ordered = sorted(members)
    smaller = sum(comb(structures, size) for size in range(1, len(ordered)))
    value = 1 + smaller + sum(comb(member, place) for place, member in enumerate(ordered, start=1))
    if value > _LARGEST:
        raise AutosegError(
            f"{len(ordered)} of {structures} structures overlap in one voxel, more than a label map can hold; "
            "leave some of them out."
        )
    return value


def labels_of_masks(cases: Iterable[StructureMasks]) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Labels and regions of a dataset whose labels are a mask a structure; every mask is read.

    Where no two structures share a voxel, they are the labels. Where some do, every combination that occurs is a label,
    and each structure a region of those that it is part of. A structure of which less than :data:`_STRAY` lies outside
    another is taken to lie inside it: the other's region is made to hold it whole, which is said.

    Raises:
        AutosegError: a file is unreadable, is no binary mask, or masks of a case are not on one grid.
    """
    cases = list(cases)
    structures = cases[0].structures if cases else ()
    found: Counter[tuple[int, ...]] = Counter()
    with ThreadPoolExecutor(available_cpus()) as pool, Steps("Looking for overlaps of structures", len(cases)) as steps:
        for combinations in pool.map(_combinations, cases):
            found.update(combinations)
            steps.advance()
    if all(len(members) == 1 for members in found):
        return {name: number for number, name in enumerate(structures, start=1)}, {}
    labels = {}
    regions: dict[str, tuple[int, ...]] = {}
    for members in sorted(found, key=lambda members: combination_value(members, len(structures))):
        value = combination_value(members, len(structures))
        names = [structures[member] for member in members]
        labels[" and ".join(names) if len(names) > 1 else f"{names[0]} only"] = value
        for name in names:
            regions[name] = (*regions.get(name, ()), value)
    for inner, outer in _nearly_nested(found, structures):
        regions[outer] = tuple(sorted({*regions[outer], *regions[inner]}))
    return labels, {name: regions[name] for name in structures if name in regions}


def _nearly_nested(found: Counter[tuple[int, ...]], structures: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of structures of which the first lies in the second but for a few voxels."""
    sizes: Counter[int] = Counter()
    shared: Counter[tuple[int, int]] = Counter()
    for members, voxels in found.items():
        sizes.update(dict.fromkeys(members, voxels))
        shared.update(dict.fromkeys(permutations(members, 2), voxels))
    for (inner, outer), voxels in sorted(shared.items()):
        stray = sizes[inner] - voxels
        if 0 < stray < _STRAY * sizes[inner] and sizes[outer] > sizes[inner]:
            say(
                f"{stray} of {sizes[inner]} voxels of {structures[inner]} lie outside {structures[outer]}; "
                f"they count as {structures[outer]}, too."
            )
            yield structures[inner], structures[outer]


def missing_masks(labels: Iterable[LabelSource | None]) -> Counter[str]:
    """Structure → number of cases without a mask of it, of those structures that any case lacks."""
    masked = [label for label in labels if isinstance(label, StructureMasks)]
    return Counter(name for label in masked for name in label.structures if name not in label.masks)


def _united(source: StructureMasks) -> Image:
    image, packed = _packed(source)
    if image is None:
        raise AutosegError("a case without any mask has no label.")
    shape = image.array.shape[1:]
    label = np.zeros(int(np.prod(shape)), np.int32)
    count = np.zeros(label.size, np.uint16)
    for number, bits in packed.items():
        mask = np.unpackbits(bits, count=label.size).astype(bool)
        label[mask] = number + 1
        count += mask
    places = np.flatnonzero(count > 1)
    if places.size:
        members, which = _members_at(packed, places, label.size)
        values = [combination_value(numbers, len(source.structures)) for numbers in members]
        label[places] = np.array(values, np.int32)[which]
    return replace(image, array=label.reshape(1, *shape))


def _combinations(source: StructureMasks) -> dict[tuple[int, ...], int]:
    """The combinations of structures that occur in a case, with their voxels; none where a mask can't be used."""
    try:
        image, packed = _packed(source)
    except AutosegError:  # the check of the dataset reports it, with all else
        return {}
    if image is None:
        return {}
    size = image.array[0].size
    count = np.zeros(size, np.uint16)
    for bits in packed.values():
        count += np.unpackbits(bits, count=size)
    once = count == 1
    found: dict[tuple[int, ...], int] = {}
    for number, bits in packed.items():
        if alone := int(np.count_nonzero(np.unpackbits(bits, count=size).astype(bool) & once)):
            found[number,] = alone
    places = np.flatnonzero(count > 1)
    if places.size:
        members, which = _members_at(packed, places, size)
        found |= dict(zip(members, map(int, np.bincount(which)), strict=True))
    return found


def _packed(source: StructureMasks) -> tuple[Image | None, dict[int, np.ndarray]]:
    """Structure number → its mask's bits (a hundred masks take the memory of twelve), and one of the images."""
    first: Image | None = None
    first_path: Path | None = None
    packed = {}
    for name, path in source.masks.items():
        image = read_image(path)
        if first is None:
            first, first_path = image, path
        elif (difference := image.geometry.differs_from(first.geometry)) is not None:
            raise AutosegError(f"{path} does not lie on the grid of {first_path} ({difference}); resample it first.")
        packed[source.structures.index(name)] = np.packbits(_mask(image, path).reshape(-1))
    return first, packed


def _mask(image: Image, path: Path) -> np.ndarray:
    try:
        values = label_values(image)
    except NotALabelMap as error:
        raise AutosegError(f"{path} is no mask: {error}.") from None
    # Counting all values takes longer than reading the file.
    mask: np.ndarray = values != 0
    most = values.max(initial=0)
    if np.count_nonzero(mask) != (np.count_nonzero(values == most) if most else 0):
        found = listed(value_counts(values), 5)
        raise AutosegError(f"{path} holds the values {found}; a mask of one structure holds 0 and one other value.")
    return mask


def _members_at(
    packed: dict[int, np.ndarray], places: np.ndarray, size: int
) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """The combinations of structures in some voxels, and which of them each voxel has."""
    numbers = np.array(list(packed))
    inside = np.stack([np.unpackbits(bits, count=size)[places] for bits in packed.values()])
    rows, which = np.unique(np.packbits(inside, axis=0), axis=1, return_inverse=True)
    patterns = np.unpackbits(rows, axis=0, count=len(numbers)).astype(bool)
    return [tuple(int(n) for n in sorted(numbers[column])) for column in patterns.T], which.reshape(-1)
