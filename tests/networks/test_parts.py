"""Which tensors depend on channels and heads, and what comes first: against networks really built and run."""

import pytest
import torch

from autoseg.networks import build
from autoseg.networks.parts import GrowingAxis, depths, encoder_names, head_axes, input_axes, own_tensors
from autoseg.plans.architecture import Network
from autoseg.plans.families import DeepMedic, FullImageUNet, Inflated, MultiView, UNet, VNet
from tests.builders import make_network

SMALL: dict[str, tuple[Network, list[int]]] = {
    "unet": (make_network(stages=3), [8, 8, 8]),
    "flat": (make_network(dimensions=2), [8, 8]),
    "resenc": (make_network(family="resenc"), [8, 8, 8]),
    "deepmedic": (DeepMedic(features=[4, 4], fully_connected=[6]), [7, 7, 7]),
    "fullimage_unet": (FullImageUNet(features=[(4, 6), (6, 8)], fully_connected=[5]), [8, 8, 8]),
    "vnet": (VNet(features=[8, 16], convolutions=[1, 2]), [8, 8, 8]),
    "multiview": (MultiView(features=[8, 8]), [8, 8, 8]),
    "inflated": (Inflated(encoder="resnet18"), [1, 64, 64]),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_family_has_inputs_heads_and_an_order(name: str) -> None:
    architecture, patch = SMALL[name]
    network = build(architecture, 3, 4)
    own = own_tensors(network)
    inputs, heads = input_axes(architecture, 3, 4), head_axes(architecture, 3, 4)
    assert inputs
    assert heads
    for axes, size in ((inputs, 3), (heads, 4)):
        for tensor, found in axes.items():
            assert all(own[tensor].shape[axis.number] == axis.blocks * size for axis in found)
    # Every other tensor is the same whatever the channels and heads.
    other = own_tensors(build(architecture, 2, 6))
    assert {n for n in own if own[n].shape != other[n].shape} == {*inputs, *heads}
    places = depths(architecture, 3, 4, patch)
    assert places.keys() == dict(network.named_parameters()).keys()
    assert all(0 <= place <= 1 for place in places.values())
    assert all(places[tensor] < 0.2 for tensor in inputs)
    assert all(places[tensor] == 1 for tensor in heads)


def test_a_unets_layers_come_in_the_order_of_their_use() -> None:
    places = depths(make_network(stages=3), 1, 2, [8, 8, 8])
    order = [
        "encoder.stages.0.0.convs.0.conv.weight",
        "encoder.stages.2.0.convs.0.conv.weight",
        "decoder.transpconvs.0.weight",
        "decoder.stages.0.convs.0.conv.weight",
        "decoder.transpconvs.1.weight",
        "decoder.stages.1.convs.0.conv.weight",
        "decoder.seg_layers.1.weight",
    ]
    assert sorted(order, key=places.__getitem__) == order
    assert places[order[0]] == 0


def test_encoders() -> None:
    names = list(dict(build(make_network(), 1, 2).named_parameters()))
    encoder = encoder_names(make_network(), names)
    assert encoder == {name for name in names if not name.startswith("decoder.")}
    assert encoder_names(MultiView(), ["views.0.join.weight"]) == set()


def test_multiview_heads_stand_side_by_side() -> None:
    """Its last convolution joins three opinions of each head."""
    axes = head_axes(MultiView(features=[8, 8]), 1, 4)
    assert axes["views.0.join.weight"] == [GrowingAxis(0, 1), GrowingAxis(1, 3)]


def test_shared_tensors_come_once() -> None:
    """The U-Net of dynamic-network-architectures lists its encoder again below the decoder."""
    network = build(UNet.model_validate(make_network().model_dump()), 1, 2)
    own = own_tensors(network)
    assert len(own) < len(network.state_dict())
    assert len({tensor.data_ptr() for tensor in own.values() if tensor.numel()}) == len(own)
    assert sum(t.numel() for t in own.values()) == sum(p.numel() for p in network.parameters())
    assert torch.equal(own["encoder.stages.0.0.convs.0.conv.weight"], network.state_dict()[next(iter(own))])
