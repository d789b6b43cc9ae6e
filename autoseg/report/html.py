"""The report of a run: one self-contained HTML page with embedded figures."""

import base64
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from html import escape
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from autoseg.crossvalidation.source_share import beside_choice
from autoseg.crossvalidation.source_table import SourceTable
from autoseg.data.dataset import Dataset
from autoseg.data.file_names import result_ending
from autoseg.data.fingerprint import Fingerprint
from autoseg.evaluation.metric import METRICS
from autoseg.evaluation.summary import WIDE_TABLE, Evaluation, Statistics, number
from autoseg.networks import resized
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.plans.reasons import explanations
from autoseg.postprocessing.choice import why_none
from autoseg.postprocessing.steps import POSTPROCESSING_FILE, Postprocessing
from autoseg.report.collect import Results, collect, load_picture, median_and_range, pick_cases
from autoseg.report.overlay import overlay_png
from autoseg.report.page import FOOTER, html_page
from autoseg.report.plots import distributions, training_curves
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import refuse_unwritable_file, write_text
from autoseg.utils.progress import track
from autoseg.utils.shell import quoted

#: Targets beyond which the table of cases has only their mean: it would be too wide to read.
TARGET_COLUMNS = 6

#: Plan values that have a number for each axis.
PER_AXIS = ("patch_size", "spacing", "strides", "kernel_sizes")


def write_report(run: Run, out: str | Path | None = None) -> Path:
    """Write the report of a run, also of an unfinished one.

    The page shows the results of each configuration (cross-validated metrics and their distribution, best, median
    and worst case, training curves), the dataset, and the plan with its reasons. It needs no other file, so it
    can be mailed; figures show the predictions alone if the dataset's files are gone.

    Args:
        run: the run folder.
        out: file to write; default ``RUN/report/index.html``.

    Returns:
        The file written.

    Raises:
        AutosegError: the run folder's plan, dataset or fingerprint is damaged.
        UsageError: ``out`` can't be made.
    """
    out = run.path / "report" / "index.html" if out is None else Path(out)
    refuse_unwritable_file(out)
    plan, dataset, fingerprint, folds = run.plan, run.dataset, run.fingerprint, len(run.splits)
    results = [result for name in plan.configurations if (result := collect(run, name, folds)) is not None]
    # The recommended configuration comes first.
    results.sort(key=lambda result: result.name != plan.recommended)
    sections = [("results-" + result.name, _heading(result), _results(run, plan, result)) for result in results]
    if not results:
        hint = f"Nothing is trained yet. Train with <code>autoseg train {escape(quoted(run.path))}</code>."
        sections.append(("results", "Results", f"<p class='note'>{hint}</p>"))
    sections.append(("data", "Data", _data(dataset, fingerprint)))
    sections.append(("plan", "Plan", _plan(plan)))
    sections.append(("files", "Files", _files(run, results, out.parent)))
    write_text(out, _page(plan, dataset, sections))
    return out


def _page(plan: Plan, dataset: Dataset, sections: Sequence[tuple[str, str, str]]) -> str:
    what = ", ".join(output.name for output in plan.target.outputs)
    subtitle = f"Segmentation of {what} from {', '.join(plan.channel_names)}; {len(dataset.cases)} labelled cases"
    links = "".join(f"<a href='#{escape(key)}'>{escape(title)}</a>" for key, title, _ in sections)
    body = "".join(
        f"<section id='{escape(key)}'><h2>{escape(title)}</h2>{content}</section>" for key, title, content in sections
    )
    name = escape(plan.dataset)
    nav = f"<nav><div>{links}</div></nav>"
    return html_page(f"{name} · autoseg report", name, f"{escape(subtitle)}.", body + FOOTER, nav)


def _heading(result: Results) -> str:
    return f"Results of {result.name}"


