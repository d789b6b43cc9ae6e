"""nnU-Net and autoseg on the same raw data, with the same network, patch and batch: their folders and commands."""

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg_side import CHOSEN
from commands import AUTOSEG
from environments import Environment
from metering import Metered, Usage
from raw_dataset import write_raw

from autoseg.data.dataset import Dataset
from autoseg.runs.run import Run
from autoseg.utils.files import write_json
from autoseg.utils.parallel import available_cpus

CONFIGURATION = "3d_fullres"

#: Fingerprint, plan and preprocessing in one process, as nnUNetv2_plan_and_preprocess does them; planned for a GPU of
#: 8 GB, nnU-Net's own target, so that the planner does not time steps here.
PREPARE = """
import sys, autoseg
if __name__ == "__main__":
    request = autoseg.Request(device="cuda", gpu_memory_gb=8, workers=int(sys.argv[3]))
    run = autoseg.plan(autoseg.Dataset.open(sys.argv[1]), sys.argv[2], request)
    autoseg.preprocess(run, "3d_fullres", workers=int(sys.argv[3]))
"""


@dataclass(frozen=True)
class Shape:
    """What is changed in nnU-Net's plan, for both tools: None keeps it."""

    patch: Sequence[int] | None = None
    batch: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Bench:
    """Where a comparison works.

    Attributes:
        scratch: folder of everything that is made.
        name: of the dataset, as nnU-Net names it (``Dataset901_…``).
        nnunet: its environment.
        device: cpu or cuda.
        shape: changes to nnU-Net's plan.
    """

    scratch: Path
    name: str
    nnunet: Environment
    device: str
    shape: Shape

    @classmethod
    def of(cls, dataset: Path, scratch: Path, nnunet: Environment, device: str, shape: Shape) -> "Bench":
        """Write the raw data, unless that is done."""
        opened = Dataset.open(dataset)
        label = "".join(letter for letter in opened.name.title() if letter.isalnum()) or "Data"
        bench = cls(scratch, f"Dataset901_{label}", nnunet, device, shape)
        if not (bench.raw / "dataset.json").exists():
            write_raw(opened, bench.raw)
        return bench

    @property
    def title(self) -> str:
        return self.name.partition("_")[2]

    @property
    def raw(self) -> Path:
        return self.scratch / "raw" / self.name

    @property
    def test_images(self) -> Path:
        return self.raw / "imagesTs"

    @property
    def test_labels(self) -> Path:
        return self.raw / "labelsTs"

    @property
    def preprocessed(self) -> Path:
        return self.scratch / "preprocessed" / self.name

    @property
    def model(self) -> Path:
        """The folder of nnU-Net's model."""
        return self.scratch / "results" / self.name / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"

    def theirs(
        self, command: Sequence[str], log: str, cores: int = 0, variables: Mapping[str, str] | None = None
    ) -> Metered:
        """Run a command of nnU-Net's environment."""
        folders = {
            "nnUNet_raw": str(self.scratch / "raw"),
            "nnUNet_preprocessed": str(self.scratch / "preprocessed"),
            "nnUNet_results": str(self.scratch / "results"),
            "nnUNet_n_proc_DA": str(min(12, cores or available_cpus())),
        }
        environment = {**folders, **self.nnunet.variables, **(variables or {})}
        return Metered(command, self.scratch / "logs" / f"nnunet_{log}.log", cores, environment)

    def ours(self, arguments: Sequence[object], log: str, cores: int = 0) -> Metered:
        """Run a command of autoseg."""
        return Metered([*AUTOSEG, *map(str, arguments)], self.scratch / "logs" / f"autoseg_{log}.log", cores)

    def prepare_theirs(self, cores: int = 0, folder: Path | None = None) -> Metered:
        """nnU-Net's fingerprint, plan and preprocessing, into a folder of its own where one is given."""
        processes = cores or available_cpus()
        command = self.nnunet.command(
            "nnUNetv2_plan_and_preprocess", "-d", 901, "-c", CONFIGURATION, "-npfp", processes, "-np", processes
        )
        changed = {} if folder is None else {"nnUNet_preprocessed": str(folder)}
        return self.theirs(command, "prepare", cores, changed)

    def prepare_ours(self, run: Path, cores: int = 0) -> Metered:
        """autoseg's fingerprint, plan and preprocessing, in one process."""
        command = [sys.executable, "-c", PREPARE, str(self.raw), str(run), str(cores or available_cpus())]
        return Metered(command, self.scratch / "logs" / "autoseg_prepare.log", cores)

    def plan_theirs(self) -> dict[str, Any]:
        """nnU-Net's plan of the configuration, made and changed as asked; the data are preprocessed."""
        file = self.preprocessed / "nnUNetPlans.json"
        if not file.exists():
            print("nnU-Net plans and preprocesses …", flush=True)
            self.prepare_theirs()
        plans = json.loads(file.read_text(encoding="utf-8"))
        found = plans["configurations"][CONFIGURATION]
        if self.shape.patch is not None:
            found["patch_size"] = list(self.shape.patch)
        if self.shape.batch is not None:
            found["batch_size"] = self.shape.batch
        if self.shape.width is not None:
            sizes = found["architecture"]["arch_kwargs"]["features_per_stage"]
            found["architecture"]["arch_kwargs"]["features_per_stage"] = [
                min(self.shape.width * 2**stage, 320) for stage in range(len(sizes))
            ]
        write_json(file, plans)
        return {**found, "axes": plans["transpose_forward"]}

    def same_plan(self) -> dict[str, Any]:
        """nnU-Net's patch, batch, spacing and network in autoseg's words and order of axes."""
        theirs = self.plan_theirs()
        back = [theirs["axes"].index(axis) for axis in range(3)]
        settings = theirs["architecture"]["arch_kwargs"]

        def ordered(values: Sequence[Any]) -> list[Any]:
            return [values[place] for place in back]

        network = {
            "family": "resenc" if "Residual" in theirs["architecture"]["network_class_name"] else "unet",
            "features": settings["features_per_stage"],
            "strides": [ordered(stride) for stride in settings["strides"]],
            "kernel_sizes": [ordered(kernel) for kernel in settings["kernel_sizes"]],
            "encoder_blocks": settings.get("n_conv_per_stage") or settings["n_blocks_per_stage"],
            "decoder_convs": settings["n_conv_per_stage_decoder"],
        }
        return {
            "network": network,
            "patch_size": ordered(theirs["patch_size"]),
            "batch_size": theirs["batch_size"],
            "spacing": ordered(theirs["spacing"]),
        }

    def plan_ours(self, iterations: int) -> Run:
        """A run folder with nnU-Net's network, patch and batch, that trains on all cases."""
        out = self.scratch / "run_same"
        command: list[object] = ["plan", self.raw, "--out", out, "--device", self.device, "--gpu-memory", 8]
        for key, value in self.same_plan().items():
            command += ["--set", f"configurations.{CONFIGURATION}.{key}={json.dumps(value)}"]
        command += ["--set", f"recipe.iterations_per_epoch={iterations}", "--folds", 1]
        self.ours(command, "plan")
        return Run.open(out)

    def describe(self) -> str:
        """Batch, channels, patch and width: ``9×1×40×56×40, width 32``."""
        plan = self.same_plan()
        channels = len(json.loads((self.raw / "dataset.json").read_text(encoding="utf-8"))["channel_names"])
        sizes = "×".join(map(str, (plan["batch_size"], channels, *plan["patch_size"])))
        features = plan["network"]["features"]
        return f"{self.title} {sizes}, {len(features)} stages from {features[0]}"


