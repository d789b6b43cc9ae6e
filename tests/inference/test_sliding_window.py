"""The sliding window: what a network says about each voxel comes through unchanged, whatever the tiles."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoseg.inference import sliding_window as module
from autoseg.inference.slabs import UniformTiles
from autoseg.inference.sliding_window import IMAGE_SHARE, NO_MIRRORING, SlidingWindow, mirrorings, tile_weight
from autoseg.networks import build, set_deep_supervision
from autoseg.plans.families import DeepMedic
from autoseg.plans.inference import Inference
from autoseg.plans.tiles import tile_starts
from tests.builders import make_configuration, make_network, make_plan
from tests.devices import DEVICES

CPU = torch.device("cpu")


def predict(
    network: nn.Module | list, image: torch.Tensor, patch: list[int], heads: int = 1, **how: Any
) -> torch.Tensor:
    networks = network if isinstance(network, list) else [network]
    mirror = how.pop("mirror", bool(how.get("mirror_axes")))
    how.setdefault("mirror_axes", [])
    context = how.pop("context", ())
    inference = Inference(**how)
    flips = mirrorings(inference.mirror_axes) if mirror else NO_MIRRORING
    window = SlidingWindow(patch, heads, inference, CPU, context=context, mirrorings=flips)
    return window.scores(networks, image)


def count_tiles(space: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> int:
    return SlidingWindow(patch, 1, Inference(overlap=overlap), CPU).count(space)


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@given(size=st.integers(1, 300), patch=st.integers(1, 64), overlap=st.floats(0, 0.95))
def test_tiles_cover_an_axis(size: int, patch: int, overlap: float) -> None:
    starts = tile_starts(size, patch, overlap)
    if size <= patch:
        assert starts == [0]
        return
    assert starts[0] == 0
    assert starts[-1] == size - patch
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert steps.max() <= max(1, patch * (1 - overlap))
    # Evenly spread: no two steps differ by more than a voxel.
    assert steps.max() - steps.min() <= 1


def test_tiles_exactly_a_step_apart() -> None:
    """Wacker et al., section III-E: 32 pixels in the plane, 24 slices along z."""
    assert tile_starts(138, 128, 0.5, 32, edges="padded") == [0, 32]
    assert tile_starts(170, 128, 0.5, 32, edges="padded") == [0, 32, 64]
    assert tile_starts(138, 24, 0.5, 24, edges="padded") == [0, 24, 48, 72, 96, 120]
    assert tile_starts(192, 128, 0.5, 32, edges="padded") == [0, 32, 64] == tile_starts(192, 128, 0.5, 32)
    assert tile_starts(100, 128, 0.5, 32, edges="padded") == [0]


@pytest.mark.parametrize("size", [(7, 9, 10), (3, 12, 5), (1, 1, 1)])
def test_identity_over_a_padded_image(size: tuple) -> None:
    image = noise(2, *size)
    how = {"step": [3, 2, 4], "edges": "padded", "gaussian_sigma": 0.0, "mirror_axes": []}
    seen = Seen()
    torch.testing.assert_close(predict(seen, image, [4, 4, 4], 2, **how), image)
    counted = SlidingWindow([4, 4, 4], 2, Inference(**how), CPU).count(size)
    assert (
        len(seen.batches)
        == counted
        == math.prod(-(-max(n - 4, 0) // s) + 1 for n, s in zip(size, (3, 2, 4), strict=True))
    )


def test_tiles_by_hand() -> None:
    # As nnU-Net's: 110 voxels, patch 32, half overlap → 6 tiles.
    assert tile_starts(110, 32, 0.5) == [0, 16, 31, 47, 62, 78]
    assert tile_starts(64, 32, 0) == [0, 32]
    assert tile_starts(65, 32, 0) == [0, 16, 33]
    assert count_tiles((110, 32, 10), (32, 32, 32), 0.5) == 6
    assert count_tiles((7, 64, 64), (32, 32), 0) == 7 * 4


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 11)] * 3),
    patch=st.lists(st.integers(1, 8), min_size=2, max_size=3),
    overlap=st.floats(0, 0.8),
    sigma=st.sampled_from([0.0, 0.125, 0.5]),
    axes=st.sets(st.integers(0, 1)),
    tile_batch=st.integers(1, 4),
)
def test_identity(size: tuple, patch: list, overlap: float, sigma: float, axes: set, tile_batch: int) -> None:
    """A network that gives its input back gives the whole image back."""
    image = noise(2, *size)
    before = image.clone()
    found = predict(
        nn.Identity(),
        image,
        patch,
        2,
        overlap=overlap,
        gaussian_sigma=sigma,
        mirror_axes=sorted(axes),
        tile_batch=tile_batch,
    )
    assert found.shape == image.shape
    torch.testing.assert_close(found, image, atol=1e-5, rtol=1e-5)
    assert torch.equal(image, before)


def test_weight_by_hand() -> None:
    weight = tile_weight([3, 1], 0.5)
    edge = np.exp(-0.5 * (1 / 1.5) ** 2)
    assert weight.ravel().tolist() == pytest.approx([edge, 1, edge])
    assert (tile_weight([4, 5], 0.0) == 1).all()
    assert tile_weight([64, 64, 64], 0.125).min() == pytest.approx(1e-4)
    even = tile_weight([8, 6], 0.125)
    assert even.max() == 1
    assert torch.equal(even, even.flip(0, 1))


class Position(nn.Module):
    """Says where in its tile a voxel lies: two tiles disagree about every voxel."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.arange(float(image.shape[-1])).expand_as(image)


