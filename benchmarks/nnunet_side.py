"""Run by ``against_nnunet.py`` in nnU-Net's environment: nnU-Net's own trainer and loop, with notes of the time.

    PYTHON nnunet_side.py REQUEST

REQUEST is a JSON file: ``preprocessed`` (the dataset's folder), ``configuration``, ``fold`` (a number or ``all``),
``device``, ``epochs``, ``iterations`` (an epoch), ``validation_iterations``, ``minutes`` (0: no limit), ``validate``
(predict the fold's validation cases at the end) and ``events``, a file that gets one line of JSON for each epoch: when
its training iterations began and ended, how many there were, the network's parameters and the epoch's own Dice. An
option that is None keeps nnU-Net's default.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as Original


class TimeIsUp(Exception):
    """The minutes that were asked for are over."""


class nnUNetTrainer(Original):
    """nnU-Net's trainer, that notes when epochs begin and end.

    Its name goes into folders and checkpoints, where nnU-Net looks it up. It keeps the constructor of nnU-Net, which
    notes its own arguments.
    """

    events = Path()
    limit = deadline = float("inf")
    began = ended = 0.0
    done = 0

    def prepare(self, request: dict[str, Any]) -> None:
        """Take what is asked for; before anything is built."""
        self.events = Path(request["events"])
        self.limit = 60 * request["minutes"] if request["minutes"] else float("inf")
        for name, key in (
            ("num_epochs", "epochs"),
            ("num_iterations_per_epoch", "iterations"),
            ("num_val_iterations_per_epoch", "validation_iterations"),
        ):
            if request[key] is not None:
                setattr(self, name, request[key])

    def on_train_start(self) -> None:
        super().on_train_start()
        self.deadline = time.time() + self.limit

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.done = 0
        self.began = time.time()

    def train_step(self, batch: dict) -> dict:
        if time.time() > self.deadline:
            raise TimeIsUp
        result = super().train_step(batch)
        self.done += 1
        return result

    def on_train_epoch_end(self, train_outputs: list) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.ended = time.time()
        super().on_train_epoch_end(train_outputs)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self.note({"dice": float(self.logger.get_value("mean_fg_dice", step=-1))})

    def note(self, more: dict[str, object]) -> None:
        """Add a line to the events."""
        parameters = sum(p.numel() for p in self.network.parameters())
        line = {"start": self.began, "end": self.ended, "iterations": self.done, "parameters": parameters, **more}
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    device = torch.device(request["device"])
    # As nnUNetv2_train sets them, but that on a CPU only the cores count that the process may use.
    torch.set_num_threads(len(os.sched_getaffinity(0)) if device.type == "cpu" else 1)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    folder = Path(request["preprocessed"])
    plans = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
    plans["continue_training"] = False
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    fold = "all" if request["fold"] == "all" else int(request["fold"])
    trainer = nnUNetTrainer(plans, request["configuration"], fold, description, device)
    trainer.prepare(request)
    try:
        trainer.run_training()
    except TimeIsUp:
        trainer.ended = time.time()
        trainer.note({"stopped": True})
        trainer.on_train_end()
    if request["validate"]:
        trainer.perform_actual_validation()


if __name__ == "__main__":
    main()
