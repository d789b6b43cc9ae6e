"""``autoseg prepare``: raw clinical exams to a dataset."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.common import parse_pairs
from autoseg.utils.errors import UsageError
from autoseg.utils.progress import say
from autoseg.utils.shell import quoted


def command(
    exams: Annotated[Path, typer.Argument(help="Folder of an exam, or of a cohort with one folder for each patient.")],
    out: Annotated[Path, typer.Option(help="Folder of the dataset to make.")],
    reference: Annotated[
        str | None,
        typer.Option(help="Channel that the others are aligned to; the one of the highest resolution by default."),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            help="Which series a channel is: NAME=SERIES, a series by its number, name or description. Repeatable."
        ),
    ] = None,
    channels: Annotated[
        Path | None,
        typer.Option(
            help="Which series the channels are, exam by exam: a CSV with the columns exam (its folder, by name or "
            "below EXAMS), channel, series."
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Pattern of the label files (maps, RTSTRUCT, DICOM-SEG) below an exam's folder.")
    ] = None,
    orient: Annotated[bool, typer.Option(help="Bring the axes into canonical order and direction.")] = True,
    coregister: Annotated[bool, typer.Option(help="Align the series to the reference.")] = True,
    spacing: Annotated[
        tuple[float, float, float], typer.Option(help="Spacing in mm along x, y, z; 0 0 0 keeps the reference's.")
    ] = (1.0, 1.0, 1.0),
    interpolation: Annotated[
        str, typer.Option(help="How images are resampled: spline (third order) or nearest.")
    ] = "spline",
    label_interpolation: Annotated[
        str, typer.Option(help="How labels are resampled: linear (largest mask) or nearest.")
    ] = "linear",
    brain_mask: Annotated[
        str | None, typer.Option(help="Pattern of the brain mask's file below an exam's folder.")
    ] = None,
    skull_strip: Annotated[
        str,
        typer.Option(help="How the brain is found: atlas (register a template), none, or auto: atlas for brain exams."),
    ] = "auto",
    atlas: Annotated[Path | None, typer.Option(help="Skull-stripped template; ICBM 152 T1 by default.")] = None,
    n4: Annotated[bool, typer.Option("--n4", help="Correct the bias field (N4).")] = False,
    box: Annotated[
        tuple[int, int, int],
        typer.Option(help="Box round the brain or body to cut to: voxels along x, y, z; 0 0 0 for none."),
    ] = (0, 0, 0),
    crop: Annotated[bool, typer.Option("--crop", help="Cut to the extent of the brain or body.")] = False,
    fill: Annotated[
        list[str] | None,
        typer.Option(help="Channel that stands in for a missing one: NAME=OTHER fills NAME with OTHER. Repeatable."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Run folder: prepare the exams as its training data were, so that it can predict them."),
    ] = None,
    keep_identifiers: Annotated[
        bool, typer.Option("--keep-identifiers", help="Name cases after their patients, without pseudonyms.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Number of exams prepared at a time; one for each core by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was prepared as JSON.")] = False,
) -> None:
    """Make a dataset of raw exams: recognise and align sequences, find the brain, resample, take labels along.

    quality.html in the dataset shows each exam before and after. An exam that fails is reported and does not stop the
    others; the exit code is then 1.
    """
    from autoseg.clinical.cohort import PreparationRequest, prepare_exams
    from autoseg.clinical.settings import ExamPreparation

    if skull_strip not in ("auto", "atlas", "none"):
        raise UsageError(f"--skull-strip {skull_strip} is unknown; choose auto, atlas or none.")
    if interpolation not in ("spline", "nearest"):
        raise UsageError(f"--interpolation {interpolation} is unknown; choose spline or nearest.")
    if label_interpolation not in ("linear", "nearest"):
        raise UsageError(f"--label-interpolation {label_interpolation} is unknown; choose linear or nearest.")
    if atlas is not None and not atlas.is_file():
        raise UsageError(f"--atlas {atlas} does not exist.")
    if not all(0 <= mm < math.inf for mm in spacing) or (any(spacing) and not all(spacing)):
        raise UsageError(f"--spacing {' '.join(f'{mm:g}' for mm in spacing)}: give three lengths in mm, or 0 0 0.")
    if any(voxels < 0 for voxels in box) or (any(box) and not all(box)):
        raise UsageError(f"--box {' '.join(map(str, box))}: give three numbers of voxels, or 0 0 0.")
    if crop and any(box):
        raise UsageError("--crop and --box both say what the output covers; give one of them.")
    if skull_strip == "none" and (brain_mask is not None or atlas is not None):
        given = "--brain-mask" if brain_mask is not None else "--atlas"
        raise UsageError(f"{given} finds the brain, --skull-strip none leaves it; give one of them.")
    if brain_mask is not None and atlas is not None and skull_strip != "atlas":
        raise UsageError(
            "--atlas finds the brain of exams without a --brain-mask only with --skull-strip atlas; add it, or leave "
            "out --atlas."
        )
    fills = parse_pairs(fill or [], "--fill", "NAME=OTHER")
    if itself := [name for name, other in fills.items() if name == other]:
        raise UsageError(f"--fill {itself[0]}={itself[0]}: a channel that is missing can't stand in for itself.")
    settings = ExamPreparation(
        reference=reference,
        orient=orient,
        coregister=coregister,
        spacing=spacing if any(spacing) else None,
        interpolation=interpolation,
        labels=label_interpolation,
        brain_mask=brain_mask,
        skull_strip=skull_strip,
        atlas=None if atlas is None else atlas.absolute(),
        n4=n4,
        box=box if any(box) else None,
        crop=crop,
        fill=fills,
    )
    if like is not None:
        from autoseg.clinical.raw_prediction import preparation_of  # loads torch
        from autoseg.runs.run import Run

        if settings != ExamPreparation():
            raise UsageError("--like takes all steps from the run; leave out the options that change one.")
        if (of_run := preparation_of([Run.open(like)])) is None:
            raise UsageError(f"--like {like}: its training data were not made by 'autoseg prepare'.")
        settings = of_run
    request = PreparationRequest(
        settings,
        parse_pairs(channel or [], "--channel", "NAME=SERIES"),
        channels,
        labels,
        keep_identifiers=keep_identifiers,
        workers=workers,
    )
    outcome = prepare_exams(exams, out, request)
    if as_json:
        prepared = {case: str(folder) for case, folder in outcome.prepared.items()}
        typer.echo(json.dumps({"prepared": prepared, "failed": outcome.failed, "flags": outcome.flags}, indent=2))
    else:
        say(f"{len(outcome.prepared)} of {len(outcome.exams)} exams are in {out}; look at {out / 'quality.html'}.")
        if outcome.prepared:
            say(f"Next: autoseg plan {quoted(out)} --out RUN")
    if outcome.failed:
        raise typer.Exit(1)