@dataclass(frozen=True)
class TrainingLength:
    """Epochs, of which the first is not counted, and iterations in each."""

    epochs: int
    iterations: int


def train_theirs(bench: Bench, length: TrainingLength, cores: int = 0) -> tuple[Usage, int, int]:
    """nnU-Net's own loop: usage of the iterations after the first epoch, their number, the network's parameters."""
    events = bench.scratch / "events.jsonl"
    asked = {
        "epochs": length.epochs,
        "iterations": length.iterations,
        "validation_iterations": 1,
        "fold": "all",
        "minutes": 0,
        "validate": False,
    }
    done = side(bench, asked, events, "train", cores)
    rows = read_events(events)
    return (*counted(done, rows), rows[0]["parameters"])


def side(bench: Bench, asked: dict[str, Any], events: Path, log: str, cores: int = 0) -> Metered:
    """Run nnU-Net's trainer by ``nnunet_side.py``; what it notes lies in ``events``."""
    events.unlink(missing_ok=True)
    request = bench.scratch / "nnunet_request.json"
    whole = {**asked, "preprocessed": str(bench.preprocessed), "configuration": CONFIGURATION, "device": bench.device}
    write_json(request, {**whole, "events": str(events)})
    program = Path(__file__).with_name("nnunet_side.py")
    return bench.theirs([str(bench.nnunet.python), str(program), str(request)], log, cores)