def test_overlap_is_weighted_by_hand() -> None:
    image = torch.zeros(1, 1, 1, 6)
    found = predict(Position(), image, [1, 1, 4], overlap=0.5, gaussian_sigma=0.5)[0, 0, 0]
    weight = [float(np.exp(-0.5 * ((x - 1.5) / 2) ** 2)) for x in range(4)]
    third = (2 * weight[2] + 0 * weight[0]) / (weight[2] + weight[0])
    fourth = (3 * weight[3] + 1 * weight[1]) / (weight[3] + weight[1])
    assert found.tolist() == pytest.approx([0, 1, third, fourth, 2, 3], abs=1e-5)


class Seen(nn.Module):
    """Counts how it was asked, and says which value of the image is at each tile's first voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.batches.append(tuple(image.shape))
        return image


def test_tiles_a_pass() -> None:
    network = Seen()
    predict(network, noise(1, 4, 4, 14), [4, 4, 4], overlap=0.5, tile_batch=4)
    assert network.batches == [(4, 1, 4, 4, 4), (2, 1, 4, 4, 4)]


def test_slices() -> None:
    """A 2D network sees slices across the first axis, and nothing of their neighbours."""
    network = Seen()
    image = noise(1, 3, 5, 6)
    predict(network, image, [5, 6], tile_batch=2)
    assert network.batches == [(2, 1, 5, 6), (1, 1, 5, 6)]
    flat = build(make_network(2), 1, 3).eval()
    whole = predict(flat, noise(1, 3, 8, 8), [8, 8], 3)
    changed = noise(1, 3, 8, 8)
    changed[:, 1] += 5
    other = predict(flat, changed, [8, 8], 3)
    assert torch.equal(whole[:, [0, 2]], other[:, [0, 2]])
    assert not torch.equal(whole[:, 1], other[:, 1])


def test_mirrorings() -> None:
    assert mirrorings([]) == [()]
    assert mirrorings([2, 0]) == [(), (0,), (2,), (0, 2)]
    assert len(mirrorings([0, 1, 2])) == 8


@pytest.mark.parametrize("axes", [[0], [1, 2], [0, 1, 2]])
def test_mirrored_average_by_hand(axes: list[int]) -> None:
    torch.manual_seed(0)
    network = build(make_network(), 1, 2).eval()
    image = noise(1, 8, 8, 8)
    expected = []
    with torch.no_grad():
        for count in range(len(axes) + 1):
            for flip in itertools.combinations([axis + 2 for axis in axes], count):
                expected.append(network(image[None].flip(flip)).flip(flip)[0])
    found = predict(network, image, [8, 8, 8], 2, mirror_axes=axes)
    torch.testing.assert_close(found, torch.stack(expected).mean(0), atol=1e-5, rtol=1e-4)
    alone = predict(network, image, [8, 8, 8], 2, mirror_axes=axes, mirror=False)
    torch.testing.assert_close(alone, expected[0], atol=1e-6, rtol=1e-5)


def test_mirrored_slices_by_hand() -> None:
    torch.manual_seed(0)
    network = build(make_network(2), 1, 2).eval()
    image = noise(1, 2, 8, 8)
    with torch.no_grad():
        slices = image.transpose(0, 1)
        expected = (network(slices) + network(slices.flip(3)).flip(3)) / 2
    found = predict(network, image, [8, 8], 2, mirror_axes=[1])
    torch.testing.assert_close(found, expected.transpose(0, 1), atol=1e-5, rtol=1e-4)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.factor * image


def test_several_networks_are_averaged() -> None:
    image = noise(1, 5, 6, 7)
    found = predict([Times(1), Times(2), Times(6)], image, [4, 4, 4], mirror_axes=[0, 2])
    torch.testing.assert_close(found, 3 * image, atol=1e-5, rtol=1e-5)


def test_constant_beyond_the_image_is_zero() -> None:
    """An image smaller than the patch is padded on both sides, and the padding is cut off again."""
    found = predict(Position(), torch.ones(1, 1, 1, 3), [1, 1, 6])
    assert found.ravel().tolist() == [1, 2, 3]


def test_as_many_tiles_as_counted() -> None:
    network = Seen()
    predict(network, noise(1, 4, 4, 9), [4, 4, 4], tile_batch=2)
    assert sum(batch[0] for batch in network.batches) == count_tiles((4, 4, 9), (4, 4, 4), 0.5) == 4


def test_window_of_a_stage() -> None:
    """Everything is taken from the plan; the training's precision counts where inference has none of its own."""
    stage = make_plan().stage("small")
    window = SlidingWindow.of(stage, CPU)
    assert list(window.tile_size) == stage.configuration.patch_size
    assert window.out_channels == stage.target.heads
    assert list(window.mirrorings) == mirrorings(stage.inference.mirror_axes)
    assert tuple(SlidingWindow.of(stage, CPU, mirror=False).mirrorings) == NO_MIRRORING
    half = make_plan(make_configuration(inference=Inference(precision="bf16"))).stage("small")
    assert SlidingWindow.of(half, CPU).dtype == torch.bfloat16
    assert SlidingWindow.of(half, CPU, torch.float32).dtype == torch.float32


