"""A model from one hospital on the patients of another, before and after transfer learning: table 3 of Rahimpour et al.

    python examples/rahimpour_table3.py BRATS COHORT OUT [--fold 0] [--max-time 20s] [--device auto]

BRATS is a labelled dataset, COHORT one whose cases two radiologists have annotated (a label map each), OUT a folder for
everything this makes. For each task and its combinations of sequences (section 3.3) the full-image U-Net is trained on
BRATS, on one fold; it segments 19 of 37 cases of COHORT as it is, then all of its layers are fine-tuned on the other 18
(section 2.6), and it segments the 19 again: one network each time, no ensemble. Both are scored against each
radiologist, beside the agreement of the two, and compared by Wilcoxon's signed-rank test. Another cohort is divided by
the same share. Without ``--max-time`` trainings are as long as their plans say.

In minutes, on phantoms of two hospitals:

    autoseg demo --data-only --cases 20 --out HERE
    autoseg demo --data-only --cases 12 --out THERE --raters 2 --seed 5 --look contrast=1.4 --look bias=0.3
    python examples/rahimpour_table3.py HERE/dataset THERE/dataset OUT --max-time 20s
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import autoseg
from autoseg.evaluation.agreement_folders import dice_agreement
from autoseg.evaluation.cases import Structure, evaluate_pairs
from autoseg.evaluation.folders import dataset_structures
from autoseg.evaluation.paired import signed_rank
from autoseg.utils.durations import parse_duration
from autoseg.utils.errors import AutosegError

#: Task → combinations of sequences, in the order of the table.
ROWS = {
    "whole_tumor": ("t1", "t2", "flair", "t1+t2", "t1+flair", "t2+flair", "t1+t2+flair"),
    "tumor_core": ("t1", "t1c", "t1+t1c"),
}

#: Share of the cohort that is tested on: 19 of 37.
TESTED = 19 / 37

#: How the paper calls them.
NAMES = {
    "t1": "T1w",
    "t1c": "T1ce",
    "t2": "T2w",
    "flair": "FLAIR",
    "whole_tumor": "Whole tumor",
    "tumor_core": "Tumor core",
}


@dataclass(frozen=True)
class Study:
    """What is the same for all rows.

    Attributes:
        here: to train on first.
        there: the cohort.
        out: folder.
        length: of each training.
        fold: of the first training, whose network segments as it is and is tuned.
        device: to compute on.
    """

    here: autoseg.Dataset
    there: autoseg.Dataset
    out: Path
    length: autoseg.Length
    fold: int
    device: str

    @property
    def structures(self) -> dict[str, Structure]:
        """The cohort's regions and labels by name."""
        return {structure.name: structure for structure in dataset_structures(self.there)}

    def row(self, task: str, sequences: str) -> tuple[list[str], dict[str, dict[str, dict[str, float]]]]:
        """Test cases, and ``before`` and ``after`` → radiologist → case → Dice."""
        channels, folder = tuple(sequences.split("+")), self.out / f"{task}_{sequences}"
        compute = autoseg.Compute(self.device)
        request = autoseg.Request("fullimage_unet", self.device, channels=channels, regions=(task,))
        source = autoseg.plan(self.here, folder / "source", request)
        autoseg.train(source, folds=[self.fold], length=self.length, compute=compute)
        carried = (autoseg.Source(source.path, fold=self.fold, tuning="all"),)
        tuned = autoseg.plan(
            self.there,
            folder / "tuned",
            autoseg.Request(
                device=self.device, channels=channels, regions=(task,), folds=1, carried=carried, test_share=TESTED
            ),
        )
        autoseg.train(tuned, length=self.length, compute=compute)
        cases = tuned.test_cases
        predictor = autoseg.Predictor.load(source.path, folds=[self.fold], device=self.device)
        predictor.predict([self.there.case(case) for case in cases], folder / "as_it_is")
        after = tuned.test(tuned.plan.stage())
        return cases, {
            "before": self.scored(folder / "as_it_is", cases, task),
            "after": self.scored(after, cases, task),
        }

    def scored(self, folder: Path, cases: Sequence[str], task: str) -> dict[str, dict[str, float]]:
        """Radiologist → case → Dice of the label maps in a folder."""
        found: dict[str, dict[str, float]] = {}
        for name in self.radiologists:
            pairs = [
                (case, next(folder.glob(f"{case}.*")), self.there.case(case).raters[name])
                for case in cases
                if name in self.there.case(case).raters
            ]
            evaluation = evaluate_pairs(pairs, [self.structures[task]])
            found[name] = {row.case: row.values["dice"] for row in evaluation.rows}
        return found

    @property
    def radiologists(self) -> list[str]:
        """Names of the two."""
        names = list(dict.fromkeys(name for case in self.there.cases for name in case.raters))
        if len(names) != 2:
            raise AutosegError(f"{self.there.root} names {len(names)} radiologists; the table has two.")
        return names

    def agreement(self, cases: Sequence[str], task: str) -> dict[str, float]:
        """Case → Dice of the two radiologists with each other."""
        maps = {name: {case: self.there.case(case).raters[name] for case in cases} for name in self.radiologists}
        found = dice_agreement(maps, {}, [self.structures[task]], self.there.ignore_label)
        return found.between_raters(task)


