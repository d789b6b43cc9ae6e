"""A model trained elsewhere, on a cohort of one's own: as it is, fine-tuned, and against training from scratch.

    python examples/in_house_transfer.py SOURCE COHORT OUT [--test TEST] [--max-time 30m] [--tuning WAY] [--device auto]

SOURCE is a trained run folder, COHORT a labelled dataset in any layout, OUT a folder for everything this makes. With
``--test``, all of COHORT is trained on and TEST, another labelled dataset, judges; without, COHORT is cross-validated,
each case judged by a model that was not trained on it. Both trainings get the same time (``--max-time``, a fold). At
the end stands one table with Wilcoxon's signed-rank test, as in table 3 of Rahimpour et al., who found fine-tuning
significantly better than training from scratch on a small cohort (section 4); the same again later:

    autoseg compare fine_tuned=OUT/fine_tuned scratch=OUT/scratch as_is=OUT/as_is/evaluation
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

import autoseg
from autoseg.utils.durations import parse_duration
from autoseg.utils.errors import AutosegError


def judge(run: Path, test: Path, out: Path, device: str) -> Path:
    """Predict the labelled cases of a dataset and evaluate them; the folder with the figures."""
    opened = autoseg.Run.open(run)
    cases = autoseg.cases_to_predict(test, opened.plan, everything=True, like=opened.dataset)
    autoseg.Predictor.load(run, device=device).predict([case for case in cases if case.label], out / "predictions")
    autoseg.evaluate(out / "predictions", test, out=out / "evaluation")
    return out / "evaluation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--max-time", default="30m")
    parser.add_argument("--tuning", default="", help="as autoseg plan --tuning; its default if empty")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    out, folds = options.out, 1 if options.test else None
    seconds = parse_duration(options.max_time)
    cohort = autoseg.Dataset.open(options.cohort)

    # 1. As it is: what the model makes of the cohort without having seen any of it.
    compared: dict[str, Path] = {}
    try:
        compared["as_is"] = judge(options.source, options.test or options.cohort, out / "as_is", options.device)
    except AutosegError as error:  # other channels or labels: only fine-tuning can bridge that
        print(f"as it is: not possible. {error}")

    # 2. From scratch, and 3. fine-tuned: the same cases, the same time.
    source = autoseg.Source(options.source, tuning=options.tuning)
    for name, carried in (("scratch", ()), ("fine_tuned", (source,))):
        request = autoseg.Request(device=options.device, folds=folds, carried=carried)
        run = autoseg.plan(cohort, out / name, request)
        autoseg.train(run, length=autoseg.Length(seconds=seconds), compute=autoseg.Compute(options.device))
        judged = options.test and judge(run.path, options.test, out / name / "judged", options.device)
        compared[name] = judged or run.path

    # 4. One table.
    comparison = autoseg.compare(compared, baseline="fine_tuned")
    Console(highlight=False, width=120).print(comparison.table())
    for verdict in comparison.verdicts():
        print(verdict)


if __name__ == "__main__":
    try:
        main()
    except AutosegError as error:
        sys.exit(f"error: {error}")
