"""Run by ``against_nnunet.py``: autoseg's own training loop, its step computed as in a training of usual length.

    python autoseg_side.py RUN CONFIGURATION ITERATIONS DEVICE

Fold 0 of RUN is trained anew for ITERATIONS; its history says when each epoch ended. Which way to compute the step is
fastest is measured first, as before nnU-Net's 250,000 steps, and kept for the next time: before a few iterations there
is no time for it, and a guess would be compared.
"""

import sys

import torch
from training_loop import USUAL_STEPS

import autoseg
from autoseg.crossvalidation.cascades import stage_cases
from autoseg.runs.run import Run
from autoseg.step.setup import StepSetup
from autoseg.step.tune import Extent, choose_variant
from autoseg.training.loop import train_fold
from autoseg.training.training import Budget, Cases, TrainingSettings
from autoseg.utils.device import keep_large_blocks, select_device
from autoseg.utils.parallel import available_cpus

#: What the line begins with that says how the step is computed.
CHOSEN = "computing in"


def main() -> None:
    path, configuration, iterations, name = sys.argv[1:]
    device = select_device(name)
    if device.type == "cpu":
        keep_large_blocks()
        torch.set_num_threads(available_cpus())
    run = Run.open(path)
    autoseg.preprocess(run, configuration)
    stage = run.plan.stage(configuration)
    choice = choose_variant(StepSetup.of(stage), device, Extent(steps=USUAL_STEPS))
    print(f"{CHOSEN} {choice.reason}", flush=True)
    fold = run.fold(stage, 0)
    cases = Cases(stage_cases(run, stage, fold.training_cases))
    settings = TrainingSettings(device, resume=False, variant=choice.variant)
    train_fold(fold, cases, Budget(iterations=int(iterations)), settings)


if __name__ == "__main__":
    main()
