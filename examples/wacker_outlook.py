"""All four sequences with pretrained encoders of three channels: the outlook of Wacker et al. (section VI-A).

    python examples/wacker_outlook.py BRATS OUT [--weights imagenet] [--folds 1] [--max-time 20s] [--device auto]

An encoder from photographs has three input channels, BraTS has four sequences. So one AlbuNet3D is trained on each of
the four subsets of three sequences; together they segment a hold-out 20 % of the cases, their probabilities averaged.
The table has each network alone and all four together. Without ``--weights imagenet`` (which timm downloads; extra
``pretrained``) encoders start at random. Predict other scans with all four:

    autoseg predict OUT/t1c+t2+flair OUT/t1+t2+flair OUT/t1+t1c+flair OUT/t1+t1c+t2 SCANS --out RESULTS
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

import autoseg
from autoseg.evaluation.cases import evaluate_pairs
from autoseg.evaluation.folders import dataset_structures
from autoseg.utils.durations import parse_duration
from autoseg.utils.errors import AutosegError

#: The four subsets, each without one of T1, T1c, T2 and FLAIR.
SUBSETS = (("t1c", "t2", "flair"), ("t1", "t2", "flair"), ("t1", "t1c", "flair"), ("t1", "t1c", "t2"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default="", help="imagenet, or a file")
    parser.add_argument("--max-time", help="time for each training; the plan's length by default")
    parser.add_argument("--folds", type=int, default=5, help="number of folds; 1 trains on all but the test cases")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    length = autoseg.Length(seconds=parse_duration(options.max_time) if options.max_time else None)
    dataset = autoseg.Dataset.open(options.dataset)
    carried = (autoseg.InitialWeights(options.weights),) if options.weights else ()

    runs = []
    for channels in SUBSETS:
        request = autoseg.Request(
            "albunet3d", options.device, channels=channels, folds=options.folds, test_share=0.2, carried=carried
        )
        run = autoseg.plan(dataset, options.out / "+".join(channels), request)
        autoseg.train(run, length=length, compute=autoseg.Compute(options.device))
        runs.append(run)

    # The same seed: all four hold out the same cases.
    cases = [dataset.case(name) for name in runs[0].test_cases]
    together = options.out / "together"
    predictor = autoseg.Predictor.load([run.path for run in runs], device=options.device)
    if failed := predictor.predict(cases, together).failed:
        raise AutosegError("; ".join(f"{case}: {reason}" for case, reason in failed.items()))

    # The paper's regions where the dataset has them, as all its tables.
    structures = [one for one in dataset_structures(dataset) if not dataset.regions or one.name in dataset.regions]
    console = Console(highlight=False, width=100)
    folders = {f"{run.path.name} alone": run.test(run.plan.stage()) for run in runs}
    for name, folder in {**folders, "All four together": together}.items():
        pairs = [(case.id, next(folder.glob(f"{case.id}.*")), case.label) for case in cases if case.label is not None]
        evaluation = evaluate_pairs(pairs, structures, together if folder == together else None)
        console.print(evaluation.table(f"{name}: {len(pairs)} test cases"))


if __name__ == "__main__":
    try:
        main()
    except AutosegError as error:
        sys.exit(f"error: {error}")
