"""``autoseg predict``: segment new scans."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli.common import CONFIG_HELP, DEVICE_HELP, LAYOUT_HELP, parse_channels, parse_folds
from autoseg.utils.errors import AutosegError, UsageError

if TYPE_CHECKING:
    from autoseg.data.dataset import Case
    from autoseg.plans.plan import Plan
    from autoseg.plans.target import Target


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="One or several run folders, then what to predict: a dataset in any layout, a folder of images or "
            "of DICOM series, or one image. With --channel, run folders only.",
            metavar="RUN… [INPUT]",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    channel: Annotated[
        list[str] | None,
        typer.Option(help="A single scan, channel by channel: NAME=PATH, a file or the folder of a DICOM series."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Brain mask of the scan given with --channel.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the result of the scan given with --channel.")] = None,
    config: Annotated[str | None, typer.Option(help=CONFIG_HELP)] = None,
    fold: Annotated[str, typer.Option(help="Folds to average: numbers with commas, or all.")] = "all",
    checkpoint: Annotated[
        str, typer.Option(help="Which weights predict: weights (end of training) or best (best validation).")
    ] = "weights",
    tta: Annotated[bool, typer.Option("--tta/--no-tta", help="Average over mirrored images.")] = True,
    postprocessing: Annotated[
        bool, typer.Option("--postprocessing/--no-postprocessing", help="Apply what 'autoseg postprocess' chose.")
    ] = True,
    probabilities: Annotated[bool, typer.Option(help="Also write the probability of each output.")] = False,
    raters: Annotated[
        bool, typer.Option(help="Also write each rater's label map and a map of their disagreement (plan --raters).")
    ] = False,
    results: Annotated[list[str] | None, typer.Option(help="Name of a further result to write. Repeatable.")] = None,
    pictures: Annotated[bool, typer.Option(help="Also write a picture of each result into OUT/pictures.")] = False,
    to_native: Annotated[
        str | None,
        typer.Option(help="Write results on the grid of this original series (exams made by 'autoseg prepare')."),
    ] = None,
    raw: Annotated[
        bool | None,
        typer.Option(
            "--raw/--prepared",
            help="Whether INPUT is raw exams, to be prepared as the training data were; found out by default.",
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format of the label maps: nifti, nrrd (3D Slicer), mha or dicom-seg; the scan's by default.",
        ),
    ] = None,
    brats_labels: Annotated[
        str | None, typer.Option(help="Write the label values of this BraTS challenge: 2021 or 2023.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Predict the labelled cases, too, where the dataset has a test set.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Predict cases again whose result exists.")] = True,
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Segment scans with a trained run, or with the average of several.

    Results lie on the grid and, without --format, in the file format of the scans, with the label values of the
    training data. A scan that fails is reported and does not stop the others; the exit code is then 1.
    """
    from autoseg.clinical.quality_page import PAGE
    from autoseg.clinical.raw_prediction import PREPARED_EXAMS, PREPARED_SPACE, NativeResults, raw_exams_in
    from autoseg.inference.channel_numbers import ChannelNumbers
    from autoseg.inference.formats.format import RESULT_FORMATS
    from autoseg.inference.inputs import cases_to_predict, single_case
    from autoseg.inference.label_schemes import brats_scheme
    from autoseg.inference.members import untrained_note
    from autoseg.inference.predictor import Predictor
    from autoseg.runs.run import Run
    from autoseg.utils.progress import say

    if checkpoint not in ("weights", "best"):
        raise UsageError(f"--checkpoint {checkpoint} is unknown; choose weights or best.")
    of_input = {"--layout": layout is not None, "--all": everything, "--raw": raw is True, "--prepared": raw is False}
    if channel and (given := [option for option, is_given in of_input.items() if is_given]):
        raise UsageError(f"{given[0]} is about INPUT, which --channel takes the place of; leave one of them out.")
    if mask is not None and not channel:
        raise UsageError("--mask goes with --channel; a dataset names its own masks.")
    if name is not None and not channel:
        raise UsageError("--name goes with --channel.")
    if pictures and (brats_labels is not None or file_format == "dicom-seg"):
        raise UsageError(
            "--pictures draws image files with the training data's values; leave out --format dicom-seg and "
            "--brats-labels."
        )
    form = None if file_format is None else RESULT_FORMATS.find(file_format)
    runs, source = (paths, None) if channel else (paths[:-1], paths[-1])
    if not runs:
        raise UsageError("give a run folder and what to predict: autoseg predict RUN INPUT --out DIR.")
    opened = [Run.open(path) for path in runs]
    plans = [run.plan for run in opened]
    if raw and layout is not None:
        raise UsageError("--raw and --layout say different things of INPUT; give one of them.")
    exams = None if source is None or layout is not None else raw_exams_in(source, opened, out, raw)
    if channel:
        files = {key: Path(value) for key, value in parse_channels(channel).items()}
        stages = [run.plan.stage(config or run.usual_configuration()) for run in opened]
        cases = [single_case(files, stages, name, mask, ChannelNumbers.of(plans, [run.dataset for run in opened]))]
    else:
        assert source is not None
        if exams is not None:
            source, everything = exams.dataset, True
        cases = cases_to_predict(source, plans, layout, everything, [run.dataset for run in opened])
        cases = [case for case in cases if exams is None or case.id in exams.prepared]  # not those of an earlier call
    if pictures:
        _refuse_drawing_over(cases, out)
    numbers = parse_folds(fold)
    predictor = Predictor.load(runs, config, numbers, device, tta, checkpoint, postprocessing)
    for run, member in zip(opened, predictor.members, strict=True):
        if numbers is None and (note := untrained_note(run, member)) is not None:
            say(note)
    asked = [*(results or []), *(["probabilities"] if probabilities else [])]
    asked += ["raters", "disagreement"] if raters else []
    scheme = None if brats_labels is None else brats_scheme(predictor.target, brats_labels)
    if exams is not None or to_native is not None:
        native = NativeResults(out, to_native, form, scheme, exams)
        native.check(cases)
        native.renew(cases)
        outcome = predictor.predict(cases, out / PREPARED_SPACE, asked, overwrite, scheme=scheme)
    else:
        native, outcome = None, predictor.predict(cases, out, asked, overwrite, form, scheme)
    disagreement = "disagreement" in asked
    undrawn = {}
    if pictures:
        undrawn = _draw(cases, outcome.written, plans[0], predictor.target, out, disagreement)
    if native is not None:
        outcome = native.write(outcome, cases, predictor)
    doubts = {case: found for case, found in ({} if exams is None else exams.flags).items() if case in outcome.written}
    for case_id, flags in doubts.items():
        say(f"{case_id}: look at {out / PREPARED_EXAMS / PAGE} before you use its result: {'; '.join(flags)}.")
    if as_json:
        written = {case: str(path) for case, path in outcome.written.items()}
        told = {"written": written, "failed": outcome.failed} | ({} if exams is None else {"flags": doubts})
        typer.echo(json.dumps(told, indent=2))
    else:
        say(f"{len(outcome.written)} of {len(cases)} cases are in {out}.")
        for case_id, reason in outcome.failed.items():
            say(f"failed: {case_id}: {reason}")
    for case_id, reason in undrawn.items():
        say(f"no picture: {case_id}: {reason}")
    if outcome.failed or undrawn:
        raise typer.Exit(1)


