"""The data path of a training up to the boxes on the device: how fast, how many bytes, and whether anything waits.

    python benchmarks/data_path.py DATASET [--patch 128 128 128] [--batch 2] [--device auto] [--readers N]
        [--batches 200] [--waits 10] [--run RUN] [--config 3d_fullres]

Plans and preprocesses the dataset into ``--run``, which is kept; one that is planned already is taken as it is, so that
a cascade (its earlier stages trained), raters or a teacher can be measured. Batches are made with the real draws:
positions, deformations, boxes. The network, resampling and augmentation are left out of the rates; what resampling and
augmentation take is listed beside. Measured with all cases in memory, and with room for a tenth of them, the others
read from their files box by box (which the system may hold in its page cache). The share of padding is that of voxels
beyond the image among all that are handed over. Waits are those of whole steps, a U-Net made narrow for them, without
the callbacks of a training, as of ``--tuning lowrank``. On a GPU torch tells each time that the CPU waited for it; on a
CPU those calls are counted that would wait for a GPU, but for copies from and to it. For two cores: ``taskset -c 0,1
python …``.
"""

import argparse
import statistics
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from torch.utils._python_dispatch import TorchDispatchMode

import autoseg
from autoseg.crossvalidation.cascades import fetch_previous, stage_cases
from autoseg.data.boxes import Box
from autoseg.networks import build
from autoseg.plans.families import UNet
from autoseg.plans.stage import Stage
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import Run
from autoseg.step.training_step import TrainingStep
from autoseg.step.variant import Variant
from autoseg.training.batches import BatchMaker
from autoseg.training.case_cache import CaseCache, Room, Voxels
from autoseg.training.sampling import Patches, PatchLoader
from autoseg.training.training import READING_THREADS
from autoseg.transfer.teacher_scores import teacher_scores
from autoseg.utils.device import select_device
from autoseg.utils.parallel import available_cpus

#: Calls whose result the CPU needs to know.
WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.unique_consecutive.default,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten._linalg_eigh.default,
}
INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


class CountedCache(CaseCache):
    """A cache that holds what it reads against the box and the image that it was asked for."""

    def __init__(self, cases: Sequence[StoredCase], stage: Stage, device: torch.device, room: Room) -> None:
        super().__init__(cases, stage, device, room)
        self.shapes = [tuple(case.shape) for case in cases]
        self.voxels = self.padding = 0

    def read(self, number: int, box: Box) -> Voxels:
        found = super().read(number, box)
        inside = 1
        for part, size in zip(box, self.shapes[number], strict=True):
            inside *= max(0, min(part.stop, size) - max(part.start, 0))
        for array in (*found.numbers, *found.maps):
            given = int(np.prod(array.shape[1:]))
            self.voxels += given
            self.padding += given - inside
        return found


class Waits(TorchDispatchMode):
    """Counts calls that would make the CPU wait for a GPU, by the place in autoseg that they come from."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = func in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if func in WAITING or masks:
            self.found[f"{func.name().removeprefix('aten::')} at {place()}"] += 1
        return func(*args, **(kwargs or {}))


def place() -> str:
    """The line of autoseg that is at work, as ``batches.py:62``."""
    frames = [frame for frame in traceback.extract_stack() if "/autoseg/" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"


@contextmanager
def counted_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Counts the waits of what is done inside this block: those of a GPU, or those that there would be on one."""
    if device.type != "cuda":
        with Waits() as mode:
            yield mode.found
        return
    found: Counter[str] = Counter()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")

        def note(message: Warning | str, *_: object) -> None:
            if "called a synchronizing" in str(message):
                found[f"a wait at {place()}"] += 1

        warnings.showwarning = note  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)


