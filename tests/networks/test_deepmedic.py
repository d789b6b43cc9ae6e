"""DeepMedic: the paper's number of parameters, sizes, and that both pathways look at the same place."""

import pytest
import torch
from torch import nn

from autoseg.networks import build, count_parameters
from autoseg.planning.verification import check_memory
from autoseg.plans.families import DeepMedic
from tests.builders import step_setup

#: Convolutions as deep as the paper's, but few kernels.
NARROW = DeepMedic(features=[3] * 8, fully_connected=[4, 4])


def network(topology: DeepMedic = NARROW, channels: int = 1, heads: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return build(topology, channels, heads).eval()


def test_as_many_parameters_as_the_paper() -> None:
    """Rahimpour et al.: 663,491 with four sequences and one output, statistics of batch norm counted.

    By hand: convolutions 27·(4·30 + 30·30 + 30·40 + 3·40·40 + 40·50 + 50·50) = 311,040 a pathway; 1×1×1 layers
    100·150 + 150·150 + 150·1 = 37,650, one bias; batch norm 4·(2·320 + 300) = 3,760, half of it statistics.
    """
    trainable, with_statistics = count_parameters(build(DeepMedic(), 4, 1))
    assert with_statistics == 2 * 311_040 + 37_650 + 1 + 3_760 == 663_491
    assert trainable == 663_491 - 1_880


def test_sizes_of_the_paper() -> None:
    """A patch of 25³ leaves 9³; the coarse pathway is given 19³ voxels of three times the size."""
    assert DeepMedic().input_size([25, 25, 25]) == [57, 57, 57] == [3 * 19] * 3
    assert DeepMedic().output_size([25, 25, 25]) == [9, 9, 9]


@pytest.mark.parametrize("factor", [3, 5])
@pytest.mark.parametrize("out", [(1, 1, 1), (3, 1, 2)])
def test_output_is_as_large_as_announced(factor: int, out: tuple[int, ...]) -> None:
    topology = DeepMedic(features=[2, 3, 3], fully_connected=[4], factor=factor)
    patch = [factor * n + 6 for n in out]
    assert topology.fits(patch) is None
    given = torch.rand(2, 2, *topology.input_size(patch))
    assert build(topology, 2, 3)(given).shape == (2, 3, *topology.output_size(patch))


@pytest.mark.parametrize("patch", [[24, 25, 25], [17, 25, 25], [25, 25, 16]])
def test_sizes_that_leave_no_whole_coarse_voxel_are_refused(patch: list[int]) -> None:
    assert "16 plus a multiple of 3" in (DeepMedic().fits(patch) or "")


def reach(parameters: str) -> list[tuple[int, int]]:
    """First and last voxel along each axis that the middle voxel of the result depends on; one pathway alone."""
    module = network()
    with torch.no_grad():
        # With positive weights nothing cancels and no rectifier is shut, so that every dependence is seen.
        for name, parameter in module.named_parameters():
            parameter.abs_()
            if name.startswith("fine" if parameters == "coarse" else "coarse") and "weight" in name:
                parameter.zero_()
    image = torch.rand(1, 1, 57, 57, 57, requires_grad=True)
    module(image)[0, 0, 4, 4, 4].backward()
    assert image.grad is not None
    found = image.grad[0, 0].nonzero()
    return list(zip(found.amin(0).tolist(), found.amax(0).tolist(), strict=True))


def test_both_pathways_look_around_the_same_voxel() -> None:
    """Voxel 28 is the middle of the 57 that are given: ±8 is a field of 17, ±25 one of 51 = 3·17."""
    assert reach("fine") == [(28 - 8, 28 + 8)] * 3
    assert reach("coarse") == [(28 - 25, 28 + 25)] * 3


def test_the_middle_of_the_result_answers_most_to_the_middle_of_the_input() -> None:
    """The nearer a voxel, the more ways lead there, as long as no two cancel each other."""
    module = network()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_()
        image = torch.rand(1, 1, 57, 57, 57)
        changed = image.clone()
        changed[..., 28, 28, 28] += 1
        difference = (module(changed) - module(image))[0, 0]
    assert difference.argmax() == (4 * 9 + 4) * 9 + 4


def test_a_larger_patch_says_the_same_about_the_same_voxels() -> None:
    module = network()
    image = torch.rand(1, 1, 75, 75, 75)
    with torch.no_grad():
        whole = module(image)
        assert whole.shape[2:] == (27, 27, 27)
        for start in (0, 9, 18):
            part = module(image[..., start : start + 57, 9:66, 18:75])
            torch.testing.assert_close(part, whole[..., start : start + 9, 9:18, 18:27], atol=1e-5, rtol=1e-4)


def test_dropout_rates() -> None:
    rates = [module.p for module in build(DeepMedic(), 1, 1).modules() if isinstance(module, nn.Dropout)]
    assert sorted(rates) == [0.02] * 16 + [0.5] * 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_bytes_are_measured_ones(precision: str) -> None:
    topology = DeepMedic(features=[4, 4, 6], fully_connected=[8, 8])
    found = check_memory(step_setup(topology, (2, 3, (15, 12, 18), 2)), precision, torch.device("cpu"))
    assert found.computed == found.measured
