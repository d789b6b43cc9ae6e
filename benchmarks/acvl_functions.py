"""Five functions of acvl-utils against the code that they could replace: time, and whether the results are equal.

    python benchmarks/acvl_functions.py --repetitions 7

The sizes are those of a BraTS case (155×240×240 voxels, four channels). Both versions of a task alternate in one run.
The label map holds smooth structures and thousands of single voxels, as an undertrained network leaves them; a second
one holds two largest components of the same size.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import cc3d
import numpy as np
import torch
import torch.nn.functional as F
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd, insert_crop_into_image
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component_cc3d, remove_components_cc3d
from machine import describe
from scipy import ndimage

from autoseg.plans.target import Output, Target
from autoseg.postprocessing.steps import Step, apply_steps, find_parts, removal

SHAPE = (155, 240, 240)
BOX = (slice(10, 138), slice(56, 184), slice(40, 168))
LIMITS = [[side.start, side.stop] for side in BOX]
REGION = Target(kind="regions", outputs=[Output(name="tumor", values=[1], paint=1)])
LARGEST = Step(kind="largest_component", output="tumor", mm3=None)
SMALLEST = 20
SIZES = [Step(kind="minimum_size", output="tumor", mm3=size) for size in (2, 5, 10, SMALLEST, 50)]

Task = tuple[str, Callable[[], np.ndarray | torch.Tensor], Callable[[], np.ndarray | torch.Tensor]]


def label_map(rng: np.random.Generator) -> np.ndarray:
    """uint8 with a few large components and thousands of small ones."""
    smooth = ndimage.gaussian_filter(rng.normal(size=SHAPE), 6)
    found = smooth > 2.2 * smooth.std()
    return (found | (rng.random(SHAPE) < 0.0005)).astype(np.uint8)


def tied_map() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[20:40, 20:40, 20:40] = found[60:80, 60:80, 60:80] = 1
    return found


def pad(image: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Zeros on both sides, one more behind where their number is odd."""
    missing = [max(0, new - old) for old, new in zip(image.shape[1:], shape, strict=True)]
    return F.pad(image, [n for total in reversed(missing) for n in (total // 2, total - total // 2)])


def insert(image: torch.Tensor, crop: torch.Tensor) -> torch.Tensor:
    image[(slice(None), *BOX)] = crop
    return image


def try_sizes(label: np.ndarray) -> np.ndarray:
    """What 'autoseg postprocess' does: the components are labelled once for all sizes that are tried."""
    parts = find_parts(label, REGION.outputs[0])
    tried = [removal(label, parts, step, REGION, 1.0)[0] for step in SIZES]
    return np.array([len(where[0]) for where in tried])


def tasks() -> list[Task]:
    rng = np.random.default_rng(0)
    label, tied = label_map(rng), tied_map()
    mask = label.astype(bool)
    image = torch.from_numpy(rng.normal(size=(4, *SHAPE)).astype(np.float32))
    crop = image[(slice(None), *BOX)].clone()
    larger = (160, 256, 256)
    full = np.ones((3, 3, 3), bool)
    smallest = Step(kind="minimum_size", output="tumor", mm3=SMALLEST)
    print(f"{ndimage.label(mask, full)[1]} components in {int(mask.sum())} voxels\n")
    return [
        ("pad_nd_image, to 160×256×256", lambda: pad(image, larger), lambda: pad_nd_image(image, larger)),
        (
            "crop_and_pad_nd, a box of 128³",
            lambda: image[(slice(None), *BOX)],
            lambda: crop_and_pad_nd(image, LIMITS),
        ),
        (
            "insert_crop_into_image, a box of 128³",
            lambda: insert(image.clone(), crop),
            lambda: insert_crop_into_image(image.clone(), crop, LIMITS),
        ),
        (
            "remove_all_but_largest_component_cc3d",
            lambda: apply_steps(label, [LARGEST], REGION, (1, 1, 1)) > 0,
            lambda: remove_all_but_largest_component_cc3d(mask, connectivity=26),
        ),
        (
            "the same, two largest of one size",
            lambda: apply_steps(tied, [LARGEST], REGION, (1, 1, 1)) > 0,
            lambda: remove_all_but_largest_component_cc3d(tied.astype(bool), connectivity=26),
        ),
        (
            f"remove_components_cc3d, {SMALLEST} voxels",
            lambda: apply_steps(label, [smallest], REGION, (1, 1, 1)) > 0,
            lambda: remove_components_cc3d(mask, SMALLEST, connectivity=26),
        ),
        (
            f"remove_components_cc3d, {len(SIZES)} sizes tried",
            lambda: try_sizes(label),
            lambda: np.array(
                [int(mask.sum()) - int(remove_components_cc3d(mask, step.mm3, connectivity=26).sum()) for step in SIZES]
            ),
        ),
        (
            "cc3d.connected_components (scipy.ndimage.label)",
            lambda: ndimage.label(mask, full)[0],
            lambda: cc3d.connected_components(mask, connectivity=26),
        ),
    ]


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def spread(times: list[float]) -> str:
    return f"{1000 * statistics.median(times):.3g} ({1000 * min(times):.3g} to {1000 * max(times):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    libraries = ("acvl-utils", "connected-components-3d", "scipy", "numpy")
    print(describe())
    print(f"{', '.join(f'{name} {version(name)}' for name in libraries)}; {platform.platform(terse=True)}")
    print(f"{options.repetitions} repetitions: median (smallest to largest) in ms")
    found = tasks()
    print("| task | this project | library | library / this project | equal voxel for voxel |")
    print("|---|---|---|---|---|")
    for name, ours, theirs in found:
        equal = np.array_equal(np.asarray(ours()), np.asarray(theirs()))
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.repetitions):
            for function, taken in zip((ours, theirs), times, strict=True):
                taken.append(seconds(function))
        ratio = statistics.median(times[1]) / statistics.median(times[0])
        print(f"| {name} | {spread(times[0])} | {spread(times[1])} | {ratio:.2f} | {'yes' if equal else 'no'} |")


if __name__ == "__main__":
    main()