def _results(run: Run, plan: Plan, result: Results) -> str:
    evaluation = result.evaluation
    parts = []
    cards = []
    if evaluation is not None:
        cards.append(("mean Dice, cross-validated", number(evaluation.mean("dice"), 3)))
        cards.append(("mean HD95", f"{number(evaluation.mean('hd95'), 1)} mm"))
        cards.append(("validated cases", str(len(evaluation.cases))))
    if result.test is not None:
        cards.append(("mean Dice, test set", number(result.test.mean("dice"), 3)))
    cards.append(("folds trained", f"{len(result.folds)} of {len(run.splits)}"))
    if result.curves:
        cards.append(("training time, all folds", _duration(sum(curve.seconds for curve in result.curves))))
    parts.append(_cards(cards))
    if result.note:
        parts.append(f"<p class='note'>{escape(result.note)}</p>")
    parts.append(_fine_tuning(run, result.name))
    if evaluation is not None:
        parts.append("<h3>Cross-validated metrics</h3>")
        parts.append(
            "<p class='muted'>Mean ± standard deviation over the cases, each predicted by the fold that did not see "
            f"it in training{_instead(run, result.name)}. NSD: share of the surfaces within "
            f"{evaluation.tolerance_mm:g} mm of each other. Where a structure is absent from reference or prediction, "
            + (
                "what is undefined is left out."
                if evaluation.empty == "skip"
                else "the BraTS convention counts 0 or 1 and 373.13 mm."
            )
            + "</p>"
        )
        parts.append(_metrics_table(evaluation))
        parts.append(_postprocessing(run, result.name))
        parts.append(
            _figure(
                _svg_uri(distributions(evaluation)),
                "Dice and HD95 of every case",
                "Each dot is a case; the box spans the quartiles, its bar is the median.",
            )
        )
        parts.append(_pictures(run, plan, result, evaluation))
        parts.append(_case_table(result, evaluation))
    if result.test is not None:
        parts.append("<h3>Test set</h3>")
        what = f"Mean ± standard deviation over {len(result.test.cases)} cases that no fold has seen, predicted by "
        parts.append(f"<p class='muted'>{what}{_tested_by(run, result.name)}.</p>")
        parts.append(_metrics_table(result.test))
        caption = "Each dot is a case of the test set; the box spans the quartiles, its bar is the median."
        parts.append(_figure(_svg_uri(distributions(result.test)), "Dice and HD95 of every test case", caption))
    if result.curves:
        parts.append("<h3>Training</h3>")
        caption = "Losses, and Dice of a few validation cases predicted without test-time augmentation."
        parts.append(_figure(_svg_uri(training_curves(result.curves)), "Training curves", caption))
    return "".join(parts)


def _instead(run: Run, name: str) -> str:
    """By what else validation cases of a fine-tuning are predicted, for a sentence; empty of other runs."""
    with suppress(AutosegError):  # said with the table of the fine-tuning
        if run.source_choice(run.plan.stage(name)):
            return ", by the source, or by a mix of both, as other cases chose"
    return ""


def _tested_by(run: Run, name: str) -> str:
    """What the test cases are predicted by, for a sentence."""
    stage = run.plan.stage(name)
    if not run.kept_source(stage):
        return "all folds together, without post-processing"
    cleaned = "with its post-processing" if run.source_steps(stage) else "without post-processing"
    return f"all folds of the source, which is kept, together, {cleaned}"


def _fine_tuning(run: Run, name: str) -> str:
    """The source as it is, the tuned networks and what was chosen, on the same cases; nothing without a source."""
    try:
        found = SourceTable.of(run, run.plan.stage(name))
    except AutosegError as error:
        return f"<p class='note'>{escape(str(error))}</p>"
    if found is None:
        return ""
    rows = [[escape(cell) for cell in cells] for cells in found.cells()]
    heads = ("validation cases", "n", "mean Dice", "to the source (95 % interval)")
    table = _table(heads, rows, numbers=True) if rows else ""
    note = f"<p class='note'>{escape(found.note)}</p>" if found.note else ""
    return f"<h3>Fine-tuning</h3>{table}{note}"


