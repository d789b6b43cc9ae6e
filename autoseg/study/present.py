"""A study's table for the terminal and as GitHub's Markdown."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from autoseg.evaluation.comparison import ComparisonRow
from autoseg.evaluation.paired import BOOTSTRAP_FROM
from autoseg.evaluation.summary import Statistics, number
from autoseg.plans.plan import Plan
from autoseg.study.paper_table import PaperTable
from autoseg.study.preparation import Study
from autoseg.study.results import SettingResult, StudyTable, trained_cases
from autoseg.study.table_layout import TableLayout
from autoseg.utils.shell import quoted

#: Headings of a setting's properties and cost.
FACTS = ("planner", "parameters", "step GB", "batch × patch", "iterations", "s/iteration")

#: Heading of the standard deviation over seeds of the last column's mean.
BETWEEN_SEEDS = "seeds"


def terminal_tables(table: StudyTable, *, wide: bool = True) -> list[Table]:
    """One table with everything; in a narrow terminal one of the settings' properties and one of their scores.

    The test cases' scores follow, and the tables that the grid file lays out.
    """
    found = _terminal_tables(table, wide, "cases")
    if table.tested is not None:
        found.append(_terminal_tables(table.tested, False, "test cases, the folds together")[-1])
    return [*found, *(laid_out(table, layout) for layout in table.study.grid.table)]


def laid_out(table: StudyTable, layout: TableLayout) -> Table:
    """A table of the grid file's, for the terminal."""
    paper = PaperTable.of(table, layout)
    found = Table(title=escape(paper.title), caption=escape(paper.note), box=box.SIMPLE_HEAD, show_edge=False)
    axes = len(layout.rows)
    for place, heading in enumerate(paper.headings):
        found.add_column(escape(heading), justify="left" if place < axes else "right", overflow="fold")
    for names, cells in paper.rows:
        texts = [f"[bold]{escape(cell.text)}[/bold]" if cell.bold else escape(cell.text) for cell in cells]
        found.add_row(*map(escape, names), *texts)
    return found


def _terminal_tables(table: StudyTable, wide: bool, what: str) -> list[Table]:
    facts = [facts_of(result) for result in table.results]
    scores = [scores_of(table, result) for result in table.results]
    title = f"{table.study.grid.name}: Dice, mean ± standard deviation over {trained_cases(table.results)} {what}"
    if wide:
        return [
            _table(title, [*FACTS, *score_headings(table)], table, [f + s for f, s in zip(facts, scores, strict=True)]),
        ]
    return [_table("", list(FACTS), table, facts), _table(title, score_headings(table), table, scores)]


def plan_table(study: Study) -> Table:
    """Table of ``--dry-run``: every setting's network, memory and patch."""
    table = Table(
        title=f"{escape(study.grid.name)}: {len(study.settings)} settings", box=box.SIMPLE_HEAD, show_edge=False
    )
    table.add_column("", overflow="fold")
    for heading in ("planner", "channels", "network", "parameters", "step GB", "batch × patch"):
        table.add_column(heading, overflow="fold")
    for setting in study.settings:
        plan = study.plans[setting.name]
        networks = [stage.network.summary for stage in plan.stage().chain]
        result = SettingResult(setting, plan, "unfinished", "", math.nan, math.nan, 0, {})
        planner, parameters, memory, patch = facts_of(result)[:4]
        cells = [planner, ", ".join(plan.channel_names), " → ".join(networks), parameters, memory, patch]
        table.add_row(escape(setting.name), *map(escape, cells))
    return table


def facts_of(result: SettingResult) -> list[str]:
    """A cell for each of :data:`FACTS`.

    Parameters include running statistics of normalization layers and all stages; memory is the largest of a stage;
    patch and batch are those of the last stage.
    """
    plan = result.plan
    last = plan.configurations[plan.recommended]
    return [
        plan.planner,
        f"{result.parameters[1]:,}",
        _memory(plan, result.stages),
        f"{last.batch_size} × {'×'.join(map(str, last.patch_size))}",
        number(result.iterations, 0),
        number(result.seconds_per_iteration, 3),
    ]


def score_headings(table: StudyTable) -> list[str]:
    """The structures, their mean, and with several seeds the standard deviation over them."""
    return [*table.columns, BETWEEN_SEEDS] if len(table.study.grid.seeds) > 1 else table.columns


def scores_of(table: StudyTable, result: SettingResult) -> list[str]:
    """A cell for each of :func:`score_headings`; without a result, the first one has the reason."""
    headings = score_headings(table)
    if result.status != "done":
        state = "failed" if result.status == "failed" else result.note
        return [state, *[""] * (len(headings) - 1)]
    values = result.values()
    cells = []
    for column in table.columns:
        found = Statistics.of(values.get(column, {}).values())
        text = number(found.mean, 3)
        cells.append(f"{text} ± {number(found.std, 3)}" if found.n > 1 else text)
    if len(headings) > len(cells):
        cells.append(f"± {number(result.between_seeds(table.columns[-1]), 3)}")
    return cells


