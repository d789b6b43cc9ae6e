"""Weights for other channels and heads: hand-worked, and by what the networks then say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.networks import build, set_deep_supervision
from autoseg.networks.parts import own_tensors
from autoseg.transfer.surgery import Correspondence, carry_over
from autoseg.utils.errors import AutosegError
from tests.builders import make_network
from tests.networks.test_parts import SMALL

FIRST = "encoder.stages.0.0.convs.0.conv.weight"
HEAD = "decoder.seg_layers.0"


def same(*names: str) -> Correspondence:
    return Correspondence(names, names, {name: name for name in names})


def weights_of(channels: int, heads: int, seed: int = 1, architecture=None) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    network = build(architecture or make_network(), channels, heads)
    return {name: tensor.detach().clone() for name, tensor in own_tensors(network).items()}


def fresh(channels: int, heads: int, architecture=None):
    torch.manual_seed(0)
    return build(architecture or make_network(), channels, heads)


@pytest.mark.parametrize("name", SMALL)
def test_the_same_channels_and_heads_give_the_same_network(name: str) -> None:
    architecture, _ = SMALL[name]
    before = weights_of(2, 3, architecture=architecture)
    network = fresh(2, 3, architecture)
    rows = carry_over(architecture, network, before, same("a", "b"), same("x", "y", "z"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in own_tensors(network).items() if name in before)
    assert {row.done for row in rows} == {"copied"}


@pytest.mark.parametrize("name", SMALL)
def test_reordered_channels_and_heads(name: str) -> None:
    """The same network with its inputs and outputs in another order says the same in that order."""
    architecture, patch = SMALL[name]
    torch.manual_seed(1)
    source = build(architecture, 3, 3).eval()
    target = fresh(3, 3, architecture).eval()
    channels = Correspondence(["C", "A", "B"], ["a", "b", "c"], {"A": "a", "B": "b", "C": "c"})
    heads = Correspondence(["Z", "X", "Y"], ["x", "y", "z"], {"X": "x", "Y": "y", "Z": "z"})
    carry_over(architecture, target, own_tensors(source), channels, heads)
    for network in (source, target):
        set_deep_supervision(network, False)
    image = torch.randn(1, 3, *architecture.input_size(patch))
    if name == "vnet":
        image[:] = image[:, :1]  # its first residual is the image itself, channel upon channel
    with torch.no_grad():
        said, wanted = target(image[:, [2, 0, 1]]), source(image)[:, [2, 0, 1]]
    torch.testing.assert_close(said, wanted, atol=1e-5, rtol=1e-4)


def test_a_new_channel_gets_the_mean() -> None:
    before = weights_of(2, 2)
    network = fresh(3, 2)
    rows = carry_over(
        make_network(),
        network,
        before,
        Correspondence(["a", "new", "b"], ["b", "a"], {"a": "a", "b": "b"}),
        same("0", "1"),
    )
    found, source = own_tensors(network)[FIRST], before[FIRST]
    assert torch.equal(found[:, 0], source[:, 1])
    assert torch.equal(found[:, 2], source[:, 0])
    torch.testing.assert_close(found[:, 1], (source[:, 0] + source[:, 1]) / 2)
    row = next(row for row in rows if row.tensor == FIRST)
    assert (row.shape, row.source) == ("4×3×3×3×3", f"{FIRST} 4×2×3×3×3")
    assert row.done == "a from a; b from b; new from the mean of b, a"


@settings(max_examples=20, deadline=None, derandomize=True)
@given(before=st.integers(2, 5), seed=st.integers(0, 99), data=st.data())
def test_dropped_channels_leave_an_answer_of_the_same_strength(before: int, seed: int, data) -> None:
    """To an image that is random in each channel with the same mean, the first layer answers as strongly on average.

    Its response to equal channels is the sum of the weights; a channel's share of it is that sum over the channels.
    """
    source = [str(i) for i in range(before)]
    kept = data.draw(st.lists(st.sampled_from(source), min_size=1, max_size=before, unique=True))
    weights = weights_of(before, 2, seed)
    weights[FIRST] = weights[FIRST][:, :1].expand(-1, before, -1, -1, -1).clone()  # each channel counts the same
    network = fresh(len(kept), 2)
    carry_over(
        make_network(), network, weights, Correspondence(kept, source, {name: name for name in kept}), same("0", "1")
    )
    torch.testing.assert_close(own_tensors(network)[FIRST].sum(1), weights[FIRST].sum(1), atol=1e-5, rtol=1e-4)


def test_dropping_by_hand() -> None:
    before = weights_of(4, 2)
    network = fresh(2, 2)
    inlet = Correspondence(["d", "b"], ["a", "b", "c", "d"], {"d": "d", "b": "b"})
    rows = carry_over(make_network(), network, before, inlet, same("0", "1"))
    torch.testing.assert_close(own_tensors(network)[FIRST], 2 * before[FIRST][:, [3, 1]])
    assert next(row for row in rows if row.tensor == FIRST).done.endswith("a, c dropped, the others times 4/2")


def test_a_new_head_keeps_what_it_was_built_with() -> None:
    before, built = weights_of(1, 3), own_tensors(fresh(1, 4))[f"{HEAD}.weight"].detach().clone()
    network = fresh(1, 4)
    heads = Correspondence(
        ["background", "new", "y", "x"], ["background", "x", "y"], {n: n for n in ("background", "x", "y")}
    )
    rows = carry_over(make_network(), network, before, same("mr"), heads)
    found = own_tensors(network)
    assert torch.equal(found[f"{HEAD}.weight"][[0, 2, 3]], before[f"{HEAD}.weight"][[0, 2, 1]])
    assert torch.equal(found[f"{HEAD}.weight"][1], built[1])
    assert torch.equal(found[f"{HEAD}.bias"][[0, 2, 3]], before[f"{HEAD}.bias"][[0, 2, 1]])
    assert next(row for row in rows if row.tensor == f"{HEAD}.bias").done == (
        "background from background; y from y; x from x; new new"
    )


def test_all_heads_new() -> None:
    network, built = fresh(1, 2), own_tensors(fresh(1, 2))[f"{HEAD}.weight"]
    rows = carry_over(
        make_network(), network, weights_of(1, 3), same("mr"), Correspondence(["p", "q"], ["x", "y", "z"], {})
    )
    assert torch.equal(own_tensors(network)[f"{HEAD}.weight"], built)
    assert [row.tensor for row in rows if not row.source] == [f"{HEAD}.weight", f"{HEAD}.bias"]


@pytest.mark.parametrize("other", [make_network(width=8), make_network(stages=3), make_network(family="resenc")])
def test_another_architecture_is_refused(other) -> None:
    with pytest.raises(AutosegError, match="another architecture"):
        carry_over(make_network(), fresh(1, 2), weights_of(1, 2, architecture=other), same("mr"), same("0", "1"))


def test_nothing_is_filled_in_without_memory() -> None:
    with torch.device("meta"):
        network = build(make_network(), 2, 3)
    rows = carry_over(make_network(), network, weights_of(2, 3), same("a", "b"), same("x", "y", "z"))
    assert len(rows) == len(own_tensors(network))
    assert all(tensor.is_meta for tensor in own_tensors(network).values())
