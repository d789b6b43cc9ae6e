"""What training for missing sequences, and a teacher with all of them, are worth on generated heads.

    python benchmarks/fewer_sequences.py OUT [--epochs 3] [--device auto]

24 heads of four sequences to train on and 12 others that judge. A small network for as many steps each: without and
with ``recipe.channel_dropout``, both evaluated with every subset of the sequences; and given t2 alone, without and with
a teacher that was given all. Every command is printed before it is run; what is in OUT already is not made again.
"""

import argparse
from pathlib import Path

from commands import autoseg
from machine import describe

from autoseg.data.phantom import Cohort, generate

#: A small network for patches of 48×56×48 voxels, the same on every machine.
NETWORK = (
    'network={"features": [12, 24, 48, 96], "strides": [[1,1,1],[2,2,2],[2,2,2],[2,2,2]], "kernel_sizes": '
    '[[3,3,3],[3,3,3],[3,3,3],[3,3,3]], "encoder_blocks": [2,2,2,2], "decoder_convs": [2,2,2]}'
)
SHAPE, SPACING = (48, 56, 48), (3.0, 3.0, 3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    print(describe(), flush=True)
    out, device = options.out, ("--device", options.device)
    heads, judging = out / "heads", out / "judging"
    if not heads.exists():
        generate(heads, Cohort(cases=24, shape=SHAPE, spacing=SPACING))
        generate(judging, Cohort(cases=12, shape=SHAPE, spacing=SPACING, seed=100))

    def trained(name: str, *plan: object) -> Path:
        run = out / name
        if not (run / "plan.json").exists():
            autoseg("plan", heads, "--out", run, "--folds", 1, "--set", NETWORK, *device, *plan)
        autoseg("train", run, "--epochs", options.epochs, *device)
        return run

    plain = trained("plain", "--set", "allow_missing_channels=true")
    dropping = trained("dropping", "--set", "recipe.channel_dropout=0.2")
    for run in (plain, dropping):
        autoseg(
            "evaluate", run, judging, "--channel-subsets", "--no-tta", "--out", out / f"{run.name}_subsets", *device
        )
    alone = trained("t2_alone", "--channels", "t2")
    taught = trained("t2_taught", "--channels", "t2", "--teacher", plain)
    for run in (alone, taught, plain):
        autoseg("predict", run, judging, "--all", "--no-tta", "--out", out / f"{run.name}_predictions", *device)
        autoseg("evaluate", out / f"{run.name}_predictions", judging, "--out", out / f"{run.name}_evaluation")
    autoseg("compare", *(out / f"{run.name}_evaluation" for run in (alone, taught, plain)))


if __name__ == "__main__":
    main()
