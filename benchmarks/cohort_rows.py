"""Fine-tuning on cohorts that differ from the source in known ways: a table of rows, and a picture over their size.

    python benchmarks/cohort_rows.py OUT [--data DIR] [--rows contrast:3 contrast:10 …] [--seeds 0 1 2]
        [--tunings augmented] [--screening] [--picture FILE] [--epochs 4] [--source-epochs 16]

Rows, each a kind and the number of cases of the cohort:

- ``contrast:N``, ``resolution:N``: generated heads; the cohort's scanner has another contrast and more noise, or thick
  slices; 12 further heads of it judge. The gap is refused unless the source's Dice on those is 0.1 to 0.3 less than on
  the same heads as its own scanner sees them. ``own:N`` has no gap: what more training on new heads gains alone;
- ``hippocampus:N``: Medical Segmentation Decathlon, task 4 (DIR/hippocampus): scans stored as floats are the source,
  N of those stored as 8-bit integers the cohort, those after the twentieth judge;
- ``sarcoma:N``: T1 of soft-tissue sarcomas (DIR/sarcoma with ge, siemens, philips): 14 of one maker's scanners are the
  source, N of the two others the cohort, each scored once, two in each fold.

``--screening`` is for choosing among ways of tuning, on cases that no row reports: generated heads of another seed,
each judged by a fold that did not see it, and the hippocampi and the sarcomas with the sites reversed, judged by 40 and
by the other scans of that site.

Every row is what ``cohorts.py`` measures: the source as it is, from scratch, and each way of tuning with what was
chosen. What is done in OUT is not done again. At the end: the mean of the differences over all rows, with a bootstrap
interval that draws rows, then cases in them.
"""

import argparse
import csv
import statistics
from dataclasses import asdict
from pathlib import Path

import cohorts
import matplotlib as mpl
import numpy as np
from machine import describe
from transfer_hippocampus import is_float, write_dataset

from autoseg.data.dataset import Case, Dataset
from autoseg.data.phantom import Cohort, Look, generate
from autoseg.runs.run import Run
from autoseg.utils.digest import digest

#: Kind of gap between generated heads → how the cohort's scanner differs; set by what the source loses alone.
LOOKS = {"contrast": Look(contrast=0.5, noise=0.06), "resolution": Look(thickness=9, noise=0.06), "own": Look()}

#: What the source must lose by a gap, in Dice.
LOSES = (0.1, 0.3)

#: Heads of the source, and heads that judge.
HEADS, JUDGES = 12, 12

#: Of the hippocampi of the second site, those from here on judge.
HIPPOCAMPI = 20

#: Of those of the first site, so many judge where the sites are reversed.
REVERSED_JUDGES = 40

#: Seed of the cohort's heads when ways of tuning are screened.
SCREENING_SEED = 17


def phantoms(kind: str, cases: int, out: Path, screening: bool) -> list[Path]:
    """Datasets of the source, the cohort and, unless ways are screened, those that judge."""
    source = heads("source_heads", Cohort(cases=HEADS, seed=1), out)
    if screening:
        cohort = Cohort(cases=cases, look=LOOKS[kind], seed=SCREENING_SEED)
        return [source, heads(f"screened_{kind}_{cases}", cohort, out)]
    return [source, heads(f"{kind}_{cases}", Cohort(cases=cases, look=LOOKS[kind], seed=7), out), judges(kind, out)]


def judges(kind: str, out: Path) -> Path:
    """Heads that judge: as the cohort's scanner sees them, or as the source's own, where ``kind`` is no gap."""
    return heads(f"{kind}_judge", Cohort(cases=JUDGES, look=LOOKS[kind], seed=8), out)


def heads(name: str, cohort: Cohort, out: Path) -> Path:
    """A dataset of generated heads; its name tells apart what is generated in another way."""
    folder = out / "data" / f"{name}_{digest(asdict(cohort))}"
    if not folder.exists():
        generate(folder, cohort)
    return folder


