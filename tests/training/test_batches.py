"""Where batches are made, and where they lie then."""

import pytest
import torch

from autoseg.step.batch import Batch
from autoseg.training.batches import BatchMaker
from autoseg.training.case_cache import CaseCache
from autoseg.training.sampling import Patches, PatchLoader
from autoseg.training.validation import validation_patches
from tests.builders import make_configuration, make_plan, make_recipe, still
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
