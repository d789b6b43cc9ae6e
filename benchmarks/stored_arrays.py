"""How fast boxes are cut from stored cases: plain arrays mapped into memory, and blosc2's compressed ones.

    python benchmarks/stored_arrays.py IMAGE… [--size 128] [--batches 12]

The images (one exam's channels, on one grid) are cropped to what is not zero, scaled and stored in 16 bits; patches of
two exams a batch are cut at random places, by one thread and by two. Printed are batches a second, the size on disk,
and for how long at most another thread could not run meanwhile (blosc2's slices hold the interpreter's lock).
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blosc2
import machine
import numpy as np

from autoseg.data.boxes import cropping_box, foreground
from autoseg.data.image import read_image

Cut = Callable[[int, tuple[slice, ...]], np.ndarray]


def voxels(paths: list[Path]) -> np.ndarray:
    channels = np.stack([read_image(path).array[0].astype(np.float32) for path in paths])
    cropped = channels[(slice(None), *cropping_box(foreground(channels)))]
    return (cropped / cropped.std(axis=(1, 2, 3), keepdims=True)).astype(np.float16)


def rate(cut: Cut, shape: tuple[int, ...], size: int, batches: int, threads: int) -> float:
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(2 * batches):
        start = [int(rng.integers(0, max(1, n - size + 1))) for n in shape[1:]]
        boxes.append((slice(None), *(slice(s, s + size) for s in start)))
    jobs = [(index % 2, box) for index, box in enumerate(boxes)]
    cut(*jobs[0])
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda job: cut(*job), jobs):
            pass
    return batches / (time.perf_counter() - started)


def longest_pause(work: Callable[[], object]) -> float:
    """Longest time in ms that another thread did not run while this one works."""
    gaps, done = [0.0], threading.Event()

    def watch() -> None:
        last = time.perf_counter()
        while not done.is_set():
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        work()
    done.set()
    watcher.join()
    return 1000 * max(gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=12)
    options = parser.parse_args()
    print(machine.describe())
    array = voxels(options.images)
    print(f"{array.shape}, patches of {options.size}³, {options.batches} batches of 2\n")
    print("| stored as | MB | one thread, batches/s | two threads | longest pause of another thread, ms |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.npy" for index in (0, 1)]
        for path in paths:
            np.save(path, array)
        mapped = [np.asarray(np.load(path, mmap_mode="r")) for path in paths]
        report("plain, mapped", lambda index, box: np.array(mapped[index][box]), paths[0], array, options)
        for chunk, block in ((128, 32), (64, 32), (48, 48)):
            paths = [Path(folder) / f"{index}_{chunk}.b2nd" for index in (0, 1)]
            for path in paths:
                blosc2.asarray(
                    array,
                    urlpath=str(path),
                    chunks=(1, *(min(chunk, n) for n in array.shape[1:])),
                    blocks=(1, *(min(block, chunk, n) for n in array.shape[1:])),
                    cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1},
                    mode="w",
                )
            opened = [blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1}) for path in paths]
            name = f"blosc2, chunks of {chunk}³, blocks of {block}³"

            def read(index: int, box: tuple[slice, ...], opened: list[Any] = opened) -> np.ndarray:
                return np.asarray(opened[index][box])

            report(name, read, paths[0], array, options)


def report(name: str, cut: Cut, path: Path, array: np.ndarray, options: argparse.Namespace) -> None:
    rates = [rate(cut, array.shape, options.size, options.batches, threads) for threads in (1, 2)]
    box = (slice(None), *(slice(0, options.size),) * 3)
    pause = longest_pause(lambda: cut(0, box))
    print(f"| {name} | {path.stat().st_size / 1e6:.1f} | {rates[0]:.1f} | {rates[1]:.1f} | {pause:.0f} |", flush=True)


if __name__ == "__main__":
    main()