def refuse_no_gap(kind: str, source: Run, out: Path, device: str) -> None:
    """End here unless the gap costs the source what it is meant to (:data:`LOSES`)."""
    own, other = (
        statistics.mean(cohorts.judged(source, judges(name, out), out / f"source_on_{name}", device).values())
        for name in ("own", kind)
    )
    print(f"the source on its own scanner's heads {own:.3f}, with the gap of {kind} {other:.3f} ({other - own:+.3f})")
    if not LOSES[0] <= own - other <= LOSES[1]:
        raise SystemExit(f"That is no gap of {LOSES[0]} to {LOSES[1]}; change LOOKS.")


def hippocampus(data: Path, cases: int, out: Path, screening: bool) -> list[Path]:
    """The same, of the hippocampus by site; screened the other way round."""
    dataset = Dataset.open(data / "hippocampus")
    public = [case for case in dataset.cases if is_float(next(iter(case.channels.values())).path)]
    known = {case.id for case in public}
    other = [case for case in dataset.cases if case.id not in known]
    screened = {
        "hippocampus_reversed_source": other,
        f"screened_hippocampus_{cases}": public[:cases],
        "screened_hippocampus_judge": public[-REVERSED_JUDGES:],
    }
    reported = {
        "hippocampus_source": public,
        f"hippocampus_{cases}": other[:cases],
        "hippocampus_judge": other[HIPPOCAMPI:],
    }
    parts = screened if screening else reported
    return [written(out / "data" / name, chosen, dataset) for name, chosen in parts.items()]


def written(folder: Path, cases: list[Case], like: Dataset) -> Path:
    return folder if folder.exists() else write_dataset(folder, cases, like)


def sarcoma(data: Path, cases: int, out: Path, screening: bool) -> list[Path]:
    """Datasets of the source and the cohort, which is cross-validated; screened the other way round."""
    makers = {maker: sorted((data / "sarcoma" / maker).iterdir()) for maker in ("ge", "siemens", "philips")}
    half = cases // 2
    screened = {
        "sarcoma_reversed_source": [*makers["siemens"], *makers["philips"]],
        f"screened_sarcoma_{cases}": makers["ge"][:cases],
        f"screened_sarcoma_{cases}_judge": makers["ge"][cases:],
    }
    reported = {
        "sarcoma_source": makers["ge"][:14],
        f"sarcoma_{cases}": [*makers["siemens"][:half], *makers["philips"][:half]],
    }
    parts = screened if screening else reported
    for name, folders in parts.items():
        folder = out / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "scans.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["id", "t1", "label"])
            for one in folders:
                images = [(one / f"{which}.nii.gz").resolve() for which in ("t1", "mask")]
                table.writerow([f"{one.parent.name}_{one.name}", *images])
        text = 'csv = "scans.csv"\n\n[channels]\nt1 = "t1"\n\n[label]\nfile = "label"\nvalues = { tumor = 1 }\n'
        (folder / "autoseg.toml").write_text(text, encoding="utf-8")
    return [out / "data" / name for name in parts]


