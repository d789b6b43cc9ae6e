"""Where batches are made, and where they lie then."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from autoseg.preprocessing.fields import PREVIOUS, TEACHER
from autoseg.step.batch import Batch
from autoseg.training.batches import BatchMaker
from autoseg.training.case_cache import CaseArrays, CaseCache, Voxels
from autoseg.training.deformation import Deformation, resample_patch
from autoseg.training.sampling import LoadedPatch, Patches, PatchLoader
from autoseg.training.validation import validation_patches
from tests.builders import make_configuration, make_plan, make_recipe, still
from tests.devices import DEVICES, Calls
from tests.training.loading import CPU, EVERYTHING

MPS = torch.device("mps")


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Devices that batches are moved to; they stay where they are."""
    devices: list[torch.device] = []

    def to(batch: Batch, device: torch.device) -> Batch:
        devices.append(device)
        return batch

    monkeypatch.setattr(Batch, "to", to)
    return devices


def test_for_a_macs_gpu_they_are_made_on_the_cpu_and_moved(cases: list, moved: list[torch.device]) -> None:
    """The same ones as on a CPU, rotated volumes and noise among them."""
    augmentation = still(rotation_probability=1.0, elastic_probability=1.0, noise_probability=1.0)
    stage = make_plan(make_configuration((4, 4, 4), recipe=make_recipe(augmentation=augmentation))).stage()
    made = []
    for device in (MPS, CPU):
        maker = BatchMaker(stage, device)
        loader = PatchLoader(cases, Patches.of(stage), CaseCache(cases, stage, maker.made_on, EVERYTHING), 0)
        made.append(maker.make(loader.batch(0), loader.cache.layout).tensors)
    assert all(torch.equal(mac, cpu) for mac, cpu in zip(*made, strict=True))
    assert moved == [MPS, CPU]


def test_validation_patches_for_a_macs_gpu(cases: list, moved: list[torch.device]) -> None:
    stage = make_plan(make_configuration(recipe=make_recipe(validation_batches=2))).stage()
    assert len(list(validation_patches(cases, stage, MPS))) == 2
    assert moved == [MPS] * 2


def test_all_of_a_batch_is_moved() -> None:
    batch = Batch(torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.int16), fields={"teacher": torch.ones(1)})
    there = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in (there.image, there.label, there.fields["teacher"])} == {"meta"}
    same = batch.to(CPU)
    assert same.image is batch.image


#: An image, a teacher's scores, a label map and what a stage before found.
LAYOUT = CaseArrays((None, TEACHER), (None, PREVIOUS), ([0, 1, 2], [0, 1, 2]))


def drawn_patch(size: Sequence[int], number: int, deformed: bool = False) -> LoadedPatch:
    """A patch that sees a part of an image, or nothing of it; of 2D ones a slice. Its numbers are stored in any way."""
    rng = np.random.default_rng([number, len(size)])
    leading = [1] * (3 - len(size))
    box = [int(rng.integers(n // 2, n + 1)) for n in size]
    first = [int(rng.integers(0, n - b + 1)) for n, b in zip(size, box, strict=True)]
    if number % 7 == 3:
        box[-1], first[-1] = 0, size[-1] + 2
    shape = (*leading, *box)
    scaled = number % 2 == 0
    image = rng.integers(-(2**15), 2**15, (2, *shape)).astype(np.int16) if scaled else rng.normal(size=(2, *shape))
    numbers = [image if scaled else image.astype(np.float16), rng.normal(size=(3, *shape)).astype(np.float16)]
    maps = [rng.integers(0, 3, (1, *shape)).astype(np.uint8) for _ in range(2)]
    scales = [[(0.037, 31234.0), (1.9, -12.0)] if scaled else [], []]
    matrix = np.linalg.qr(rng.normal(size=(len(size), len(size))))[0] if deformed else None
    return LoadedPatch(Voxels(numbers, maps, scales), tuple(first), Deformation(tuple(size), matrix))


def made_alone(patch: LoadedPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers and maps of one patch as all were made one by one."""
    arrays, labels = patch.voxels.on(CPU)
    numbers = []
    for array, scales, field in zip(arrays, patch.voxels.scales, LAYOUT.numbers, strict=True):
        values = array.float()
        if scales:
            pairs = zip(values, scales, strict=True)
            values = torch.stack([(channel + shift) * slope for channel, (slope, shift) in pairs])
        numbers += [values] if field is None else [values, torch.ones_like(values[:1])]
    together, maps, size = torch.cat(numbers), torch.cat(labels), patch.deformation.patch
    if len(size) == 2:
        together, maps = together[:, 0], maps[:, 0]
    if patch.deformation.matrix is not None or not together.numel():
        return resample_patch(together, maps, patch.first, patch.deformation)
    sides = zip(patch.first, together.shape[1:], size, strict=True)
    around = [side for first, n, p in reversed(list(sides)) for side in (first, p - first - n)]
    return F.pad(together, around), F.pad(maps, around)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(6, 8, 10), (10, 12)])
def test_patches_made_together_are_those_made_alone(size: tuple[int, ...], device: str) -> None:
    """To the last bit, whether none, some or all of a batch are deformed, in the batch's order."""
    maker = BatchMaker(make_plan(make_configuration(size)).stage(), torch.device(device))
    for deformed in ([], [0, 5, 6], list(range(9))):
        patches = [drawn_patch(size, number, number in deformed) for number in range(9)]
        numbers, maps = maker.resampled(patches, LAYOUT)
        wanted = [torch.stack(parts) for parts in zip(*map(made_alone, patches), strict=True)]
        assert numbers.shape == (9, 6, *size)
        assert maps.shape == (9, 2, *size)
        # On another device, rounding decides half-way between two voxels.
        compared = [number for number in range(9) if device == "cpu" or number not in deformed]
        for number in compared:
            assert torch.equal(numbers[number].cpu(), wanted[0][number])
            assert torch.equal(maps[number].cpu(), wanted[1][number])


def test_small_patches_cost_no_call_each() -> None:
    """Those that are not deformed: a batch of 2D has hundreds."""
    maker = BatchMaker(make_plan(make_configuration((10, 12))).stage(), CPU)
    counts = []
    for many in (4, 40):
        patches = [drawn_patch((10, 12), number) for number in range(many)]
        with Calls() as calls:
            maker.resampled(patches, LAYOUT)
        counts.append(len(calls.found))
    assert counts[0] == counts[1] < 30
