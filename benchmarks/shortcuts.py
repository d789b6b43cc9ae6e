"""Ways to save time, each by itself: what it saves, and how far results move.

    python benchmarks/shortcuts.py DATASET [--ways gzip resampling supervision mirroring] [--run RUN] [--rounds 3]

- ``gzip``: the compressed files of DATASET (any folder that autoseg reads) decoded by zlib, as autoseg does, and by
  Intel's library (``pip install isal``); with what a file takes altogether until its voxels are there.
- ``resampling``: its scans brought to ``--spacing`` times their own spacing by scikit-image's ``resize`` and by matrix
  products, which autoseg takes, on one thread and on all; with the largest difference as a share of a scan's range.
- ``mirroring``: DATASET predicted with the folds of ``--run``, with test-time augmentation, without, and with it in
  tiles alone where the folds don't agree about every voxel; with the mean Dice of each to the labels and to the first.
- ``supervision``: a training step (U-Net, patch 40×56×40) with and without losses at lower resolutions: the most that
  leaving some of them out could save.

Each way before and after in turn; prints medians, smallest and largest.
"""

import argparse
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import describe
from torch import nn

from autoseg.data.dataset import Case, Dataset, load_case
from autoseg.data.image import read_image
from autoseg.data.nifti import stored_voxels
from autoseg.inference.predictor import Predictor
from autoseg.inference.sliding_window import NO_MIRRORING, SlidingWindow
from autoseg.preprocessing.resample import resample_image, resampled_shape
from autoseg.utils.parallel import available_cpus

#: wbits that lets zlib read gzip.
_GZIP_BITS = 31


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, one after the other, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def told(seconds: dict[str, list[float]]) -> None:
    """Print a table of the ways, each beside the first."""
    first = next(iter(seconds.values()))
    print("| way | median s | min | max | share of the first |\n| --- | ---: | ---: | ---: | ---: |")
    for name, found in seconds.items():
        share = statistics.median(a / b for a, b in zip(found, first, strict=True))
        print(f"| {name} | {statistics.median(found):.3f} | {min(found):.3f} | {max(found):.3f} | {share:.2f} |")
    print()


def packed_files(cases: Sequence[Case]) -> list[Path]:
    """The compressed files of cases."""
    return [path for case in cases for path in case.files if path.name.endswith(".gz")]


def gzip(cases: Sequence[Case], options: argparse.Namespace) -> None:
    """zlib and Intel's library on the same bytes."""
    try:
        from isal import isal_zlib
    except ImportError:
        raise SystemExit("gzip needs Intel's library: pip install isal") from None
    files = packed_files(cases)
    content = [path.read_bytes() for path in files]
    assert all(zlib.decompress(one, _GZIP_BITS) == isal_zlib.decompress(one, _GZIP_BITS) for one in content[:5])
    ways: dict[str, Callable[[], object]] = {
        "zlib": lambda: [zlib.decompress(one, _GZIP_BITS) for one in content],
        "isal": lambda: [isal_zlib.decompress(one, _GZIP_BITS) for one in content],
        "until the voxels are there": lambda: [stored_voxels(path) for path in files],
    }
    print(f"{len(files)} files, {sum(map(len, content)) / 1e6:.0f} MB\n")
    told(in_turn(ways, options.rounds))


