"""``autoseg inspect``: content and problems of a dataset, and a proposed description if it has none."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from autoseg.cli.common import (
    CHALLENGE_HELP,
    LABEL_HELP,
    PATIENTS_HELP,
    READERS_HELP,
    choices_of,
    results_console,
)
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_text
from autoseg.utils.progress import say, silenced

if TYPE_CHECKING:
    import numpy as np

    from autoseg.data.checks import Examination
    from autoseg.data.dataset import Dataset
    from autoseg.data.fingerprint import CaseFingerprint
    from autoseg.data.problems import Problem


def command(
    dataset: Annotated[Path, typer.Argument(help="Folder of the dataset, its autoseg.toml, or a CSV.")],
    layout: Annotated[
        str | None,
        typer.Option(
            help="How the dataset is laid out: manifest, nnunet, msd, brats, bids, structures, dicom or proposed; "
            "recognised by default."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help=LABEL_HELP)] = None,
    challenge: Annotated[str | None, typer.Option(help=CHALLENGE_HELP)] = None,
    patients: Annotated[str | None, typer.Option(help=PATIENTS_HELP)] = None,
    workers: Annotated[int | None, typer.Option(help=READERS_HELP)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything found as JSON, with the fingerprint.")
    ] = False,
    fix: Annotated[
        Path | None,
        typer.Option(help="Folder for copies, with their images' headers, of the label maps that lost their own."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Save the autoseg.toml proposed for a dataset that nothing describes.")
    ] = False,
) -> None:
    """Say what a dataset holds and all that is wrong with it; propose an autoseg.toml where nothing describes it.

    The exit code is 1 where there are errors.
    """
    from autoseg.data.checks import examine

    found, proposal = _open(dataset, layout, choices_of(label=label, challenge=challenge), patients)
    if write:
        _write(dataset, proposal)
    if fix is not None:
        _fix(found, fix)
    with silenced() if as_json else nullcontext():
        examination = examine(found, workers)
    if as_json:
        typer.echo(json.dumps(_data(found, examination, proposal), indent=2, ensure_ascii=False))
    else:
        _show(found, examination, proposal, dataset, write)
    if any(problem.severity == "error" for problem in examination.problems):
        raise typer.Exit(1)


def _open(
    path: Path, layout: str | None, choices: dict[str, str], patients: str | None
) -> "tuple[Dataset, str | None]":
    """The dataset, and the description proposed for it where it has none."""
    from autoseg.data.dataset import Dataset
    from autoseg.data.layouts.layout import PROPOSED, datasets_below, recognise_layout
    from autoseg.data.layouts.propose import propose

    if layout is None and path.exists():
        found = recognise_layout(path)
        if found == PROPOSED or (found is None and not datasets_below(path)):
            text = propose(path, choices.get("label"))
            try:
                return Dataset.open(path, PROPOSED, choices=choices, patients=patients), text
            except AutosegError as error:
                raise AutosegError(
                    f"nothing describes {path}, and what its files are can't be told for sure: {error} "
                    f"Correct this and save it as autoseg.toml:\n\n{text}"
                ) from None
    return Dataset.open(path, layout, choices=choices, patients=patients), None


def _write(path: Path, proposal: str | None) -> None:
    from autoseg.data.layouts.manifest import FILE_NAME

    if proposal is None:
        raise UsageError(f"--write: {path} is described already; there is nothing to propose.")
    target = (path if path.is_dir() else path.parent) / FILE_NAME
    if target.exists():
        raise AutosegError(f"{target} exists already; move it away to have another one written.")
    write_text(target, proposal)


def _fix(dataset: "Dataset", folder: Path) -> None:
    from autoseg.data.lost_headers import restore_headers

    written = restore_headers(dataset, folder)
    for path in written:
        say(f"written: {path}")
    if not written:
        say("No label map has lost its header.")
        return
    say(
        f"{len(written)} label maps had lost their header; the new files in {folder} have their images'. Check them on "
        "a picture, then put them in the place of the old ones."
    )


def _data(dataset: "Dataset", examination: "Examination", proposal: str | None) -> dict[str, Any]:
    fingerprint = examination.fingerprint
    return {
        "dataset": str(dataset.root),
        "name": dataset.name,
        "layout": None if proposal is not None else dataset.layout,
        "channels": list(dataset.channels),
        "modalities": dataset.modalities,
        "labels": dataset.labels,
        "regions": {name: list(values) for name, values in dataset.regions.items()},
        "ignore_label": dataset.ignore_label,
        "cases": [case.id for case in dataset.cases],
        "unlabelled": [case.id for case in dataset.unlabelled],
        "patients": {case.id: case.patient for case in (*dataset.cases, *dataset.unlabelled)},
        "problems": [
            {
                "severity": problem.severity,
                "case": problem.case,
                "file": None if problem.file is None else str(problem.file),
                "what": problem.what,
                "remedy": problem.remedy,
            }
            for problem in examination.problems
        ],
        "fingerprint": None if fingerprint is None else fingerprint.model_dump(mode="json"),
        "proposal": proposal,
    }


def _show(dataset: "Dataset", examination: "Examination", proposal: str | None, path: Path, written: bool) -> None:
    from autoseg.data.layouts.manifest import FILE_NAME

    console = results_console()
    if proposal is not None:
        target = (path if path.is_dir() else path.parent) / FILE_NAME
        console.print(
            f"Nothing describes {path}. "
            + (f"Written to {target}:" if written else f"Proposed for {target} (--write saves it):"),
            markup=False,
            soft_wrap=True,
        )
        console.print()
        console.print(proposal, markup=False, soft_wrap=True)
    console.print(_summary(dataset, examination.cases, proposed=proposal is not None))
    if dataset.labels and examination.fingerprint is not None:
        console.print(_volumes(dataset, examination.fingerprint.cases))
    problems = examination.problems
    if not problems:
        console.print("No problems found.")
        return
    console.print(_problems(dataset, problems))
    count = Counter(problem.severity for problem in problems)
    console.print(f"{count['error']} error(s), {count['warning']} warning(s).")


def _summary(dataset: "Dataset", cases: "Sequence[CaseFingerprint]", proposed: bool) -> Table:
    import numpy as np

    from autoseg.data.patients import pattern_of

    table = Table(title=escape(dataset.name), show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    everyone = (*dataset.cases, *dataset.unlabelled)
    tested = len(dataset.labelled_test_cases)
    patients = len({case.patient for case in everyone})
    rows = {
        "layout": "not described; as proposed" if proposed else dataset.layout,
        "cases": f"{len(dataset.cases)} labelled, {len(dataset.unlabelled) - tested} without label"
        + (f", {tested} labelled test cases" if tested else "")
        + (f", of {patients} patients" if patients != len(everyone) else ""),
        **({"patients": told} if patients != len(everyone) and (told := pattern_of(everyone)) else {}),
        "channels": ", ".join(
            name + (f" ({kind})" if (kind := dataset.modalities.get(name, name)) != name else "")
            for name in dataset.channels
        ),
        "labels": ", ".join(f"{name} = {value}" for name, value in dataset.labels.items()) or "none",
    }
    if dataset.regions:
        rows["regions"] = ", ".join(f"{name} = {list(values)}" for name, values in dataset.regions.items())
    if dataset.ignore_label is not None:
        rows["ignored"] = f"label value {dataset.ignore_label}"
    raters = sorted({name for case in everyone for name in case.raters})
    if raters:
        rows["raters"] = ", ".join(raters)
    if cases:
        rows["shape z×y×x"] = _spread([case.shape for case in cases], "voxels")
        if any(case.cropped_shape != case.shape for case in cases):
            rows["cropped"] = _spread([case.cropped_shape for case in cases], "voxels")
        rows["spacing"] = _spread([case.spacing for case in cases], "mm")
        for name in dataset.channels:
            values = [case.intensities[name] for case in cases if name in case.intensities]
            if values:
                rows[name] = (
                    f"median {np.median([v.percentile_50 for v in values]):.4g} inside the foreground; "
                    f"0.5 % below {np.median([v.percentile_00_5 for v in values]):.4g}, "
                    f"0.5 % above {np.median([v.percentile_99_5 for v in values]):.4g}"
                )
    for key, value in rows.items():
        table.add_row(escape(key), escape(value))
    return table


def _spread(rows: Sequence[Sequence[float]], unit: str) -> str:
    """Median of each axis, with the range where it varies: ``35×50×36 voxels (from 24×40×31 to 43×59×47)``."""
    import numpy as np

    table = np.asarray(rows, float)
    low, middle, high = (_times(values) for values in (table.min(axis=0), np.median(table, axis=0), table.max(axis=0)))
    return f"{middle} {unit}" if low == high else f"median {middle} {unit}, from {low} to {high}"


def _times(values: "np.ndarray") -> str:
    return "×".join(f"{value:.4g}" for value in values)


def _volumes(dataset: "Dataset", cases: "Sequence[CaseFingerprint]") -> Table:
    import numpy as np

    flat = all(case.shape[0] == 1 for case in cases)
    unit, factor = ("mm²", 1.0) if flat else ("ml", 1e-3)
    table = Table(title="Volumes" if not flat else "Areas", title_justify="left", title_style="bold")
    for heading in ("label or region", "in cases", f"median {unit}", f"smallest {unit}", f"largest {unit}"):
        table.add_column(heading, justify="left" if heading.startswith("label") else "right")
    targets = {name: (value,) for name, value in dataset.labels.items()} | dataset.regions
    for name, values in targets.items():
        sizes = []
        for case in cases:
            voxels = sum(case.label_voxels.get(value, 0) for value in values)
            if voxels:
                sizes.append(voxels * float(np.prod(case.spacing)) * factor)
        figures = [f"{f(sizes):.4g}" for f in (np.median, min, max)] if sizes else ["-", "-", "-"]
        table.add_row(escape(name), f"{len(sizes)} of {len(cases)}", *figures)
    return table


def _problems(dataset: "Dataset", problems: "Sequence[Problem]") -> Table:
    table = Table(title="Problems", title_justify="left", title_style="bold", show_lines=False)
    table.add_column("", no_wrap=True)
    for heading in ("case", "file", "what is wrong", "what to do"):
        table.add_column(heading, overflow="fold")
    root = dataset.root if dataset.root.is_dir() else dataset.root.parent
    for problem in problems:
        style = "red" if problem.severity == "error" else "yellow"
        file = problem.file
        if file is not None and file.is_relative_to(root):
            file = file.relative_to(root)
        table.add_row(
            f"[{style}]{problem.severity}[/]",
            escape(problem.case or "all"),
            escape("" if file is None else str(file)),
            escape(problem.what),
            escape(problem.remedy),
        )
    return table
