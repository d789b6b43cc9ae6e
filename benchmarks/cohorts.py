"""Fine-tuning on a cohort that differs from the source, cross-validated: as it is, from scratch, each way of tuning.

    python benchmarks/cohorts.py SOURCE_DATASET COHORT_DATASET OUT [--judge DATASET] [--source-epochs 16] [--epochs 4]
        [--folds 2] [--tunings unfreeze norms pulled] [--seeds 0] [--source RUN] [--device auto] [--plan-for cpu]

Trains the source (on all of its cases), then on the cohort a network from scratch and one for each ``--tunings``, all
for as many steps, and prints one table: mean Dice over all cases of the cohort, each predicted by a fold that did not
see it, and by a share of the source's weights that it did not choose, or over the cases of ``--judge``, which no run
has seen, each predicted as ``autoseg predict`` does; the paired difference to the source as it is, with its 95 %
interval (Student's t below ten cases, else a bootstrap). A case's Dice is the mean over the plan's outputs. With
several seeds the values of a case are averaged first.
A way that ends in ``+harmonize`` is planned with ``--harmonize``; in ``+source-data`` with the source's cases mixed in;
in ``+first-fold`` it starts from the source's first fold and not from the best; in ``+VALUE=…`` with this value of the
recipe (``unfreeze+optimizer.learning_rate=0.004``; ``+epochs=8`` is its length); several may follow each other. What is
done in OUT is not done again, and refused where it was planned with other options; the values of all cases are left in
OUT/row.json. Lengths are epochs of the plan's
iterations, so that a busy machine changes nothing but the time. ``--plan-for cpu`` plans for a CPU what a GPU trains.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from machine import describe

import autoseg
from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train
from autoseg.crossvalidation.source_share import sources
from autoseg.evaluation.paired import paired_interval
from autoseg.evaluation.summary import Evaluation
from autoseg.inference.inputs import cases_to_predict
from autoseg.planning.carried import Carried
from autoseg.runs.run import Run
from autoseg.transfer.source import Source
from autoseg.transfer.source_cases import SourceCases
from autoseg.utils.device import Compute
from autoseg.utils.digest import file_digest
from autoseg.utils.files import read_json, write_json

#: What may follow the name of a way, beside values of the recipe.
WORDS = ("harmonize", "source-data", "first-fold")


def trained(
    dataset: Path, out: Path, request: autoseg.Request, epochs: int, folds: list[int] | None, device: str
) -> Run:
    """Plan and train, or go on where that was begun; a plan that was made with other options is refused."""
    note, asked = out / "asked.json", {"dataset": str(dataset.absolute()), "request": repr(request)}
    if not (out / "plan.json").exists():
        autoseg.plan(autoseg.Dataset.open(dataset), out, request)
        write_json(note, asked)
    elif not note.exists():
        print(f"{out}: a plan is there, and not what it was asked with; it is taken.", flush=True)
    elif read_json(note) != asked:
        raise SystemExit(f"{out} was planned with other options; give another OUT, or delete that folder.")
    run = Run.open(out)
    train(run, None, folds, Length(epochs=epochs), Compute(device), request.seed or 0)
    return run


def source_run(dataset: Path, out: Path, planned_for: str, epochs: int, device: str) -> Run:
    """A source, trained on all cases of its dataset."""
    return trained(dataset, out, autoseg.Request(device=planned_for, folds=1), epochs, None, device)


def dice(run: Run, folder: str) -> dict[str, float]:
    """Case → mean Dice of its outputs, of the predictions in a folder of each fold."""
    parts = [Evaluation.read(fold.folder / folder) for fold in run.folds(run.plan.recommended)]
    return {case: part.case_mean(case) for part in parts for case in part.cases}


def judged(run: Run, judge: Path, out: Path, device: str) -> dict[str, float]:
    """Case of ``judge`` → mean Dice of the plan's outputs, predicted by a run; anew where its weights are others."""
    stage, note = run.plan.stage(), out / "weights.json"
    weights = [run.source_choice(stage), *(file_digest(fold.weights) for fold in run.folds(stage))]
    if not note.exists() or read_json(note) != weights:
        predictor = autoseg.Predictor.load(run.path, device=device)
        failed = predictor.predict(cases_to_predict(judge, run.plan), out / "predictions").failed
        if failed:
            raise SystemExit(f"{run.path} could not predict {failed}")
        autoseg.evaluate(out / "predictions", judge, out=out / "evaluation", targets=stage.result.outputs)
        write_json(note, weights)
    found = Evaluation.read(out / "evaluation")
    return {case: found.case_mean(case) for case in found.cases}


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


