"""Inflated encoders: held against the 2D networks of timm themselves."""

import copy
import re
import sys

import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn

from autoseg.networks import build, count_parameters
from autoseg.networks.inflated import InflatedNet, encoder_maps
from autoseg.planning.verification import check_memory
from autoseg.plans.families import Inflated
from autoseg.utils.errors import AutosegError
from tests.builders import step_setup

#: AlbuNet3D as its planner has it.
ALBUNET = {"encoder": "resnet34", "first_pool": "2x2", "skips": [4, 8, 16, 32]}


def small(**changes: object) -> Inflated:
    values = {
        "encoder": "resnet18",
        "decoder_features": [16, 16, 8, 8, 8],
        "decoder_widths": [16, 16, 16, 8, 8],
    }
    return Inflated.model_validate({**values, **changes})


@pytest.mark.parametrize(
    ("encoder", "reduction", "stages"),
    [
        ("resnet18", 32, 5),
        ("convnext_atto", 32, 5),  # maps from a quarter of the resolution only
        ("vgg11_bn", 32, 5),  # a map at full resolution
        ("regnety_002", 32, 5),  # can't be initialised on the meta device
        ("tf_efficientnet_b0", 32, 5),  # squeeze and excitation, paddings that depend on the size
    ],
)
def test_any_convolutional_encoder_answers_at_full_resolution(encoder: str, reduction: int, stages: int) -> None:
    network = small(encoder=encoder, reduction=reduction)
    assert len(network.decoder_features) == stages
    with torch.device("meta"):
        logits = build(network, 4, 3)(torch.empty(2, 4, 5, 64, 96))
    assert logits.shape == (2, 3, 5, 64, 96)


@pytest.mark.parametrize("encoder", ["resnet18", "convnext_atto", "mobilenetv3_small_100"])
def test_identical_slices_give_the_2d_networks_maps_in_every_slice_at_every_level(encoder: str) -> None:
    torch.manual_seed(0)
    volume = build(small(encoder=encoder), 3, 2).eval()
    flat = timm.create_model(encoder, features_only=True, pretrained=False).eval()
    flat.load_state_dict(volume.encoder.model.state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted = flat(image)
        found = volume.encoder(image[:, :, None].expand(-1, -1, 5, -1, -1))
    assert list(found) == flat.feature_info.reduction()
    for maps, reference in zip(found.values(), wanted, strict=True):
        assert maps.shape == (*reference.shape[:2], 5, *reference.shape[2:])
        torch.testing.assert_close(maps, reference[:, :, None].expand_as(maps), rtol=1e-4, atol=1e-5)


def test_the_encoder_is_one_of_convolutions_1_k_k() -> None:
    """The same maps as a ResNet whose layers are really three-dimensional, on slices that differ, while training."""
    torch.manual_seed(0)
    sliced = build(small(), 2, 2).encoder
    flat = copy.deepcopy(sliced.model)
    for parent in list(flat.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                deep = nn.Conv3d(
                    child.in_channels, child.out_channels, (1, *child.kernel_size), (1, *child.stride),
                    (0, *child.padding), bias=child.bias is not None,
                )  # fmt: skip
                deep.weight.data = child.weight.data[:, :, None]
                setattr(parent, name, deep)
            elif isinstance(child, nn.BatchNorm2d):
                norm = nn.BatchNorm3d(child.num_features)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)
            elif isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
    image = torch.randn(2, 2, 4, 64, 64)
    for maps, reference in zip(sliced.train()(image).values(), flat.train()(image), strict=True):
        torch.testing.assert_close(maps, reference, rtol=1e-3, atol=1e-4)


def test_first_pooling_of_two_by_two() -> None:
    torch.manual_seed(0)
    volume = build(small(first_pool="2x2"), 1, 2).eval()
    flat = timm.create_model("resnet18", features_only=True, pretrained=False, in_chans=1).eval()
    flat.load_state_dict(volume.encoder.model.state_dict())
    flat["maxpool"] = nn.MaxPool2d(2)
    image = torch.randn(1, 1, 64, 64)
    for maps, reference in zip(volume.encoder(image[:, :, None]).values(), flat(image), strict=True):
        torch.testing.assert_close(maps[:, :, 0], reference, rtol=1e-4, atol=1e-5)
    with pytest.raises(AutosegError, match=r"convnext_atto has no maximum pooling; set it to encoder"):
        build(small(encoder="convnext_atto", first_pool="2x2"), 1, 2)


def test_only_depth_layers_let_slices_see_each_other() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 1, 6, 64, 64)
    changed = image.clone()
    changed[:, :, 5] += 1
    for depth_layers in (False, True):
        network = build(small(depth_layers=depth_layers), 1, 2).eval()
        with torch.no_grad():
            same = torch.isclose(network(image), network(changed), atol=1e-6).all(dim=1).flatten(2).all(dim=2)[0]
        assert not same[5]
        # Four layers of three slices, at the bottom and after the second, fourth and last stage: at most four away.
        assert same.tolist() == [True] * 5 + [False] if not depth_layers else same.tolist()[0] and not same[4]


