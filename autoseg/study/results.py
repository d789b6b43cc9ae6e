"""Results of a study: every setting evaluated on the same structures, and compared with the baseline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from autoseg.data.file_names import result_ending
from autoseg.evaluation.cases import evaluate_pairs
from autoseg.evaluation.comparison import Comparison, compare_samples
from autoseg.evaluation.protocol import EvaluationProtocol
from autoseg.evaluation.summary import Evaluation, Statistics
from autoseg.plans.plan import Plan
from autoseg.runs.fold import DONE
from autoseg.runs.run import Run
from autoseg.study.grid import Setting
from autoseg.study.preparation import FAILED, Study
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, write_json

#: Column of the mean over the structures.
MEAN = "mean"


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
        evaluations: (seed, fold) → evaluation.
    """

    setting: Setting
    plan: Plan
    status: Literal["done", "failed", "unfinished"]
    note: str
    iterations: float
    seconds: float
    trained: int
    evaluations: dict[tuple[int, int], Evaluation]

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
        """Standard deviation over seeds of the mean over cases (of a structure, or :data:`MEAN`); NaN for one seed."""
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
    """

    study: Study
    results: tuple[SettingResult, ...]
    comparison: Comparison | None

    @property
    def failed(self) -> list[str]:
        """Names of the settings that failed."""
        return [result.setting.name for result in self.results if result.status == "failed"]

    @property
    def columns(self) -> list[str]:
        """Structures, and the mean where there are several."""
        names = [structure.name for structure in self.study.structures]
        return [*names, MEAN] if len(names) > 1 else names

    def notes(self) -> list[str]:
        """Sentences about settings that are not in the table or not compared."""
        notes = [f"{r.setting.name} {r.status}: {r.note}" for r in self.results if r.status != "done"]
        if self.comparison is None and len(self.results) > 1:
            baseline = self.study.grid.baseline
            done = [result.setting.name for result in self.results if result.status == "done"]
            notes.append(
                f"Nothing is compared: the baseline {baseline} is not finished."
                if baseline not in done
                else f"Nothing is compared: only {baseline} is finished."
            )
        return notes if self.comparison is None else notes + self.comparison.notes()

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
        }


def collect_results(study: Study) -> StudyTable:
    """Evaluate and compare the finished trainings; stored evaluations are reused.

    Raises:
        AutosegError: a label map is unreadable.
    """
    results = [_gather(study, setting) for setting in study.settings]
    done = {result.setting.name: result for result in results if result.status == "done"}
    comparison = None
    if study.grid.baseline in done and len(done) > 1:
        comparison = compare_samples({name: result.values() for name, result in done.items()}, study.grid.baseline)
    return StudyTable(study, tuple(results), comparison)


def _gather(study: Study, setting: Setting) -> SettingResult:
    plan = study.plans[setting.name]
    evaluations, iterations, seconds = {}, [], []
    failure = ""
    for seed in study.grid.seeds:
        run = Run(study.run_folder(setting, seed))
        for fold in study.folds:
            if not study.is_trained(setting, seed, fold):
                if not failure and study.is_begun(setting, seed) and (run.path / FAILED).exists():
                    failure = f"seed {seed}: {read_json(run.path / FAILED)['reason']}"
                continue
            evaluations[seed, fold] = _evaluate(study, run, plan, fold)
            done = [read_json(path) for stage in plan.stage().chain if (path := run.fold(stage, fold).done).exists()]
            iterations.append(sum(part["iterations"] for part in done))
            seconds.append(sum(part["seconds"] for part in done))
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
    )


def _evaluate(study: Study, run: Run, plan: Plan, fold: int) -> Evaluation:
    """The fold's validation cases on the study's structures, measured once for each training."""
    folder = run.fold(plan.recommended, fold).folder
    if _measured_by_training(study, plan):
        return Evaluation.read(folder / "validation")
    out = folder / "study"
    made_from = {
        "trained": read_json(folder / DONE),
        "structures": [[s.name, list(s.values)] for s in study.structures],
    }
    if (out / "made_from.json").exists() and read_json(out / "made_from.json") == made_from:
        return Evaluation.read(out)
    pairs = []
    for case_id in study.splits[fold]["validation"]:
        label = study.dataset.case(case_id).label
        if label is None:
            raise AutosegError(f"case {case_id} of {study.dataset.root} has no label to evaluate with.")
        pairs.append((case_id, folder / "validation" / f"{case_id}{result_ending(plan.file_ending)}", label))
    evaluate_pairs(pairs, study.structures, out, EvaluationProtocol(ignore=study.dataset.ignore_label))
    write_json(out / "made_from.json", made_from)
    return Evaluation.read(out)  # rounded as in the file, so that the table is the same next time


def _measured_by_training(study: Study, plan: Plan) -> bool:
    """Whether the validation at the end of a training has the study's structures and ignore label."""
    outputs = [(output.name, tuple(output.values)) for output in plan.target.outputs]
    return (
        outputs == [(s.name, s.values) for s in study.structures] and plan.target.ignore == study.dataset.ignore_label
    )


def _undefined(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def trained_cases(results: Sequence[SettingResult]) -> int:
    """Cases that any setting was validated on."""
    return len({case for r in results for e in r.evaluations.values() for case in e.cases})