@dataclass
class DataPath:
    """A training's data path, without the training.

    Attributes:
        stage: that is trained.
        cases: preprocessed.
        device: of the training.
        readers: threads that read at once; 0 for none.
    """

    stage: Stage
    cases: list[StoredCase]
    device: torch.device
    readers: int

    def cache(self, share: float) -> CountedCache:
        """A cache with room for a share of the cases, on the device where that is a GPU."""
        everything = CaseCache(self.cases, self.stage, self.device, Room(0, 2**62))
        size = int(share * everything.size("host"))
        on_device = self.device.type == "cuda"
        return CountedCache(
            self.cases, self.stage, self.device, Room(size if on_device else 0, 0 if on_device else size)
        )

    def loader(self, cache: CaseCache) -> PatchLoader:
        return PatchLoader(self.cases, Patches.of(self.stage), cache, seed=0)

    def rates(self, share: float, batches: int) -> list[str]:
        """Cells of the table: what is kept, batches a second, MB moved a batch, padding, augmentation."""
        cache = self.cache(share)
        loader = self.loader(cache)
        pool = ThreadPoolExecutor(self.readers) if self.readers else None
        for number, case in enumerate(self.cases):  # what fits is kept from the first time it is read on
            z, y, x = case.shape
            cache.read(number, (slice(0, z), slice(0, y), slice(0, x)))
        cache.voxels = cache.padding = 0
        seconds, moved = [], []
        for number in range(batches + 3):
            started = time.perf_counter()
            loaded = loader.batch(number, pool)
            for patch in loaded.patches:
                patch.voxels.on(self.device)
            self.wait()
            seconds.append(time.perf_counter() - started)
            moved.append(loaded.nbytes / 1e6)
        maker, made = BatchMaker(self.stage, self.device), []
        for number in range(8):
            loaded = loader.batch(number, pool)
            self.wait()
            started = time.perf_counter()
            maker.make(loaded, cache.layout)
            self.wait()
            made.append(time.perf_counter() - started)
        if pool is not None:
            pool.shutdown()
        timed = seconds[3:]
        padding = cache.padding / max(cache.voxels, 1)
        return [
            str(cache),
            f"{len(timed) / sum(timed):.1f}",
            f"{1000 * statistics.median(timed):.2f} ({1000 * min(timed):.2f}–{1000 * max(timed):.2f})",
            f"{statistics.mean(moved):.2f}",
            f"{100 * padding:.3g} %",
            f"{1000 * statistics.median(made[2:]):.1f}",
        ]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def waits(self, steps: int) -> Counter[str]:
        """What waits for the device in so many steps, data included, with a U-Net's stages made narrow."""
        network = self.stage.network
        if isinstance(network, UNet):
            network = network.model_copy(update={"features": [4] * len(network.features)})
        module = build(network, self.stage.in_channels, self.stage.heads).to(self.device)
        module.train()
        fused = Variant(fused=True)  # as on every GPU
        step = TrainingStep(module, self.stage.recipe, self.stage.target.indexed, fused)
        maker, cache = BatchMaker(self.stage, self.device), self.cache(1.0)
        loader = self.loader(cache)
        for number, case in enumerate(self.cases):  # whoever puts a case on the device waits for it
            z, y, x = case.shape
            cache.read(number, (slice(0, z), slice(0, y), slice(0, x)))
        step(maker.make(loader.batch(0), cache.layout).batch)  # the first makes the optimizer's state
        self.wait()
        with counted_waits(self.device) as found:
            for number in range(1, steps + 1):
                step(maker.make(loader.batch(number), cache.layout).batch)
        return found


def planned(dataset: Path, folder: Path, configuration: str, patch: Sequence[int] | None, batch: int | None) -> Run:
    """A planned and preprocessed run; planned for a GPU, so that no step is timed here, to train on all cases."""
    if (folder / "plan.json").exists():
        if patch is not None or batch is not None:
            raise SystemExit(f"{folder} is planned already; leave --patch and --batch out.")
        run = Run.open(folder)
        autoseg.preprocess(run, configuration)
        return run
    name = f"configurations.{configuration}"
    overrides = [] if patch is None else [f"{name}.patch_size=[{','.join(map(str, patch))}]"]
    overrides += [] if batch is None else [f"{name}.batch_size={batch}"]
    request = autoseg.Request(device="cuda", gpu_memory_gb=11, overrides=tuple(overrides), folds=1)
    run = autoseg.plan(autoseg.Dataset.open(dataset), folder, request)
    autoseg.preprocess(run, configuration)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--patch", type=int, nargs="+", help="in place of the planned one")
    parser.add_argument("--batch", type=int, help="in place of the planned one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--readers", type=int, help="threads that read at once; as in a training on a GPU by default")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--waits", type=int, default=10, help="steps in which waits are counted; 0 leaves it out")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--config", default="3d_fullres")
    options = parser.parse_args()
    device = select_device(options.device)
    folder = options.run or Path(tempfile.mkdtemp(prefix="autoseg-benchmark-")) / "run"
    run = planned(options.dataset, folder, options.config, options.patch, options.batch)
    stage = run.plan.stage(options.config)
    if stage.input_target is not None:
        fetch_previous(run, stage)
    cases = stage_cases(run, stage, run.fold(stage, 0).training_cases)
    teacher = teacher_scores(run.fold(stage, 0))
    if teacher is not None:
        cases = [teacher.of(case) for case in cases]
        teacher.predict(run, cases, str(device))
    readers = min(available_cpus(), READING_THREADS) if options.readers is None else options.readers
    path = DataPath(stage, list(cases), device, readers)
    sizes = "×".join(map(str, (stage.configuration.batch_size, stage.in_channels, *stage.configuration.patch_size)))
    print(f"\n{describe()}; device {device}, {readers} reading threads\n{run.plan.dataset}, {sizes}\n")
    print("| cases lie in | batches a second | ms a batch | MB moved | padding | resampling and augmentation, ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for share in (1.0, 0.1):
        print(f"| {' | '.join(path.rates(share, options.batches))} |", flush=True)
    if options.waits:
        found = path.waits(options.waits)
        print(f"\nWaits in {options.waits} steps: {sum(found.values())}")
        for what, count in found.most_common():
            print(f"- {count} × {what}")


if __name__ == "__main__":
    main()
