"""A teacher (``--teacher``): a trained run that another one learns from, copied into that one's folder at planning.

Rahimpour et al. 2022: a student that is given fewer MR sequences learns from a teacher that was given all.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from autoseg.data.dataset import Dataset
from autoseg.inference.members import load_member
from autoseg.planning.carried import CARRIED
from autoseg.planning.derived import refresh
from autoseg.planning.request import Request
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Distillation
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.runs.run import SOURCE_SHARE, Run
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.shell import quoted

#: Folder in the student's run folder. In it, under the name of its content, is a run folder with no more than what
#: prediction needs; earlier versions put that run folder right here.
TEACHER_FOLDER = "teacher"

#: What is copied beside the weights.
_FILES = ("plan.json", "fingerprint.json", "dataset.json", "splits.json")

#: Before the name of a copy that is not finished.
_UNFINISHED = f".{TEACHER_FOLDER}."


@dataclass(frozen=True)
class TeacherModel:
    """A trained run as a teacher.

    Attributes:
        run: its run folder.
        stage: that predicts.
        folds: that are trained in it and in all stages before it; those of its source, where it keeps that as it is.
        kept: weights of these folds of its source, where it keeps that.
    """

    run: Run
    stage: Stage
    folds: tuple[int, ...]
    kept: tuple[Path, ...] = ()

    @classmethod
    def of(cls, path: str | Path) -> "TeacherModel":
        """The recommended configuration of a run, or the one that is trained, with whatever folds there are."""
        run = Run.open(path)
        stage = run.plan.stage(run.usual_configuration())
        trained = [set(run.trained_folds(each.name)) for each in stage.chain]
        if kept := run.kept_source(stage):
            return cls(run, stage, tuple(range(len(kept))), tuple(kept))
        return cls(run, stage, tuple(sorted(set.intersection(*trained))))

    def asked(self, folds: Sequence[int]) -> Sequence[int] | None:
        """Some of its folds, as a prediction names them: None for all of a source that it keeps."""
        return None if self.kept else folds

    @property
    def target(self) -> Target:
        """What its scores are of: of a source that it keeps, all that this segments."""
        return self.run.used(self.stage).result if self.kept else self.stage.result

    @property
    def weights(self) -> list[str]:
        """Files of weights, of every stage, relative to the run folder, and what says that a source is kept."""
        if self.kept:
            own = [fold.weights for fold in self.run.folds(self.stage)]
            found = [*own, *self.kept, self.run.path / self.stage.name / SOURCE_SHARE]
        else:
            found = [self.run.fold(stage, fold).weights for stage in self.stage.chain for fold in self.folds]
        return [str(path.relative_to(self.run.path)) for path in found]

    @cached_property
    def content(self) -> str:
        """Fingerprint of its plan, splits and weights."""
        found = hashlib.sha256()
        for name in ("plan.json", "splits.json", *self.weights):
            found.update(hashlib.sha256((self.run.path / name).read_bytes()).digest())
        return found.hexdigest()[:16]

    @property
    def learned(self) -> set[str]:
        """Names of the cases of its dataset that the source it started from was trained on."""
        return {name for one in self.stage.chain for name in one.recipe.initialization.learned}

    def unseen(self, cases: Sequence[str]) -> tuple[int, ...]:
        """Folds that were trained on none of these cases (by name): of a source that it keeps, all or none."""
        if self.kept:
            return self.folds if self.learned.isdisjoint(cases) else ()
        splits = self.run.splits
        return tuple(k for k in self.folds if k < len(splits) and set(splits[k]["train"]).isdisjoint(cases))


@CARRIED.register("teacher")
@dataclass(frozen=True)
class Teacher:
    """A run that somebody asks to learn from; its outputs are a further term of the loss.

    Attributes:
        path: its run folder.
    """

    path: str | Path
    kind: ClassVar[str] = "teacher"
    option: ClassVar[str] = "--teacher"
    provides: ClassVar[str] = "which model is learned from"
    start: ClassVar[str] = "scratch"

    @cached_property
    def model(self) -> TeacherModel:
        """The run, opened."""
        return TeacherModel.of(self.path)

    @property
    def content(self) -> str:
        """Fingerprint of its plan, splits and weights."""
        return self.model.content

    @cached_property
    def distillation(self) -> Distillation:
        """The recipe's part that names the teacher, with the usual weight and temperature."""
        weight, temperature = (Distillation.model_fields[name].default for name in ("weight", "temperature"))
        model = self.model
        return Distillation(
            teacher=self.content,
            reasons={
                "weight": f"{weight:g}, ours: as much as Dice and as cross-entropy",
                "temperature": f"{temperature:g}, ours",
                "teacher": f"{model.stage.name} of {model.run.path}, {list_folds(model.folds)}"
                f"{' of the source that it keeps' if model.kept else ''}; copied to {TEACHER_FOLDER}",
            },
        )

    def check(self, request: Request, dataset: Dataset, out: Path) -> "Teacher":
        """Refuse a run that can't teach on this dataset.

        Raises:
            AutosegError: nothing is trained, weights are damaged, or a channel is missing that the teacher needs.
            UsageError: it is the student's own run folder, or learned several annotations separately.
        """
        path = self.path
        if Path(path).resolve() == out.resolve():
            raise UsageError(
                f"--teacher {path} is the run folder that --out writes; choose another one for the student."
            )
        teacher = self.model
        if not teacher.folds:
            name = teacher.stage.name
            raise AutosegError(f"--teacher {path} has no trained fold of {name}; {teacher.run.how_to_train(name)}.")
        plan = teacher.run.plan
        if teacher.stage.annotators:
            raise UsageError(
                f"--teacher {path} learned several annotators separately and can't teach; choose one that learned from "
                "one label map a case."
            )
        for name in _FILES:
            if not (teacher.run.path / name).is_file():
                raise AutosegError(f"--teacher {path} lacks its {name}; take a run folder that is whole.")
        does_without = teacher.stage.takes_missing_channels
        lacking = [name for name in plan.channel_names if name not in dataset.channels]
        if lacking and not (does_without and len(lacking) < len(plan.channels)):
            raise AutosegError(
                f"--teacher {path} needs the channel {', '.join(lacking)}, which {dataset.name} does not have "
                f"({', '.join(dataset.channels)}); choose a teacher that was trained on its channels."
            )
        for case in dataset.cases:
            absent = [name for name in plan.channel_names if name not in case.channels]
            if absent and not (does_without and len(absent) < len(plan.channels)):
                raise AutosegError(
                    f"case {case.id} lacks the channel {', '.join(absent)}, which --teacher {path} needs; take the "
                    "case out, or choose a teacher that was trained "
                    f"{'on other channels' if does_without else 'for missing channels'}."
                )
        # All of it, so that a damaged file is found now and not in the student's training.
        load_member(teacher.run, teacher.stage.name, teacher.asked(teacher.folds), torch.device("cpu"), "weights")
        return self

    def apply(self, plan: Plan) -> Plan:
        """The plan with the teacher's term in the loss of all configurations."""
        return distilled(plan, self.distillation)

    def check_plan(self, plan: Plan) -> None:
        """Refuse a plan with outputs that the teacher lacks."""
        for stage in plan.stages:
            match_heads(stage.target, self.model.target)

    def install(self, plan: Plan, run: Path) -> None:
        """Copy what predicting needs of the teacher into the student's run folder."""
        teacher, place = self.model, run / TEACHER_FOLDER / self.content
        if _holds(place, self.content):
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=run) as temporary:
            copy = Path(temporary) / TEACHER_FOLDER
            for name in (*_FILES, *teacher.weights):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(teacher.run.path / name, copy / name)
            if place.exists():
                os.replace(place, Path(temporary) / "damaged")
            os.replace(copy, place)

    @classmethod
    def remove_unused(cls, run: Path, plan: Plan) -> None:
        """Remove the teachers that the plan does not name, and copies that a kill left unfinished."""
        used = {stage.recipe.distillation.teacher for stage in plan.stages if stage.recipe.distillation is not None}
        folder = run / TEACHER_FOLDER
        of_now = {content for content in used if (folder / content).is_dir()}
        if used == of_now:  # else it lies right in the folder, as earlier versions had it
            for path in folder.glob("*"):
                if path.name not in used:
                    _remove(path)
            if not used:
                shutil.rmtree(folder, ignore_errors=True)
        for path in run.glob(f"{_UNFINISHED}*"):
            _remove(path)