def _metrics_table(evaluation: Evaluation) -> str:
    statistics = evaluation.statistics()
    digits = {metric: METRICS.find(metric).digits for metric in WIDE_TABLE}
    rows = []
    for target, by_metric in statistics.items():
        counts = evaluation.counts(target)
        remarks = [
            f"{counts[key]} {word}"
            for key, word in (("missed", "missed"), ("false_alarms", "false alarms"), ("absent", "absent"))
            if counts[key]
        ]
        name = escape(target) + (f"<br><small>{', '.join(remarks)}</small>" if remarks else "")
        rows.append([name, *(_mean_and_std(by_metric[metric], digits[metric]) for metric in WIDE_TABLE)])
    total = ["mean", *(number(evaluation.mean(metric), digits[metric]) for metric in WIDE_TABLE)]
    heads = ["", *(METRICS.find(metric).title for metric in WIDE_TABLE)]
    return _table(heads, rows, numbers=True, total=total if len(rows) > 1 else None)


def _postprocessing(run: Run, name: str) -> str:
    path = run.path / name / POSTPROCESSING_FILE
    if not path.exists():
        return ""
    try:
        chosen = Postprocessing.read(path)
    except AutosegError as error:
        return f"<p class='note'>{escape(str(error))}</p>"
    if not chosen.fits(run.path):
        text = f"It was decided for other weights and is not applied; run {run.how_to_postprocess(name)} again."
        return f"<h3>Post-processing</h3><p class='note'>{escape(text)}</p>"
    before, after = chosen.before, chosen.after
    rows = [[escape(name), _dice(value), _dice(after.outputs[name])] for name, value in before.outputs.items()]
    table = _table(["", "Dice without", "Dice with"], rows, True, ["mean", _dice(before.mean), _dice(after.mean)])
    steps = "; ".join(map(str, chosen.steps)) or f"no step, as {why_none(chosen)}"
    text = f"Chosen on {chosen.grounds}: {steps}. {chosen.improved} cases better, {chosen.worsened} worse. "
    text += "All other figures on this page are without it."
    return f"<h3>Post-processing</h3><p class='muted'>{escape(text)}</p>{table}"


def _dice(value: float | None) -> str:
    return number(np.nan if value is None else value, 4)


def _mean_and_std(statistics: Statistics, digits: int) -> str:
    deviation = f" <small>± {number(statistics.std, digits)}</small>" if statistics.n > 1 else ""
    return number(statistics.mean, digits) + deviation


def _pictures(run: Run, plan: Plan, result: Results, evaluation: Evaluation) -> str:
    picked = pick_cases(evaluation)
    cases = {case.id: case for case in run.dataset.cases}
    names = {output.name: output.values for output in plan.stage(result.name).result.outputs}
    figures = []
    for what, case in track(picked, "drawing", len(picked)):
        fold = run.fold(result.name, result.fold_of[case])
        shown = {"": fold.validation, **beside_choice(fold)}
        drawn = []
        for version, folder in shown.items():
            try:
                picture = load_picture(plan, cases.get(case), folder / f"{case}{result_ending(plan.file_ending)}")
            except AutosegError as error:
                drawn.append(f"<p class='note'>{escape(str(error))}</p>")
                continue
            label, reference = picture.prediction, picture.reference
            content = overlay_png(picture.image, label, reference, picture.spacing, names, title=version or case)
            scores = Evaluation.read(folder).counting_absent(evaluation.empty) if version else evaluation
            score = number(scores.case_mean(case), 3)
            caption = f"{what} case: {case}, mean Dice {score}, {version or f'fold {fold.number}'}. "
            caption += picture.note or f"Image: {picture.channel}; filled: prediction; outline: reference."
            uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
            drawn.append(_figure(uri, f"{what} case {case}", caption))
        figures.append(f"<div class='beside'>{''.join(drawn)}</div>" if len(drawn) > 1 else drawn[0])
    return "<h3>Best, median and worst case</h3>" + "".join(figures) if figures else ""


