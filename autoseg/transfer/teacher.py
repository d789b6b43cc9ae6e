"""A teacher: a trained run that another one learns from, checked, and copied into that one's folder at planning.

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

import torch

from autoseg.data.dataset import Dataset
from autoseg.inference.members import load_member
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Distillation
from autoseg.plans.target import Target
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError, UsageError

#: Folder in the student's run folder: a run folder of its own, with no more than what prediction needs.
FOLDER = "teacher"

#: What is copied beside the weights.
_FILES = ("plan.json", "fingerprint.json", "dataset.json", "splits.json")


@dataclass(frozen=True)
class Teacher:
    """A trained run as a teacher.

    Attributes:
        run: its run folder.
        configuration: that predicts.
        folds: that are trained in it and in all stages before it.
    """

    run: Run
    configuration: str
    folds: tuple[int, ...]

    @classmethod
    def of(cls, path: str | Path) -> "Teacher":
        """The recommended configuration of a run, or the one that is trained, with whatever folds there are."""
        run = Run.open(path)
        name = run.usual_configuration()
        trained = [set(run.trained_folds(stage)) for stage in run.plan.stages(name)]
        return cls(run, name, tuple(sorted(set.intersection(*trained))))

    @property
    def target(self) -> Target:
        """What it speaks about."""
        return self.run.plan.result_of(self.configuration)

    @property
    def weights(self) -> list[str]:
        """Files of weights, of every stage, relative to the run folder."""
        return [
            str((self.run.fold(stage, fold).weights).relative_to(self.run.path))
            for stage in self.run.plan.stages(self.configuration)
            for fold in self.folds
        ]

    @cached_property
    def content(self) -> str:
        """Fingerprint of its plan, splits and weights."""
        found = hashlib.sha256()
        for name in ("plan.json", "splits.json", *self.weights):
            found.update(hashlib.sha256((self.run.path / name).read_bytes()).digest())
        return found.hexdigest()[:16]

    def unseen(self, cases: Sequence[str]) -> tuple[int, ...]:
        """Folds that were trained on none of these cases (by name)."""
        splits = self.run.splits
        return tuple(k for k in self.folds if k < len(splits) and set(splits[k]["train"]).isdisjoint(cases))


def open_teacher(path: str | Path, dataset: Dataset, out: str | Path) -> Teacher:
    """A run as a teacher on a dataset, once it is known to be able to.

    Args:
        path: run folder.
        dataset: that the student will be trained on.
        out: the student's run folder.

    Raises:
        AutosegError: nothing is trained, weights are damaged, or a channel is missing that the teacher needs.
        UsageError: it is the student's own run folder.
    """
    if Path(path).resolve() == Path(out).resolve():
        raise UsageError(f"--teacher {path} is the run folder that --out writes; choose another one for the student.")
    teacher = Teacher.of(path)
    if not teacher.folds:
        raise AutosegError(
            f"--teacher {path} has no trained fold of {teacher.configuration}; train it first with "
            f"'autoseg train {path}'."
        )
    plan = teacher.run.plan
    if plan.raters:
        raise UsageError(
            f"--teacher {path} learned several raters separately and can't teach; choose one that learned from "
            "one label map a case."
        )
    for name in _FILES:
        if not (teacher.run.path / name).is_file():
            raise AutosegError(f"--teacher {path} lacks its {name}; take a run folder that is whole.")
    does_without = plan.takes_missing_channels(plan.configurations[teacher.configuration])
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
                f"case {case.id} lacks the channel {', '.join(absent)}, which --teacher {path} needs; take the case "
                "out, or choose a teacher that was trained "
                f"{'on other channels' if does_without else 'for missing channels'}."
            )
    # All of it, so that a damaged file is found now and not in the student's training.
    load_member(teacher.run, teacher.configuration, teacher.folds, torch.device("cpu"), "weights")
    return teacher


def distillation_of(teacher: Teacher) -> Distillation:
    """The recipe's part that names a teacher, with the usual weight and temperature."""
    weight, temperature = (Distillation.model_fields[name].default for name in ("weight", "temperature"))
    return Distillation(
        teacher=teacher.content,
        reasons={
            "weight": f"{weight:g}, ours: as much as Dice and as cross-entropy",
            "temperature": f"{temperature:g}, ours",
            "teacher": f"{teacher.configuration} of {teacher.run.path}, {say_folds(teacher.folds)}; copied to {FOLDER}",
        },
    )


def say_folds(folds: Sequence[int]) -> str:
    """``fold 2`` or ``folds 0, 1``."""
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"


def heads_of(target: Target, teacher: Target) -> list[list[int]]:
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


def check_student(plan: Plan, teacher: Teacher) -> None:
    """Refuse a plan whose outputs a teacher does not speak of.

    Raises:
        AutosegError: names the outputs of both.
    """
    for configuration in plan.configurations.values():
        heads_of(plan.target_of(configuration), teacher.target)


def keep_teacher(teacher: Teacher, out: str | Path) -> None:
    """Copy what predicting needs of a teacher into the student's run folder, in place of a teacher of before."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".teacher.", dir=out) as temporary:
        copy = Path(temporary) / FOLDER
        for name in (*_FILES, *teacher.weights):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(teacher.run.path / name, copy / name)
        if (out / FOLDER).exists():
            os.replace(out / FOLDER, Path(temporary) / "before")
        os.replace(copy, out / FOLDER)


def forget_teacher(out: str | Path) -> None:
    """Remove the teacher that an earlier plan of a run folder kept."""
    shutil.rmtree(Path(out) / FOLDER, ignore_errors=True)


def kept_teacher(run: Run, distillation: Distillation) -> Teacher:
    """The teacher in a student's run folder.

    Raises:
        AutosegError: it is gone, or is not the one that the plan was made for.
    """
    path = run.path / FOLDER
    remedy = f"plan {run.path} again with 'autoseg plan DATASET --out {run.path} --teacher TEACHER'"
    if not (path / "plan.json").is_file():
        raise AutosegError(f"{path} is missing, which the plan learns from; {remedy}.")
    teacher = Teacher.of(path)
    if teacher.content != distillation.teacher:
        raise AutosegError(f"{path} is not the teacher that the plan was made for; {remedy}.")
    return teacher
