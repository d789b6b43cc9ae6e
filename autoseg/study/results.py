"""Results of a study: every setting evaluated on the same structures, and compared with the baseline."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autoseg.crossvalidation.holdout import MADE_OF
from autoseg.data.dataset import Case, Dataset
from autoseg.data.file_names import image_ending, result_ending
from autoseg.evaluation.cases import Structure, evaluate_pairs
from autoseg.evaluation.comparison import Comparison, compare_samples
from autoseg.evaluation.protocol import STANDARD_METRICS, EvaluationProtocol
from autoseg.evaluation.summary import Evaluation, Statistics
from autoseg.plans.plan import Plan
from autoseg.runs.fold import DONE
from autoseg.runs.run import Run
from autoseg.study.grid import Setting
from autoseg.study.preparation import FAILED, Study
from autoseg.utils.digest import file_digest
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, read_json_table, write_json

#: Column of the mean over the structures.
MEAN = "mean"

#: Stands for a fold where all folds of a run predict together.
TOGETHER = -1

#: Files beside a study's predicted test cases: which they are and what they were made of; why they can't be predicted.
TESTED, UNTESTED = "tested.json", "untested.json"


@dataclass(frozen=True)
class SettingResult:
    """The result of one setting.

    Attributes:
        setting: that was trained.
        plan: of the setting.
        status: ``done``, ``failed`` (with one of the seeds at least), or ``unfinished``.
        note: reason of a failure, or how many trainings are done.
        iterations: steps of a fold's training, its stages together; mean over folds and seeds, NaN without any.
        seconds: of a fold's training likewise, validation during training included.
        trained: number of finished trainings.
        evaluations: (seed, fold) → evaluation of its validation cases.
        tests: seed → evaluation of the test cases by all folds together; often there are none.
        untested: why these can't be predicted with one of the seeds; mostly empty.
    """

    setting: Setting
    plan: Plan
    status: Literal["done", "failed", "unfinished"]
    note: str
    iterations: float
    seconds: float
    trained: int
    evaluations: dict[tuple[int, int], Evaluation]
    tests: dict[int, Evaluation] = field(default_factory=dict)
    untested: str = ""

    def on_test(self, seeds: Sequence[int]) -> "SettingResult":
        """The same of the test cases; failed or unfinished unless they are scored with every seed."""
        evaluations = {(seed, TOGETHER): evaluation for seed, evaluation in self.tests.items()}
        if self.status != "done" or set(self.tests) == set(seeds):
            return replace(self, evaluations=evaluations)
        if self.untested:
            return replace(self, evaluations=evaluations, status="failed", note=self.untested)
        note = f"{len(self.tests)} of {len(seeds)} tested"
        return replace(self, evaluations=evaluations, status="unfinished", note=note)

    @property
    def seconds_per_iteration(self) -> float:
        """Measured seconds of a training step; NaN without any."""
        return self.seconds / self.iterations if self.iterations else math.nan

    @property
    def stages(self) -> list[str]:
        """Configurations that are trained, in order."""
        return [stage.name for stage in self.plan.stage().chain]

    @property
    def parameters(self) -> tuple[int, int]:
        """Number of trainable parameters of all stages, and the same plus running statistics."""
        parts = [self.plan.configurations[name] for name in self.stages]
        return sum(c.parameters for c in parts), sum(c.parameters_with_statistics for c in parts)

    def values(self, metric: str = "dice") -> dict[str, dict[str, float]]:
        """Structure (and :data:`MEAN`, where there are several) → case → value, averaged over seeds.

        As in ``autoseg compare``, a value that is undefined with one seed is undefined; the mean of structures is over
        those defined, with each seed.
        """
        collected: dict[str, dict[str, list[float]]] = {}
        for evaluation in self.evaluations.values():
            for row in evaluation.rows:
                collected.setdefault(row.target, {}).setdefault(row.case, []).append(row.values[metric])
            if len(evaluation.targets) > 1:
                for case in evaluation.cases:
                    mean = evaluation.case_mean(case, metric)
                    collected.setdefault(MEAN, {}).setdefault(case, []).append(mean)
        order = sorted(collected, key=lambda column: column == MEAN)
        return {column: {case: float(np.mean(v)) for case, v in collected[column].items()} for column in order}

    def between_seeds(self, column: str, metric: str = "dice") -> float:
        """Standard deviation over seeds of the mean over cases (of a structure, or :data:`MEAN`).

        NaN for one seed, and of what the setting does not segment.
        """
        targets = {target for evaluation in self.evaluations.values() for target in evaluation.targets}
        if column not in (targets | {MEAN} if len(targets) > 1 else targets):
            return math.nan
        means = []
        for seed in dict.fromkeys(seed for seed, _ in self.evaluations):
            parts = [evaluation for (of, _), evaluation in self.evaluations.items() if of == seed]
            of_cases = [
                part.case_mean(case, metric)
                if column == MEAN
                else next(row.values[metric] for row in part.rows if (row.case, row.target) == (case, column))
                for part in parts
                for case in part.cases
            ]
            means.append(Statistics.of(of_cases).mean)
        return Statistics.of(means).std


@dataclass(frozen=True)
class StudyTable:
    """A study's results.

    Attributes:
        study: settings, dataset and plans.
        results: one for each setting, in the grid's order.
        comparison: of the finished settings' Dice with the baseline's; None where there is nothing to compare.
        tested: the same of the test cases, by each setting's folds together; None where there are none.
    """

    study: Study
    results: tuple[SettingResult, ...]
    comparison: Comparison | None
    tested: "StudyTable | None" = None

    @property
    def failed(self) -> list[str]:
        """Names of the settings that failed, on the test cases, too."""
        results = (*self.results, *(() if self.tested is None else self.tested.results))
        return list(dict.fromkeys(result.setting.name for result in results if result.status == "failed"))

    @property
    def columns(self) -> list[str]:
        """Structures, and the mean where there are several."""
        names = [structure.name for structure in self.study.structures]
        return [*names, MEAN] if len(names) > 1 else names

    def notes(self) -> list[str]:
        """Sentences about settings that are not in the table or not compared."""
        notes = [f"{r.setting.name} {r.status}: {r.note}" for r in self.results if r.status != "done"]
        if self.tested is not None:
            notes += [f"{r.setting.name} can't be tested: {r.untested}" for r in self.results if r.untested]
        if self.comparison is None and len(self.results) > 1:
            baseline = self.study.grid.baseline
            done = [result.setting.name for result in self.results if result.status == "done"]
            notes.append(
                f"Nothing is compared: the baseline {baseline} is not finished."
                if baseline not in done
                else f"Nothing is compared: only {baseline} is finished."
            )
        if self.comparison is None:
            return notes
        others = [r.setting.name for r in self.results if r.status == "done"]
        others = [name for name in others if name not in self.comparison.names]
        if others:
            notes.append(
                f"Not compared with {self.comparison.baseline}, as they segment other structures: {', '.join(others)}."
            )
        return notes + self.comparison.notes()

    def records(self) -> list[dict[str, Any]]:
        """One flat record for each setting, with every number; undefined ones are NaN."""
        return [self._record(result) for result in self.results]

    def _record(self, result: SettingResult) -> dict[str, Any]:
        plan = result.plan
        last = plan.configurations[plan.recommended]
        memory = [c.memory for name in result.stages if (c := plan.configurations[name]).memory is not None]
        trainable, with_statistics = result.parameters
        record: dict[str, Any] = {
            "setting": result.setting.name,
            "status": result.status,
            "note": result.note,
            "planner": plan.planner,
            "channels": " ".join(plan.channel_names),
            "stages": " ".join(result.stages),
            "parameters": trainable,
            "parameters_with_statistics": with_statistics,
            "memory_gb": round(max((m.total for m in memory), default=0) / 1e9, 4) if memory else math.nan,
            "precision": memory[-1].precision if memory else "",
            "batch": last.batch_size,
            "patch": "×".join(map(str, last.patch_size)),
            "trainings": result.trained,
            "iterations": result.iterations,
            "seconds": result.seconds,
            "seconds_per_iteration": result.seconds_per_iteration,
        }
        values = result.values()
        for column in self.columns:
            own = Statistics.of(values.get(column, {}).values())
            record |= {f"{column} {key}": getattr(own, key) for key in ("n", "mean", "std", "median")}
            record[f"{column} between_seeds"] = result.between_seeds(column)
        if self.comparison is not None and result.setting.name in self.comparison.names:
            for column in self.comparison.columns:
                row = self.comparison.row(result.setting.name, column)
                keys = ("pairs", "difference", "low", "high", "p", "p_holm", "effect")
                record |= {f"{column} {key}": getattr(row, key) for key in keys}
        return record

    def to_json(self) -> dict[str, Any]:
        """Everything, for a JSON file; undefined values are null."""
        grid = self.study.grid
        return {
            "study": grid.name,
            "dataset": self.study.dataset.name,
            "baseline": grid.baseline,
            "folds": list(self.study.folds),
            "seeds": grid.seeds,
            "length": grid.length,
            "structures": {s.name: list(s.values) for s in self.study.structures},
            "settings": [
                {key: None if _undefined(value) else value for key, value in record.items()}
                for record in self.records()
            ],
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "notes": self.notes(),
            **({} if self.tested is None else {"test": self.tested.to_json()}),
        }


def collect_results(study: Study) -> StudyTable:
    """Evaluate and compare the finished trainings; stored evaluations are reused.

    Raises:
        AutosegError: a label map is unreadable.
    """
    results = tuple(_gather(study, setting) for setting in study.settings)
    tested = None
    if study.test_cases:
        of_test = tuple(result.on_test(study.grid.seeds) for result in results)
        tested = StudyTable(study, of_test, _compared(study, of_test))
    return StudyTable(study, results, _compared(study, results), tested)


def _compared(study: Study, results: Sequence[SettingResult]) -> Comparison | None:
    """The finished settings compared with the baseline, as far as they segment the same."""
    done = {result.setting.name: result for result in results if result.status == "done"}
    if study.grid.baseline not in done:
        return None
    values = {name: result.values() for name, result in done.items()}
    same = {name: of for name, of in values.items() if list(of) == list(values[study.grid.baseline])}
    return compare_samples(same, study.grid.baseline) if len(same) > 1 else None


def _gather(study: Study, setting: Setting) -> SettingResult:
    plan = study.plans[setting.name]
    evaluations, tests, iterations, seconds = {}, {}, [], []
    failure = untested = ""
    for seed in study.grid.seeds:
        run = Run(study.run_folder(setting, seed))
        for fold in study.folds:
            if not study.is_trained(setting, seed, fold):
                if not failure and study.is_begun(setting, seed) and (run.path / FAILED).exists():
                    failure = f"seed {seed}: {read_json(run.path / FAILED)['reason']}"
                continue
            evaluations[seed, fold] = _evaluate(study, setting, _validated(study, run, fold))
            done = [read_json(path) for stage in plan.stage().chain if (path := run.fold(stage, fold).done).exists()]
            iterations.append(sum(part["iterations"] for part in done))
            seconds.append(sum(part["seconds"] for part in done))
        if not study.test_cases or not all(study.is_trained(setting, seed, fold) for fold in study.folds):
            continue
        if reason := _why_untested(study, run):
            untested = untested or f"seed {seed}: {reason}"
        elif (found := tested_cases(study, run)) is not None:
            tests[seed] = _evaluate(study, setting, found)
    expected = len(study.grid.seeds) * len(study.folds)
    status: Literal["done", "failed", "unfinished"] = "done"
    if len(evaluations) < expected:
        status = "failed" if failure else "unfinished"
    return SettingResult(
        setting=setting,
        plan=plan,
        status=status,
        note=failure if status == "failed" else "" if status == "done" else f"{len(evaluations)} of {expected} trained",
        iterations=float(np.mean(iterations)) if iterations else math.nan,
        seconds=float(np.mean(seconds)) if seconds else math.nan,
        trained=len(evaluations),
        evaluations=evaluations,
        tests=tests,
        untested=untested,
    )


@dataclass(frozen=True)
class _Predicted:
    """Predicted cases.

    Attributes:
        labels: folder of their label maps, and of their evaluation if there is one.
        out: folder for an evaluation on the study's structures.
        made_of: what they were predicted with.
        cases: whose label maps they are.
        evaluated: whether the folder of the label maps has an evaluation on the plan's structures.
    """

    labels: Path
    out: Path
    made_of: Any
    cases: Sequence[Case]
    evaluated: bool


def _validated(study: Study, run: Run, fold: int) -> _Predicted:
    """The validation cases of a fold; a later one may choose others of its predictions, as where a source is tuned."""
    folder = run.fold(run.plan.recommended, fold).folder
    cases = [study.dataset.case(case) for case in study.splits[fold]["validation"]]
    metrics = folder / "validation" / "metrics.csv"
    made_of = {**read_json(folder / DONE), "validation": file_digest(metrics) if metrics.exists() else None}
    return _Predicted(folder / "validation", folder / "study", made_of, cases, True)


def folder_of_test(study: Study, run: Run) -> Path:
    """Folder of a run's predictions of the test cases: ``test``, of another dataset ``test_<dataset>``."""
    if study.test is None:
        return run.test(run.plan.stage())
    return run.path / run.plan.recommended / f"test_{re.sub(r'[^A-Za-z0-9_.-]+', '_', study.test.name)}"