def _case_table(result: Results, evaluation: Evaluation) -> str:
    targets = evaluation.targets if len(evaluation.targets) <= TARGET_COLUMNS else ()
    values = {(row.case, row.target): row.values for row in evaluation.rows}
    ranked = sorted(evaluation.cases, key=lambda case: np.nan_to_num(evaluation.case_mean(case), nan=2.0))
    heads = ["case", "fold", "mean Dice", "mean HD95"]
    heads += [f"{target} {what}" for target in targets for what in ("Dice", "HD95")]
    rows = []
    for case in ranked:
        row = [escape(case), str(result.fold_of[case])]
        row += [number(evaluation.case_mean(case), 3), number(evaluation.case_mean(case, "hd95"), 1)]
        for target in targets:
            row += [number(values[case, target]["dice"], 3), number(values[case, target]["hd95"], 1)]
        rows.append(row)
    table = _table(heads, rows, numbers=True)
    return f"<details><summary>All {len(rows)} cases, the worst first</summary>{table}</details>"


def _data(dataset: Dataset, fingerprint: Fingerprint) -> str:
    cases = fingerprint.cases
    cards = [(_plural(len(dataset.cases), "labelled case"), str(len(dataset.cases)))]
    if dataset.unlabelled:
        cards.append(("without label", str(len(dataset.unlabelled))))
    cards.append((_plural(len(dataset.channels), "channel"), str(len(dataset.channels))))
    cards.append((_plural(len(dataset.labels), "label"), str(len(dataset.labels))))
    if dataset.regions:
        cards.append((_plural(len(dataset.regions), "region"), str(len(dataset.regions))))
    parts = [_cards(cards)]
    facts = [["channels", ", ".join(escape(name) for name in dataset.channels)]]
    facts.append(["labels", ", ".join(f"{escape(name)} = {value}" for name, value in dataset.labels.items())])
    if dataset.regions:
        regions = (f"{escape(name)} = {' + '.join(map(str, values))}" for name, values in dataset.regions.items())
        facts.append(["regions", ", ".join(regions)])
    if dataset.ignore_label is not None:
        facts.append(["ignored value", str(dataset.ignore_label)])
    if cases:
        for axis, name in enumerate("zyx"):
            voxels = median_and_range([case.shape[axis] for case in cases], 0)
            spacing = median_and_range([case.spacing[axis] for case in cases], 2)
            facts.append([f"{name} axis, median (range)", f"{voxels} voxels of {spacing} mm"])
    facts.append(["layout", f"{escape(dataset.layout)}, read from {escape(str(dataset.root))}"])
    parts.append(_table(["", ""], facts))
    volumes = []
    for name, value in dataset.labels.items():
        sizes = [case.label_voxels.get(value, 0) * float(np.prod(case.spacing)) / 1000 for case in cases]
        present = [volume for volume in sizes if volume > 0]
        volumes.append(
            [escape(name), f"{len(present)} of {len(sizes)}", median_and_range(present, 2) if present else "–"]
        )
    if volumes and cases:
        parts.append("<h3>Label volumes</h3>")
        parts.append(_table(["", "cases with it", "ml, median (range)"], volumes, numbers=True))
    return "".join(parts)


def _plan(plan: Plan) -> str:
    reasons = explanations(plan)
    budget = f"{plan.gpu_memory_gb:g} GB" if plan.device != "cpu" else "CPU"
    parts = [
        f"<p>Planned by <b>{escape(plan.planner)}</b> for {escape(plan.device)} ({budget}); recommended "
        f"configuration: <b>{escape(plan.recommended)}</b>.</p>"
    ]
    general = [item for item in reasons if not item[0].startswith("configurations.")]
    if general:
        parts.append(_reasons_table(general, ""))
    for name in sorted(plan.configurations, key=lambda name: name != plan.recommended):
        configuration = plan.configurations[name]
        prefix = f"configurations.{name}."
        own = [item for item in reasons if item[0].startswith(prefix)]
        table = _facts(configuration) + (_reasons_table(own, prefix) if own else "")
        parts.append(f"<h3>{escape(name)}</h3>{table}")
    text = escape(json.dumps(plan.model_dump(mode="json"), indent=2))
    parts.append(f"<details><summary>The whole plan</summary><pre>{text}</pre></details>")
    return "".join(parts)