def comparison(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Way → case → mean Dice; "source as it is" is the first."""

    planned_for = options.plan_for or options.device

    def request(seed: int, carried: Sequence[Carried] = (), values: Sequence[str] = ()) -> autoseg.Request:
        overrides = (*options.overrides, *values)
        return autoseg.Request(
            device=planned_for, folds=options.folds, seed=seed, carried=tuple(carried), overrides=overrides
        )

    device = options.device
    model = options.source_run
    if model is None:
        model = source_run(options.source, options.out / "source", planned_for, options.source_epochs, device).path

    def scores(run: Run) -> dict[str, float]:
        if options.judge is None:
            return dice(run, "validation")
        return judged(run, options.judge, options.out / f"judged_{run.path.name}", options.device)

    found: dict[str, dict[str, float]] = {}
    if options.judge is not None:
        found["source as it is"] = judged(Run.open(model), options.judge, options.out / "as_is", options.device)
    tuned: dict[str, dict[str, float]] = {}
    for way in options.tunings:
        name, *words = way.split("+")
        if unknown := [word for word in words if "=" not in word and word not in WORDS]:
            raise SystemExit(f"--tunings {way}: {', '.join(unknown)} is unknown; known are {', '.join(WORDS)}.")
        first_fold = 0 if "first-fold" in words else None
        source = Source(model, fold=first_fold, tuning=name, harmonize="harmonize" in words)
        carried: list[Carried] = [source]
        carried += [SourceCases(options.source)] if "source-data" in words else []
        values = dict(word.split("=", 1) for word in words if "=" in word)
        epochs = int(values.pop("epochs", options.epochs))
        recipe = [f"recipe.{key}={value}" for key, value in values.items()]
        runs = [
            trained(options.cohort, options.out / f"{way}_{seed}", request(seed, carried, recipe), epochs, None, device)
            for seed in options.seeds
        ]
        if options.judge is None:
            for title, folder in sources(runs[0].folds(runs[0].plan.recommended)[0]).items():
                found.setdefault(title, dice(runs[0], folder.name))
            if runs[0].plan.stage().recipe.initialization.keep == "auto":
                tuned[f"{way}, tuned weights alone"] = mean_of_seeds([dice(run, "shares/0") for run in runs])
        tuned[f"{way}, chosen"] = mean_of_seeds([scores(run) for run in runs])
    if not options.scratch_seeds:
        return {**found, **tuned}
    scratch = [
        scores(trained(options.cohort, options.out / f"scratch_{seed}", request(seed), options.epochs, None, device))
        for seed in options.seeds[: options.scratch_seeds]
    ]
    return {**found, "from scratch": mean_of_seeds(scratch), **tuned}


def place(text: str) -> Path:
    """A path that is the same from wherever the benchmark is run again."""
    return Path(text).absolute()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=place)
    parser.add_argument("cohort", type=place)
    parser.add_argument("out", type=place)
    parser.add_argument("--judge", type=place)
    parser.add_argument("--source", dest="source_run", type=place, help="a trained run in place of training one")
    parser.add_argument("--source-epochs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--tunings", nargs="*", default=["unfreeze", "norms", "pulled"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--scratch-seeds", type=int, default=1, help="how many of the seeds train from scratch, too")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], help="values of the cohort's plans")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plan-for", help="device that is planned for; the one that trains, where not named")
    options = parser.parse_args(arguments)
    if not options.tunings and options.judge is None:
        parser.error("--tunings needs a way, or --judge cases: it is the folds of a tuning that score the source.")
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Measure, print the table, and return way → case → mean Dice."""
    options = parse(arguments)
    found = comparison(options)
    write_json(options.out / "row.json", found)
    source = found["source as it is"]
    print(f"\n{describe()}\n{len(options.seeds)} seed(s), {options.folds} folds, {options.epochs} epochs\n")
    print("| | cases | mean Dice | to the source (95 %) |\n| --- | ---: | ---: | --- |")
    for name, values in found.items():
        print(row(name, values, source))
    return found


if __name__ == "__main__":
    main()