def _resized(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    from skimage.transform import resize

    return np.stack(
        [resize(c, shape, order=3, mode="edge", anti_aliasing=False, preserve_range=True) for c in image]
    ).astype(np.float32)


def resampling(cases: Sequence[Case], options: argparse.Namespace) -> None:
    """scikit-image's spline and matrix products on the same scans."""
    from threadpoolctl import threadpool_limits

    scans = [read_image(next(iter(case.channels.values())).path) for case in cases]
    images = [(np.ascontiguousarray(scan.array[:1], np.float32), scan.spacing) for scan in scans]
    asked = [
        (image, resampled_shape(image.shape[1:], own, [mm * options.spacing for mm in own])) for image, own in images
    ]

    def by_one_thread() -> None:
        with threadpool_limits(1):
            for image, shape in asked:
                resample_image(image, shape, None, 3)

    ways: dict[str, Callable[[], object]] = {
        "scikit-image": lambda: [_resized(image, shape) for image, shape in asked],
        "matrices, one thread": by_one_thread,
        f"matrices, {available_cpus()} threads": lambda: [
            resample_image(image, shape, None, 3) for image, shape in asked
        ],
    }
    image, shape = asked[0]
    old, new = _resized(image, shape), resample_image(image, shape, None, 3)
    apart = float(np.abs(old - new).max() / np.ptp(image))
    size = "×".join(map(str, image.shape[1:]))
    print(f"{len(asked)} scans, the first {size} to {'×'.join(map(str, shape))}; largest difference {apart:.1e}\n")
    told(in_turn(ways, options.rounds))


def supervision(cases: Sequence[Case], options: argparse.Namespace) -> None:
    """A step with losses at all resolutions of the decoder, and at the highest one alone."""
    from autoseg.networks import build
    from autoseg.plans.families import UNet
    from autoseg.plans.recipe import Recipe
    from autoseg.plans.target import Output, Target
    from autoseg.step.batch import Batch
    from autoseg.step.training_step import TrainingStep
    from autoseg.step.variant import Variant
    from autoseg.utils.device import keep_large_blocks

    keep_large_blocks()
    outputs = [Output(name=name, values=[value], paint=value) for value, name in enumerate("ab", 1)]
    target = Target(kind="labels", outputs=outputs)
    network = UNet(
        features=[options.width * 2**stage for stage in range(4)],
        strides=[[1] * 3] + [[2] * 3] * 3,
        kernel_sizes=[[3] * 3] * 4,
        encoder_blocks=[2] * 4,
        decoder_convs=[2] * 3,
    )
    given = Batch(torch.randn(1, 1, 40, 56, 40), torch.randint(0, 3, (1, 40, 56, 40)))

    def steps(deep: bool) -> Callable[[], object]:
        torch.manual_seed(0)
        built = build(network, 1, target.heads, deep_supervision=deep)
        step = TrainingStep(built, Recipe(), target, Variant(torch.float32, channels_last=True))
        step(given)
        return lambda: [step(given) for _ in range(10)]

    print(f"ten steps of width {options.width}, batch 1\n")
    told(in_turn({"all resolutions": steps(True), "the highest alone": steps(False)}, options.rounds))


class _Passes:
    """Counts networks' passes, and mirrors as it is told, in the place of a window's own method."""

    def __init__(self, where: str) -> None:
        self.where, self.count = where, 0
        self.original = SlidingWindow._mirrored

    def __call__(self, window: SlidingWindow, networks: Sequence[nn.Module], batch: torch.Tensor) -> torch.Tensor:
        plain = replace(window, mirrorings=NO_MIRRORING)
        if self.where == "everywhere":
            return self._scores(window, networks, batch)
        if self.where == "nowhere":
            return self._scores(plain, networks, batch)
        each = [self._scores(plain, [network], batch) for network in networks]
        decided = [scores.argmax(1) for scores in each]
        mean = torch.stack(each).mean(0)
        if all(torch.equal(decided[0], other) for other in decided[1:]):
            return mean
        others = replace(window, mirrorings=window.mirrorings[1:])
        share = 1 / len(window.mirrorings)
        return share * mean + (1 - share) * self._scores(others, networks, batch)

    def _scores(self, window: SlidingWindow, networks: Sequence[nn.Module], batch: torch.Tensor) -> torch.Tensor:
        self.count += len(networks) * len(window.mirrorings) * len(batch)
        return self.original(window, networks, batch)


def mirroring(cases: Sequence[Case], options: argparse.Namespace) -> None:
    """Test-time augmentation everywhere, nowhere, and where the folds disagree."""
    if options.run is None:
        raise SystemExit("mirroring needs --run RUN, of several folds that segment labels.")
    predictor = Predictor.load(options.run, device="cpu", postprocessing=False)
    maps: dict[str, list[np.ndarray]] = {}
    channels = predictor.members[0].last.channel_names
    labels = [np.asarray(load_case(case, channels).label) for case in cases]
    print("| mirrored | passes | CPU seconds | Dice to the labels | Dice to the first |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for where in ("everywhere", "nowhere", "where the folds disagree"):
        passes = _Passes(where)
        SlidingWindow._mirrored = lambda *given, by=passes: by(*given)  # type: ignore[method-assign]
        try:
            started = time.process_time()
            maps[where] = [predictor.predict_case(case).label for case in cases]
            seconds = time.process_time() - started
        finally:
            SlidingWindow._mirrored = passes.original  # type: ignore[method-assign]
        right = statistics.mean(map(_dice, maps[where], labels))
        alike = statistics.mean(map(_dice, maps[where], maps["everywhere"]))
        print(f"| {where} | {passes.count} | {seconds:.1f} | {right:.4f} | {alike:.4f} |")
    print()


def _dice(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean over the labels that either has."""
    values = set(np.unique(found)) | set(np.unique(wanted))
    each = [2 * ((found == v) & (wanted == v)).sum() / ((found == v).sum() + (wanted == v).sum()) for v in values - {0}]
    return float(np.mean(each)) if each else 1.0


WAYS = {"gzip": gzip, "resampling": resampling, "supervision": supervision, "mirroring": mirroring}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[name for name in WAYS if name != "mirroring"])
    parser.add_argument("--run", type=Path, help="trained run of several folds, for mirroring")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=8, help="of the dataset, the first ones")
    parser.add_argument("--spacing", type=float, default=1.5, help="times that of each scan")
    parser.add_argument("--width", type=int, default=8, help="of the network's first stage")
    options = parser.parse_args()
    print(f"{describe()}\n")
    cases = Dataset.open(options.dataset).cases[: options.cases]
    for name in options.ways:
        print(f"## {name}\n")
        WAYS[name](cases, options)


if __name__ == "__main__":
    main()