def _refuse_drawing_over(cases: "Sequence[Case]", out: Path) -> None:
    """A picture of a result must never take the place of a scan that is a picture."""
    scans = {path.resolve() for case in cases for path in case.files}
    for case in cases:
        if (picture := _picture(out, case)).resolve() in scans:
            raise UsageError(f"--out {out}: the picture would overwrite {picture}; choose another folder.")


def _picture(out: Path, case: "Case", kind: str = "") -> Path:
    return out / "pictures" / f"{case.id}{kind}.png"


def _draw(
    cases: "Sequence[Case]",
    results: Mapping[str, Path],
    plan: "Plan",
    target: "Target",
    out: Path,
    disagreement: bool,
) -> dict[str, str]:
    """Draw each case that has a result, and its map of disagreement; return case → error."""
    from autoseg.inference.results.writer import beside
    from autoseg.report.pictures import disagreement_picture, prediction_picture

    undrawn = {}
    for case in cases:
        if case.id in results:
            try:
                prediction_picture(case, results[case.id], plan, target, _picture(out, case))
                if disagreement:
                    found = beside(results[case.id], case.id, "disagreement")
                    disagreement_picture(case, found, plan, _picture(out, case, "_disagreement"))
            except AutosegError as error:  # the result exists; the other figures are still drawn
                undrawn[case.id] = str(error)
    return undrawn