def measure(name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """A row: way → case → mean Dice."""
    kind, _, count = name.partition(":")
    cases, out = int(count), options.out
    if kind in LOOKS:
        folders, source = phantoms(kind, cases, out, options.screening), "source_heads"
    elif kind == "hippocampus":
        folders, source = hippocampus(options.data, cases, out, options.screening), "source_hippocampus"
    elif kind == "sarcoma":
        folders, source = sarcoma(options.data, cases, out, options.screening), "source_sarcoma"
    else:
        raise SystemExit(f"--rows {name}: kinds are {', '.join([*LOOKS, 'hippocampus', 'sarcoma'])}.")
    reversed_too = options.screening and kind not in LOOKS
    shared = out / (f"{source}_reversed" if reversed_too else source)
    row = out / f"{'screened_' if options.screening else ''}{name.replace(':', '_')}"
    words = [*map(str, folders[:2]), str(row), "--device", options.device]
    words += ["--epochs", str(options.epochs), "--source-epochs", str(options.source_epochs)]
    words += ["--tunings", *options.tunings, "--seeds", *map(str, options.seeds)]
    words += ["--scratch-seeds", str(options.scratch_seeds), "--set", *options.overrides]
    if options.plan_for:
        words += ["--plan-for", options.plan_for]
    if len(folders) == 3:
        words += ["--judge", str(folders[2])]
    planned_for = options.plan_for or options.device
    source_run = cohorts.source_run(folders[0], shared, planned_for, options.source_epochs, options.device)
    if kind in LOOKS and kind != "own":
        refuse_no_gap(kind, source_run, out, options.device)
    folds = cases // 2 if kind == "sarcoma" and not options.screening else max(2, min(options.folds, cases // 2))
    words += ["--source", str(shared), "--folds", str(folds)]
    print(f"\n## {name}", flush=True)
    return cohorts.main(words)


def overall(rows: dict[str, dict[str, dict[str, float]]], way: str) -> str:
    """The mean difference of a way to the better of source and scratch, over the rows, with its interval."""
    differences = []
    for found in rows.values():
        names = [name for name in ("source as it is", "from scratch") if name in found]
        better = max((found[name] for name in names), key=lambda of: statistics.mean(of.values()))
        differences.append(np.array([found[way][case] - better[case] for case in better]))
    random = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        drawn = random.integers(0, len(differences), len(differences))
        means.append(np.mean([random.choice(differences[row], len(differences[row])).mean() for row in drawn]))
    low, high = np.percentile(means, (2.5, 97.5))
    mean = np.mean([row.mean() for row in differences])
    return f"{way}: {mean:+.3f} ({low:+.3f} to {high:+.3f}) against the better of source and scratch, {len(rows)} rows"


def picture(rows: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Mean Dice over the number of cases, a panel a kind."""
    mpl.use("agg")
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys(name.partition(":")[0] for name in rows))
    ways = list(dict.fromkeys(way for found in rows.values() for way in found))
    figure, axes = plt.subplots(1, len(kinds), figsize=(3.2 * len(kinds), 3.2), squeeze=False, layout="constrained")
    for kind, axis in zip(kinds, axes[0], strict=True):
        own = {int(name.partition(":")[2]): found for name, found in rows.items() if name.startswith(f"{kind}:")}
        sizes = sorted(own)
        for number, way in enumerate(ways):
            known = [size for size in sizes if way in own[size]]
            means = [statistics.mean(own[size][way].values()) for size in known]
            # Open markers, the earlier ones larger: where the source is kept, two ways are one line.
            axis.plot(known, means, "o-", color=f"C{number}", mfc="none", ms=max(3, 10 - 2 * number), label=way)
        axis.set(title=kind, xlabel="cases of the cohort", xticks=sizes)
    axes[0][0].set_ylabel("mean Dice")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ways), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--rows", nargs="+", default=["contrast:3", "contrast:10", "contrast:40", "resolution:10"])
    parser.add_argument("--tunings", nargs="+", default=["augmented"])
    parser.add_argument("--screening", action="store_true", help="on cases that no row reports")
    parser.add_argument("--scratch-seeds", type=int, default=1, help="how many of the seeds train from scratch, too")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], help="values of the cohorts' plans")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--source-epochs", type=int, default=16)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plan-for", help="device that is planned for; the one that trains, where not named")
    options = parser.parse_args()
    rows = {name: measure(name, options) for name in options.rows}
    ways = list(dict.fromkeys(way for found in rows.values() for way in found))
    print(f"\n{describe()}\n\n| cohort | judged by | {' | '.join(ways)} |\n| --- | ---: |{' ---: |' * len(ways)}")
    for name, found in rows.items():
        cells = [f"{statistics.mean(found[way].values()):.3f}" if way in found else "–" for way in ways]
        print(f"| {name} | {len(found['source as it is'])} | {' | '.join(cells)} |")
    print()
    for way in ways:
        if way.endswith("chosen") and all(way in found for found in rows.values()):
            print(overall(rows, way))
    if options.picture is not None:
        picture(rows, options.picture)


if __name__ == "__main__":
    main()