def _facts(configuration: Configuration) -> str:
    cards = [
        ("patch, voxels", _show(configuration.patch_size, "patch_size")),
        ("spacing, mm", _show(configuration.spacing, "spacing")),
        ("batch size", str(configuration.batch_size)),
        ("network", f"{configuration.network.family} {resized(configuration.network).summary}"),
    ]
    previous = configuration.previous
    if previous is not None and previous.use == "box":
        cards.append(("works", f"inside {previous.output} of {previous.configuration}"))
    elif previous is not None:
        cards.append(("further input", f"segmentation by {previous.configuration}"))
    if configuration.target is not None:
        cards.append(("segments", ", ".join(output.name for output in configuration.target.outputs)))
    if configuration.parameters:
        cards.append(("parameters", _millions(configuration.parameters)))
    if configuration.memory is not None:
        cards.append(("memory of a step", f"{configuration.memory.total / 1e9:.1f} GB"))
    return _cards(cards)


def _reasons_table(items: Iterable[tuple[str, Any, str]], prefix: str) -> str:
    rows = [
        [escape(path.removeprefix(prefix)), escape(_show(value, path)), escape(reason)] for path, value, reason in items
    ]
    return _table(["", "value", "because"], rows, value_column=1)


def _files(run: Run, results: Sequence[Results], folder: Path) -> str:
    paths = [run.path / name for name in ("plan.json", "dataset.json", "fingerprint.json", "splits.json")]
    for result in results:
        paths.append(run.path / result.name / "crossval" / "metrics.csv")
        paths += [run.path / result.name / "crossval" / "summary.json", run.path / result.name / POSTPROCESSING_FILE]
        for fold in result.folds:
            paths.append(run.fold(result.name, fold).validation / "metrics.csv")
    links = [
        f"<li><a href='{quote(Path(relpath(path, folder)).as_posix())}'>"
        f"{escape(path.relative_to(run.path).as_posix())}</a></li>"
        for path in paths
        if path.is_file()
    ]
    return f"<p class='muted'>Links lead to the run folder {escape(str(run.path))}.</p><ul>{''.join(links)}</ul>"


def _show(value: Any, path: str = "") -> str:
    """A plan's value as text; lists with a number for each axis are written 8×16×16."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        per_axis = path.rpartition(".")[2] in PER_AXIS and not nested
        parts = ("as it is" if item is None and per_axis else _show(item, path) for item in value)
        return ("×" if per_axis else ", ").join(parts) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_show(item, key)}" for key, item in value.items())
    if hasattr(value, "model_dump"):
        return _show({key: item for key, item in value.model_dump(mode="json").items() if key != "reasons"})
    return "none" if value is None else str(value)


def _plural(count: int, word: str) -> str:
    return word if count == 1 else word + "s"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else f"{count:,}"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(timedelta(seconds=seconds).total_seconds() / 60), 60)
    if not hours:
        return f"{minutes} min" if minutes else f"{seconds:.0f} s"
    return f"{hours} h {minutes} min"


def _cards(items: Sequence[tuple[str, str]]) -> str:
    cards = (f"<div class='card'><b>{escape(value)}</b><span>{escape(label)}</span></div>" for label, value in items)
    return f"<div class='cards'>{''.join(cards)}</div>"


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: bool = False,
    total: Sequence[str] | None = None,
    value_column: int | None = None,
) -> str:
    """A table of cells that are HTML already; headings are text. ``numbers``: all columns but the first."""

    def style(column: int) -> str:
        if numbers and column:
            return " class='number'"
        return " class='value'" if column == value_column else ""

    def line(cells: Sequence[str], attributes: str = "") -> str:
        return f"<tr{attributes}>{''.join(f'<td{style(c)}>{cell}</td>' for c, cell in enumerate(cells))}</tr>"

    head = "".join(f"<th{style(column)}>{escape(text)}</th>" for column, text in enumerate(heads))
    header = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    body = "".join(line(row) for row in rows) + (line(total, " class='total'") if total else "")
    return f"<div class='scroll'><table>{header}<tbody>{body}</tbody></table></div>"


def _figure(uri: str, alternative: str, caption: str) -> str:
    return (
        f"<figure class='wide'><img src='{uri}' alt='{escape(alternative)}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _svg_uri(text: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode("ascii")