def _holds(place: Path, content: str) -> bool:
    """Whether a folder is a whole copy of the teacher with this content."""
    try:
        return TeacherModel.of(place).content == content
    except (AutosegError, OSError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def distilled(plan: Plan, distillation: Distillation) -> Plan:
    """The plan with a teacher's term in the loss of all configurations, and the memory that it takes."""
    configurations = {}
    for stage in plan.stages:
        recipe = stage.recipe.model_copy(update={"distillation": distillation})
        configurations[stage.name] = stage.configuration.model_copy(update={"recipe": recipe})
    return refresh(plan.model_copy(update={"configurations": configurations}))


def list_folds(folds: Sequence[int]) -> str:
    """``fold 2`` or ``folds 0, 1``."""
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"


def match_heads(target: Target, teacher: Target) -> list[list[int]]:
    """For each head of a student, the teacher's heads that it is made of.

    Outputs are matched by name. Labels that the student does not have belong to its background.

    Raises:
        AutosegError: the teacher lacks one of the student's outputs, or one has labels and the other regions.
    """
    places = {output.name: index for index, output in enumerate(teacher.outputs)}
    missing = [output.name for output in target.outputs if output.name not in places]
    if missing or target.kind != teacher.kind:
        raise AutosegError(
            f"--teacher segments the {teacher.kind} {', '.join(places)}, the student the {target.kind} "
            f"{', '.join(output.name for output in target.outputs)}: a teacher must have every output of the student, "
            "by the same name and of the same kind."
        )
    wanted = [places[output.name] for output in target.outputs]
    if target.kind == "regions":
        return [[index] for index in wanted]
    rest = [index for index in places.values() if index not in wanted]
    return [[0, *(index + 1 for index in rest)], *([index + 1] for index in wanted)]


def installed_teacher(run: Run, distillation: Distillation) -> TeacherModel:
    """The teacher in a student's run folder.

    Raises:
        AutosegError: it is gone, or is not the one that the plan was made for.
    """
    folder = run.path / TEACHER_FOLDER
    path = folder / distillation.teacher
    if not path.is_dir():
        path = folder  # where earlier versions put it
    remedy = f"plan {run.path} again with 'autoseg plan DATASET --out {quoted(run.path)} --teacher TEACHER'"
    if not (path / "plan.json").is_file():
        raise AutosegError(f"{path} is missing, which the plan learns from; {remedy}.")
    teacher = TeacherModel.of(path)
    if teacher.content != distillation.teacher:
        raise AutosegError(f"{path} is not the teacher that the plan was made for; {remedy}.")
    return teacher