def markdown(table: StudyTable) -> str:
    """The whole study as a Markdown page: its setup, the table, the comparison, and its verdicts."""
    study, grid = table.study, table.study.grid
    some_plan = next(iter(study.plans.values()))
    cases = trained_cases(table.results)
    lines = [
        f"# {grid.name}",
        "",
        f"{study.dataset.name}, {_count(len(study.folds), 'fold')} ({', '.join(map(str, study.folds))}), "
        f"{_count(len(grid.seeds), 'seed')}, {grid.length}; planned for {some_plan.device} with "
        f"{some_plan.gpu_memory_gb:g} GB. Dice: mean ± standard deviation over {cases} validation cases"
        + (", each averaged over the seeds; seeds: standard deviation of their means." if len(grid.seeds) > 1 else "."),
        "",
        f"    autoseg sweep {_short(study.dataset.root)} --grid {_short(study.source)} --out {_short(study.out)}",
        "",
    ]
    rows = [[_name(study, r.setting.name), *facts_of(r), *scores_of(table, r)] for r in table.results]
    lines += _markdown_table(["setting", *FACTS, *score_headings(table)], rows)
    lines += ["", *[f"- {note}" for note in table.notes()], ""]
    lines += _comparison(table)
    if table.tested is not None:
        tested = table.tested
        may_keep = any(plan.stage().recipe.initialization.is_chosen for plan in study.plans.values())
        lines += [
            "## Test set",
            "",
            f"Dice: mean ± standard deviation over {trained_cases(tested.results)} test cases that no fold has seen, "
            f"by {_count(len(study.folds), 'fold')} together, without post-processing"
            f"{' (by the source with its own, where a run keeps that)' if may_keep else ''}.",
            "",
        ]
        scores = [[_name(study, r.setting.name), *scores_of(tested, r)] for r in tested.results]
        lines += [*_markdown_table(["setting", *score_headings(tested)], scores), "", *_comparison(tested)]
    for layout in grid.table:
        lines += PaperTable.of(table, layout).markdown()
    return "\n".join(lines)


def _comparison(table: StudyTable) -> list[str]:
    """The comparison with the baseline; nothing where there is none."""
    found = table.comparison
    if found is None:
        return []
    where = "" if table.tested is not None or not table.study.test_cases else ", on the test set"
    lines = [f"## Compared with {found.baseline}{where}", ""]
    headings = ["", "setting", "Δ mean", f"{100 * found.bootstrap.confidence:g} % interval", "p", "p Holm", "effect"]
    compared = [row for row in found.rows if row.name != found.baseline]
    lines += _markdown_table(headings, [_compared(row) for row in compared])
    lines += ["", *[f"- {verdict}" for verdict in found.verdicts()], ""]
    return [
        *lines,
        "Paired over cases: Wilcoxon signed-rank test, Holm's correction over all rows, bootstrap interval (BCa; below "
        f"{BOOTSTRAP_FROM} cases Student's t), rank-biserial effect size.",
        "",
    ]


def _compared(row: ComparisonRow) -> list[str]:
    interval = f"{_signed(row.low)} … {_signed(row.high)}"
    return [row.column, row.name, _signed(row.difference), interval, _p(row.p), _p(row.p_holm), _signed(row.effect, 2)]


def _table(title: str, headings: Sequence[str], table: StudyTable, rows: Sequence[Sequence[str]]) -> Table:
    found = Table(
        title=escape(title) or None, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    found.add_column("", overflow="fold")
    for heading in headings:
        found.add_column(escape(heading), justify="left" if heading == "planner" else "right", overflow="fold")
    for result, cells in zip(table.results, rows, strict=True):
        found.add_row(escape(result.setting.name), *map(escape, cells))
    return found


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * 2 + ["---:"] * (len(headings) - 2)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (headings, rule, *rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def _memory(plan: Plan, stages: Sequence[str]) -> str:
    found = [memory for name in stages if (memory := plan.configurations[name].memory) is not None]
    if not found:
        return "–"
    most = max(found, key=lambda memory: memory.total)
    return f"{most.total / 1e9:.2f} ({most.precision})"


def _name(study: Study, name: str) -> str:
    return f"{name} (baseline)" if name == study.grid.baseline else name


def _short(path: Path) -> str:
    return quoted(path.name or path)


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _signed(value: float, digits: int = 4) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−")


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