def shown(values: Mapping[str, float]) -> str:
    """Average ± standard deviation in %, as the paper prints it."""
    known = 100 * np.array([value for value in values.values() if not np.isnan(value)])
    return f"{known.mean():.2f} ± {known.std(ddof=1):.2f}" if len(known) > 1 else f"{known.mean():.2f}"


def p_value(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Of Wilcoxon's signed-rank test on the cases of both."""
    differences = np.array([first[case] - second[case] for case in first if case in second])
    return signed_rank(differences[~np.isnan(differences)])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("here", type=Path)
    parser.add_argument("there", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-time", help="time for each training")
    parser.add_argument("--fold", type=int, default=0, help="fold of the first training, which is tuned; 0 by default")
    parser.add_argument("--rows", default="", help="some of the rows: whole_tumor:flair,tumor_core:t1+t1c")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    length = autoseg.Length(seconds=parse_duration(options.max_time) if options.max_time else None)
    here, there = autoseg.Dataset.open(options.here), autoseg.Dataset.open(options.there)
    study = Study(here, there, options.out, length, options.fold, options.device)
    wanted = [(task, sequences) for task, several in ROWS.items() for sequences in several]
    if options.rows:
        wanted = [(task, sequences) for task, _, sequences in (row.partition(":") for row in options.rows.split(","))]

    names = study.radiologists
    rows, agreed = {}, {}
    for task, sequences in wanted:
        cases, rows[task, sequences] = study.row(task, sequences)
        agreed[task] = study.agreement(cases, task)

    console = Console(highlight=False, width=110)
    for when, title in (("before", "a. No transfer learning"), ("after", "b. Transfer learning")):
        table = Table("Segmentation task", "MRI sequence", *names, title=f"{title}: DSC (%)", title_justify="left")
        for (task, sequences), found in rows.items():
            cells = []
            for name in names:
                better = np.nanmean(list(found["after"][name].values())) > np.nanmean(
                    list(found["before"][name].values())
                )
                bold = when == "after" and better and p_value(found["after"][name], found["before"][name]) < 0.05
                cells.append(f"[bold]{shown(found[when][name])}[/bold]" if bold else shown(found[when][name]))
            label = " + ".join(NAMES.get(part, part) for part in sequences.split("+"))
            table.add_row(NAMES.get(task, task), label, *cells)
        console.print(table)
    console.print("Bold: better than without transfer learning (Wilcoxon's signed-rank test, p < 0.05).")
    for task, values in agreed.items():
        console.print(
            f"{NAMES.get(task, task)}: {names[0]} and {names[1]} agree to {shown(values)} % over {len(values)} cases."
        )
        for when in ("before", "after"):
            ps = [p_value(*(found[when][name] for name in names)) for (of, _), found in rows.items() if of == task]
            told = ", ".join(f"{p:.3f}" for p in ps)
            console.print(
                f"  {names[0]} against {names[1]} as the truth, {when} transfer learning, row by row: p = {told}."
            )


if __name__ == "__main__":
    try:
        main()
    except AutosegError as error:
        sys.exit(f"error: {error}")