class Middle(nn.Module):
    """Speaks about the middle of what it is given, and checks how much that is."""

    def __init__(self, context: list[int], given: list[int]) -> None:
        super().__init__()
        self.context = context
        self.given = given

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert list(image.shape[2:]) == self.given
        depth, height, width = (slice(c, n - c) for c, n in zip(self.context, image.shape[2:], strict=True))
        return image[:, :, depth, height, width]


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 11)] * 3),
    patch=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    context=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    overlap=st.floats(0, 0.8),
    axes=st.sets(st.integers(0, 2)),
)
def test_identity_with_context(size: tuple, patch: list, context: list, overlap: float, axes: set) -> None:
    """What is said about a tile's middle lands where that middle is, images smaller than a tile included."""
    image = noise(1, *size)
    network = Middle(context, [p + 2 * c for p, c in zip(patch, context, strict=True)])
    found = predict(network, image, patch, overlap=overlap, mirror_axes=sorted(axes), context=context)
    torch.testing.assert_close(found, image, atol=1e-5, rtol=1e-5)


def test_context_is_zero_beyond_the_image_and_the_image_elsewhere() -> None:
    """The mean of each voxel and its neighbours, by hand."""

    class Mean(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return (image[..., :-2] + image[..., 1:-1] + image[..., 2:]) / 3

    image = torch.tensor([3.0, 6.0, 9.0, 12.0, 15.0]).reshape(1, 1, 1, 5)
    found = predict(Mean(), image, [1, 1, 2], overlap=0, context=[0, 0, 1])
    assert found.ravel().tolist() == pytest.approx([3, 6, 9, 12, 9])


@pytest.mark.parametrize("size", [(27, 27, 27), (27, 18, 36)])
def test_deepmedic_says_the_same_in_small_and_in_large_tiles(size: tuple[int, ...]) -> None:
    """Tiles of 9³ and of 27³, and the whole image at once, zeros all around: the same logits.

    All tiles begin at whole voxels of the coarse pathway here; elsewhere its grid would lie another way.
    """
    topology = DeepMedic(features=[2, 3, 3, 3, 3, 3, 3, 3], fully_connected=[4, 4])
    torch.manual_seed(0)
    network = build(topology, 2, 2).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():  # batch norm that is not the identity
            if name.endswith("running_var"):
                value.uniform_(0.1, 0.4)
    image = noise(2, *size)
    found = []
    for patch in ([25, 25, 25], [43, 34, 43]):
        tile = topology.output_size(patch)
        context = [(n - t) // 2 for n, t in zip(topology.input_size(patch), tile, strict=True)]
        assert context == [24, 24, 24]
        found.append(predict(network, image, tile, 2, overlap=0, gaussian_sigma=0, tile_batch=4, context=context))
    with torch.no_grad():
        whole = network(torch.nn.functional.pad(image, [24] * 6)[None])[0]
    for scores in found:
        # A tile one voxel off would differ by about the deviation.
        assert (scores - whole).abs().max() < 1e-3 * whole.std()


class Crossings(TorchDispatchMode):
    """Counts the calls that take something from one kind of device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        seen = [one for one in tree_leaves((args, kwargs, found)) if isinstance(one, torch.Tensor) and one.ndim]
        self.count += len({one.device.type for one in seen}) > 1
        return found


@pytest.mark.parametrize("name", DEVICES)
def test_an_image_goes_to_the_device_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With however many tiles, uniform ones among them; without room for it tile by tile, with the same result."""
    device = torch.device(name)
    torch.manual_seed(0)
    network = build(make_network(), 1, 2).eval().to(device)
    image = noise(1, 8, 8, 48)
    image[..., 24:] = 1
    inference = Inference(mirror_axes=[0], tile_batch=2)
    window = SlidingWindow([8, 8, 8], 2, inference, device, mirrorings=mirrorings([0]))

    def scores(length: int) -> tuple[int, torch.Tensor]:
        with Crossings() as crossings:
            found = window.scores([network], image[..., :length])
        return crossings.count, found.cpu()

    few, many = scores(32), scores(48)
    assert few[0] == many[0]
    asked: list[tuple[torch.device, int, float]] = []
    monkeypatch.setattr(module, "room_on", lambda *given: asked.append(given) or False)
    alone = scores(48)
    assert asked == [(device, image.nbytes, IMAGE_SHARE)]
    assert (alone[0] > many[0]) == (name == "cuda")
    tolerance = 0.0 if name == "cpu" else 1e-5
    torch.testing.assert_close(alone[1], many[1], rtol=tolerance, atol=tolerance)


def test_tiles_are_looked_at_in_one_copy_and_cut_from_the_other() -> None:
    """On a GPU the first is the host's, as looking at its own would wait for it; here the second is twice as much."""
    image = noise(1, 4, 4, 8)
    image[..., 4:] = 3
    window, uniform = SlidingWindow([4, 4, 4], 1, Inference(mirror_axes=[]), CPU), UniformTiles(torch.float32)
    found = dict(window._scored([nn.Identity()], (image, 2 * image), [(0, 0, 0), (0, 0, 4)], uniform))
    assert torch.equal(torch.cat([found[0, 0, 0], found[0, 0, 4]], 3), 2 * image)
    assert list(uniform._scores) == [(3.0,)]


@pytest.mark.parametrize(("dimensions", "heads"), [(3, 9), (2, 9), (3, 3)])
def test_many_heads_are_added_by_products(dimensions: int, heads: int) -> None:
    """As the mean of whole networks over mirrored copies, of two folds, whose last layers are not run then."""
    torch.manual_seed(0)
    size = [8, 12, 10][-dimensions:]
    topology = make_network(dimensions)
    networks = [build(topology, 1, heads).eval() for _ in range(2)]
    for network in networks:
        set_deep_supervision(network, False)
    image = torch.randn(1, 8, 12, 10)
    copies = mirrorings(range(dimensions))
    window = SlidingWindow(size, heads, Inference(overlap=0), torch.device("cpu"), mirrorings=copies)
    batch = image if dimensions == 2 else image[None]
    batch = batch.transpose(0, 1) if dimensions == 2 else batch
    axes = [[axis + 2 for axis in copy] for copy in copies]
    with torch.inference_mode():
        wanted = sum(network(batch.flip(turned)).flip(turned) for network in networks for turned in axes)
    wanted = wanted / (len(axes) * len(networks))
    wanted = wanted.transpose(0, 1) if dimensions == 2 else wanted[0]
    runs: list[int] = []
    for network in networks:
        last = network.get_submodule("decoder").seg_layers[-1]
        last.register_forward_hook(lambda *_: runs.append(1))
    found = window.scores(networks, image)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert bool(runs) == (heads < 4)