def test_albunet3d_has_the_parameters_of_its_parts() -> None:
    """ResNet34's 21,284,672 without classifier (torchvision: 21,797,672 − 513,000), and the decoder by hand."""

    def plain(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + 2 * outputs

    def stage(inputs: int, width: int, outputs: int) -> int:
        return plain(inputs, width) + 16 * width * outputs + outputs

    def depth(channels: int) -> int:
        return 3 * channels**2 + 2 * channels

    decoder = plain(512, 128) + stage(128 + 512, 256, 128) + stage(128 + 256, 256, 128) + stage(128 + 128, 128, 32)
    decoder += stage(32 + 64, 64, 64) + stage(64, 64, 16) + plain(16, 16) + 16 * 4 + 4
    depths = depth(512) + depth(128) + depth(64) + depth(16)
    with torch.device("meta"):
        albunet3d = build(Inflated.model_validate(ALBUNET), 3, 4)
        albunet2d = build(Inflated.model_validate({**ALBUNET, "depth_layers": False}), 3, 4)
    assert count_parameters(albunet3d)[0] == 21_284_672 + decoder + depths
    assert count_parameters(albunet2d)[0] == 21_284_672 + decoder


def test_a_copy_works_as_the_moving_average_needs() -> None:
    torch.manual_seed(0)
    network = build(small(), 1, 2).eval()
    image = torch.randn(1, 1, 2, 64, 64)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        before = twin(image)
        network.encoder.model["conv1"].weight.zero_()
        assert torch.equal(twin(image), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv3_small_100"])
def test_memory_is_computed_exactly(precision: str, encoder: str) -> None:
    found = check_memory(step_setup(small(encoder=encoder), (2, 3, [4, 64, 64], 2)), precision, torch.device("cpu"))
    assert found.computed == found.measured


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet18x"}, r"timm .* has no model resnet18x"),
        ({"encoder": "vit_tiny_patch16_224"}, r"vit_tiny_patch16_224 can't be inflated, .*64×96|32×48"),
        ({"encoder": "levit_128"}, r"levit_128 can't be inflated, choose a convolutional encoder such as resnet34"),
        ({"skips": [3]}, r"network.skips names 3, but resnet18 has maps reduced by 2, 4, 8, 16, 32"),
        (
            {"reduction": 16, "decoder_features": [8] * 4, "decoder_widths": [8] * 4},
            r"network.reduction is 16, but resnet18 reduces the plane by 32",
        ),
    ],
)
def test_what_can_not_be_built_is_said_in_a_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(AutosegError, match=message):
        build(small(**changes), 1, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reduction": 24}, "reduction 24 is no power of two"),
        ({"decoder_features": [8, 8]}, "decoder_features has 2 entries; a reduction of 32 needs 5"),
    ],
)
def test_a_decoder_has_a_stage_for_each_factor_of_two(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ([1, 32, 32], "leaves resnet18 a single pixel"),
        ([4, 64, 48], r"patch_size\[2\] = 48 .* multiple of 32"),
        ([3, 32, 64], None),
    ],
)
def test_patches_that_the_encoder_can_take(patch: list[int], message: str | None) -> None:
    found = small().fits(patch)
    assert found is None if message is None else re.search(message, str(found))


def test_without_timm_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder_maps.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(AutosegError, match=r"timm, which is not installed; install it with pip install .*pretrained"):
        build(small(), 1, 2)


def test_the_network_is_built_from_what_the_plan_says() -> None:
    network = build(small(channels="mean"), 2, 2)
    assert isinstance(network, InflatedNet)
    assert network.encoder.channels == "mean"
