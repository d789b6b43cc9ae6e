"""Fine-tuning on a cohort that differs from the source, cross-validated: as it is, from scratch, each way of tuning.

    python benchmarks/cohorts.py SOURCE_DATASET COHORT_DATASET OUT [--source-epochs 8] [--epochs 2] [--folds 2]
        [--tunings unfreeze norms pulled] [--seeds 0] [--device auto]

Trains the source (fold 0), then on the cohort a network from scratch and one for each ``--tunings``, all for as many
steps, and prints one table: mean Dice over all cases of the cohort, each predicted by a fold that did not see it, and
by a share of the source's weights that it did not choose; the paired difference to the source as it is, with its 95 %
interval (Student's t below ten cases, else a bootstrap). With several seeds the values of a case are averaged first.
What is done in OUT is not done again. Lengths are epochs of the plan's iterations, so that a busy machine changes
nothing but the time.
"""

import argparse
import statistics
from pathlib import Path

from machine import describe

import autoseg
from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train
from autoseg.evaluation.paired import paired_interval
from autoseg.evaluation.summary import Evaluation
from autoseg.runs.run import Run
from autoseg.transfer.source import Source
from autoseg.utils.device import Compute


def trained(dataset: Path, out: Path, request: autoseg.Request, epochs: int, folds: list[int] | None) -> Run:
    """Plan and train, or go on where that was begun."""
    if not (out / "plan.json").exists():
        autoseg.plan(autoseg.Dataset.open(dataset), out, request)
    run = Run.open(out)
    train(run, None, folds, Length(epochs=epochs), Compute(request.device), request.seed)
    return run


def dice(run: Run, folder: str) -> dict[str, float]:
    """Case → mean Dice of its outputs, of the predictions in a folder of each fold."""
    parts = [Evaluation.read(fold.folder / folder) for fold in run.folds(run.plan.recommended)]
    return {case: part.case_mean(case) for part in parts for case in part.cases}


def mean_of_seeds(found: list[dict[str, float]]) -> dict[str, float]:
    """Case → mean over the seeds."""
    return {case: statistics.mean(seed[case] for seed in found) for case in found[0]}


def row(name: str, values: dict[str, float], source: dict[str, float]) -> str:
    """A row of the table."""
    cells = [name, str(len(values)), f"{statistics.mean(values.values()):.3f}"]
    if values is not source:
        differences = [values[case] - source[case] for case in source]
        low, high = paired_interval(differences)
        cells.append(f"{statistics.mean(differences):+.3f} ({low:+.3f} to {high:+.3f})")
    else:
        cells.append("")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--tunings", nargs="+", default=["unfreeze", "norms", "pulled"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    def request(seed: int, *carried: Source) -> autoseg.Request:
        return autoseg.Request(device=options.device, folds=options.folds, seed=seed, carried=carried)

    first = autoseg.Request(device=options.device)
    model = trained(options.source, options.out / "source", first, options.source_epochs, [0]).path
    scratch, chosen, tuned, as_it_is = [], {}, {}, {}
    for name in options.tunings:
        runs = [
            trained(
                options.cohort,
                options.out / f"{name}_{seed}",
                request(seed, Source(model, tuning=name)),
                options.epochs,
                None,
            )
            for seed in options.seeds
        ]
        chosen[name] = mean_of_seeds([dice(run, "validation") for run in runs])
        if runs[0].plan.stage().recipe.initialization.keep == "auto":
            tuned[name] = mean_of_seeds([dice(run, "shares/0") for run in runs])
        as_it_is = dice(runs[0], "source")
    for seed in options.seeds:
        run = trained(options.cohort, options.out / f"scratch_{seed}", request(seed), options.epochs, None)
        scratch.append(dice(run, "validation"))
    print(f"\n{describe()}\n{len(options.seeds)} seed(s), {options.folds} folds, {options.epochs} epochs\n")
    print("| | cases | mean Dice | to the source (95 %) |\n| --- | ---: | ---: | --- |")
    print(row("source as it is", as_it_is, as_it_is))
    print(row("from scratch", mean_of_seeds(scratch), as_it_is))
    for name in options.tunings:
        if name in tuned:
            print(row(f"{name}, tuned weights alone", tuned[name], as_it_is))
        print(row(f"{name}, chosen", chosen[name], as_it_is))


if __name__ == "__main__":
    main()
