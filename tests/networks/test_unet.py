"""Networks: shapes, names, switches and numbers of parameters."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from autoseg.networks import build, count_parameters, set_deep_supervision
from autoseg.planning.verification import check_memory
from autoseg.plans.families import UNet
from autoseg.utils.errors import AutosegError
from tests.builders import make_network, step_setup


def small(**changes: object) -> UNet:
    values = {
        "features": [4, 8, 16],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "encoder_blocks": [2, 2, 2],
        "decoder_convs": [2, 2],
    }
    return UNet.model_validate({**values, **changes})


@pytest.mark.parametrize("family", ["unet", "resenc"])
def test_logits_come_at_every_decoder_resolution_highest_first(family: str) -> None:
    network = build(small(family=family), in_channels=2, heads=3)
    outputs = network(torch.rand(2, 2, 8, 16, 16))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 8, 16, 16), (2, 3, 8, 8, 8)]


@pytest.mark.parametrize("family", ["unet", "resenc"])
def test_one_tensor_where_deep_supervision_is_off_or_training_over(family: str) -> None:
    torch.manual_seed(0)
    network = build(small(family=family), in_channels=1, heads=2)
    image = torch.rand(1, 1, 8, 16, 16)
    training = network(image)[0]
    set_deep_supervision(network, False)
    assert torch.equal(network(image), training)
    set_deep_supervision(network, True)
    assert torch.equal(network.eval()(image), training)


def test_deep_supervision_can_be_chosen_against_the_plan() -> None:
    network = build(small(), 1, 2, deep_supervision=False)
    assert isinstance(network(torch.rand(1, 1, 8, 16, 16)), torch.Tensor)
    assert set(network.state_dict()) == set(build(small(), 1, 2).state_dict())


def test_residual_blocks_begin_as_the_identity() -> None:
    network = build(small(family="resenc"), 1, 2)
    last = [module.conv2.norm.weight for module in network.modules() if type(module).__name__ == "BasicBlockD"]
    assert last
    assert all(bool((weight == 0).all()) for weight in last)


def test_plain_parameter_count_by_hand() -> None:
    """Two stages, 1 → 2 → 4 channels: convolutions with bias, each with an affine instance norm."""
    network = UNet(
        features=[2, 4], strides=[[1, 1], [2, 2]], kernel_sizes=[[3, 3]] * 2, encoder_blocks=[1, 1], decoder_convs=[1]
    )
    encoder = (9 * 1 * 2 + 2 + 4) + (9 * 2 * 4 + 4 + 8)
    decoder = (4 * 4 * 2 + 2) + (9 * 4 * 2 + 2 + 4) + (2 * 3 + 3)
    assert count_parameters(build(network, 1, 3)) == (encoder + decoder, encoder + decoder)


def test_batch_norm_statistics_are_counted_apart() -> None:
    plain, with_statistics = count_parameters(build(small(norm="batch"), 1, 2))
    channels = 2 * (4 + 8 + 16) + 2 * (4 + 8)
    assert with_statistics - plain == 2 * channels


@pytest.mark.parametrize(
    ("family", "blocks", "convs", "expected"),
    [("unet", [2] * 4, [2] * 3, 5_603_177), ("resenc", [1, 3, 4, 6], [1] * 3, 25_895_593)],
)
def test_as_many_parameters_as_nnunet(family: str, blocks: list[int], convs: list[int], expected: int) -> None:
    """Counted in the networks that nnU-Net 2.8.1 itself builds for the hippocampus (plans of both its planners)."""
    network = UNet.model_validate(
        {
            "family": family,
            "features": [32, 64, 128, 256],
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
            "kernel_sizes": [[3, 3, 3]] * 4,
            "encoder_blocks": blocks,
            "decoder_convs": convs,
        }
    )
    with torch.device("meta"):
        assert count_parameters(build(network, 1, 3))[0] == expected


def test_dropout_and_relu_are_built() -> None:
    kinds = {type(module).__name__ for module in build(small(dropout=0.1, activation="relu"), 1, 2).modules()}
    assert {"Dropout3d", "ReLU"} <= kinds
    assert "LeakyReLU" not in kinds


def test_a_single_stage_is_refused() -> None:
    network = UNet(features=[4], strides=[[1, 1]], kernel_sizes=[[3, 3]], encoder_blocks=[1], decoder_convs=[])
    with pytest.raises(AutosegError, match="one stage"):
        build(network, 1, 2)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_pooling_by_maxima(dimensions: int) -> None:
    """No strided convolution is left in the encoder, and its stages see the maxima of what comes before."""
    topology = make_network(dimensions, pooling="max")
    module = build(topology, 1, 2).eval()
    convolutions = [part for part in module.encoder.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)]
    assert all(set(part.stride) == {1} for part in convolutions)
    image = torch.rand(1, 1, *[8] * dimensions)
    first = module.encoder.stages[0](image)
    pooled = first.unfold(2, 2, 2).unfold(3, 2, 2)
    pooled = pooled.unfold(4, 2, 2).flatten(5).amax(-1) if dimensions == 3 else pooled.flatten(4).amax(-1)
    seen: list[torch.Tensor] = []
    module.encoder.stages[1][1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert module(image).shape == (1, 2, *[8] * dimensions)
    torch.testing.assert_close(seen[0], pooled)
    # As many weights as with strides: only where they are applied differs.
    assert count_parameters(module) == count_parameters(build(make_network(dimensions), 1, 2))


def test_pooling_by_three() -> None:
    topology = make_network(strides=[[1] * 3, [3] * 3], pooling="max")
    assert topology.divisor == [3, 3, 3]
    assert build(topology, 1, 2)(torch.rand(1, 1, 6, 9, 12))[0].shape == (1, 2, 6, 9, 12)


def test_residual_encoders_pool_by_strides() -> None:
    with pytest.raises(ValidationError, match="pooling is max"):
        make_network(family="resenc", pooling="max")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_bytes_of_pooling_are_measured_ones(precision: str) -> None:
    found = check_memory(step_setup(make_network(pooling="max"), (2, 3, (8, 12, 8), 2)), precision, torch.device("cpu"))
    assert found.computed == found.measured