def read_events(events: Path) -> list[dict[str, Any]]:
    """The lines that a side wrote, an epoch each."""
    return [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]


def counted(done: Metered, rows: Sequence[dict[str, Any]]) -> tuple[Usage, int]:
    """Usage of all epochs but the first, and the iterations in them."""
    counted = rows[1:]
    return joined([done.usage(row["start"], row["end"]) for row in counted]), sum(r["iterations"] for r in counted)


def joined(parts: Sequence[Usage]) -> Usage:
    """Several stretches as one."""
    seconds = sum(part.seconds for part in parts)
    busy = [part.gpu_busy * part.seconds for part in parts if part.gpu_busy is not None]
    memory = [part.gpu_memory for part in parts if part.gpu_memory is not None]
    return Usage(
        seconds,
        sum(part.cpu for part in parts),
        max(part.memory for part in parts),
        sum(busy) / seconds if busy else None,
        max(memory) if memory else None,
    )


class _RowTimes(threading.Thread):
    """Notes when each row of a history was written."""

    def __init__(self, history: Path) -> None:
        super().__init__(daemon=True)
        self.history, self.times = history, list[float]()
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.02):
            if self.history.exists():
                rows = len(self.history.read_text(encoding="utf-8").splitlines()) - 1
                self.times += [self.history.stat().st_mtime] * (rows - len(self.times))


def train_ours(bench: Bench, run: Run, length: TrainingLength, cores: int = 0) -> tuple[Usage, int]:
    """autoseg's own loop: usage of the iterations after the first epoch, and their number.

    The step is computed as in a training of usual length (``autoseg_side.py``).
    """
    fold = run.fold(CONFIGURATION, 0)
    fold.history.unlink(missing_ok=True)
    watch = _RowTimes(fold.history)
    iterations = str(length.epochs * length.iterations)
    program, log = Path(__file__).with_name("autoseg_side.py"), bench.scratch / "logs" / "autoseg_train.log"
    command = [sys.executable, str(program), str(run.path), CONFIGURATION, iterations, bench.device]
    done = Metered(command, log, cores)
    print(next(line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith(CHOSEN)), flush=True)
    time.sleep(0.1)
    watch.over.set()
    watch.join()
    rows = [line.split(",") for line in fold.history.read_text(encoding="utf-8").splitlines()]
    iteration, seconds = rows[0].index("iteration"), rows[0].index("seconds")
    first, last = rows[1], rows[-1]
    if len(watch.times) != len(rows) - 1:
        raise SystemExit(f"{fold.history} was not followed row by row; take more --iterations.")
    usage = done.usage(watch.times[0], watch.times[-1])
    exact = float(last[seconds]) - float(first[seconds])
    return replace(usage, seconds=exact), int(last[iteration]) - int(first[iteration])