def asked_of_test(study: Study) -> dict[str, Any]:
    """Which folds predict which test cases; these by the files' names, sizes and times, as a dataset may move."""
    return {
        "folds": list(study.folds),
        "cases": [
            [case.id, *([file.name, stat.st_size, stat.st_mtime_ns] for file, stat in _present(case))]
            for case in study.test_cases
        ],
    }


def _present(case: Case) -> list[tuple[Path, os.stat_result]]:
    return [(file, file.stat()) for file in case.files if file.exists()]


def _told_of_test(study: Study, run: Run, name: str) -> dict[str, Any] | None:
    """What a file of the test's folder says, if it is of the folds and cases of this study."""
    path = folder_of_test(study, run) / name
    found = read_json_table(path)
    return found if all(found.get(key) == value for key, value in asked_of_test(study).items()) else None


def _why_untested(study: Study, run: Run) -> str:
    """Why the test cases can't be predicted, as the last try ended; empty where it did well."""
    return str((_told_of_test(study, run, UNTESTED) or {}).get("reason", ""))


def tested_cases(study: Study, run: Run) -> _Predicted | None:
    """The test cases, predicted by the study's folds of a trained run; None where they are not."""
    folder, found = folder_of_test(study, run), _told_of_test(study, run, TESTED)
    if found is None:
        return None
    if study.test is not None:
        return _Predicted(folder, folder / "study", found, study.test_cases, False)
    made_of = read_json(folder / MADE_OF) if (folder / MADE_OF).exists() else None
    if found.get("made_of") != made_of:
        return None  # scored since, by other folds
    return _Predicted(folder, folder / "study", made_of, study.test_cases, True)


def _evaluate(study: Study, setting: Setting, predicted: _Predicted) -> Evaluation:
    """Predicted cases on the structures that a setting is evaluated on, measured once."""
    plan, structures, extra = study.plans[setting.name], study.structures_of(setting), _further_metrics(study)
    dataset = study.dataset if study.test is None or predicted.evaluated else study.test
    if predicted.evaluated and not extra and _measured_by_training(plan, structures, dataset):
        return Evaluation.read(predicted.labels).counting_absent(study.rules.empty)
    made_from = {"trained": predicted.made_of, "structures": [[s.name, list(s.values)] for s in structures]}
    # Only where they are not the usual ones, so that evaluations of an earlier version are used again.
    made_from |= {"metrics": extra} if extra else {}
    if (predicted.out / "made_from.json").exists() and read_json(predicted.out / "made_from.json") == made_from:
        return Evaluation.read(predicted.out).counting_absent(study.rules.empty)
    pairs = []
    for case in predicted.cases:
        if case.label is None:
            raise AutosegError(f"case {case.id} of {dataset.root} has no label to evaluate with.")
        pairs.append((case.id, _label_map(predicted.labels, case, plan), case.label))
    protocol = EvaluationProtocol(
        empty=study.rules.empty,
        ignore=dataset.ignore_label,
        metrics=(*STANDARD_METRICS, *extra) if extra else None,
    )
    evaluate_pairs(pairs, structures, predicted.out, protocol)
    write_json(predicted.out / "made_from.json", made_from)
    return Evaluation.read(predicted.out)  # rounded as in the file, so that the table is the same next time


def _label_map(folder: Path, case: Case, plan: Plan) -> Path:
    """A predicted label map: of the run's own cases it has the plan's ending, else that of the scan."""
    own = folder / f"{case.id}{result_ending(plan.file_ending)}"
    if own.exists():
        return own
    first = next(iter(case.channels.values()))
    return folder / f"{case.id}{result_ending(image_ending(first.path), plan.file_ending)}"


def _further_metrics(study: Study) -> list[str]:
    """Metrics of the tables that are not measured anyway."""
    named = [metric for table in study.grid.table for metric in table.metrics]
    return [metric for metric in dict.fromkeys(named) if metric not in STANDARD_METRICS]


def _measured_by_training(plan: Plan, structures: Sequence[Structure], dataset: Dataset) -> bool:
    """Whether the evaluation at the end of a training has these structures and the dataset's ignore label."""
    outputs = [(output.name, tuple(output.values)) for output in plan.target.outputs]
    return outputs == [(s.name, s.values) for s in structures] and plan.target.ignore == dataset.ignore_label


def _undefined(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def trained_cases(results: Sequence[SettingResult]) -> int:
    """Cases that any setting was validated on."""
    return len({case for r in results for e in r.evaluations.values() for case in e.cases})
