"""The run folder: what prediction, report and export need; it can be moved to a machine without the dataset.

RUN/plan.json  fingerprint.json  splits.json  dataset.json
RUN/initial_weights_<content>.safetensors    where a planned --weights FILE was given
RUN/source_<configuration>_<content>.safetensors    where a model is fine-tuned
RUN/source_cases_<content>.json    cases of the source's data that a fine-tuning mixes in
RUN/teacher/<content>/…            a run folder, where a planned --teacher was given
RUN/plan_<content>.json  splits_<content>.json    of before, where they were replaced
RUN/template.nii.gz                where the training data's brains were found with a template of the user's own
RUN/preprocessed/<data>/…          can be deleted and rebuilt
RUN/<configuration>/fold_<k>/      weights.safetensors  best.safetensors  training_state.pt
                                   history.csv  log.txt  validation/…
                                   tuned.safetensors: what a fine-tuning ended with, where it is compared
                                   start.json: what of the source a fine-tuning began with, where it is compared
RUN/<configuration>/source/        <number>.safetensors: all folds of the model that is fine-tuned, fitted to it
                                   untouched/: the same with all that it has, where that is more
RUN/<configuration>/source_share.json    how much of them is kept, where that is chosen
RUN/<configuration>/crossval/      metrics.csv  summary.json
RUN/<configuration>/test/          the same of the hold-out test set, and its label maps
RUN/<configuration>/               postprocessing.json
RUN/report/index.html
"""

import filecmp
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoseg.data.dataset import Dataset
from autoseg.data.file_names import image_ending
from autoseg.data.fingerprint import Fingerprint
from autoseg.plans.files import load_plan, save_plan
from autoseg.plans.plan import Plan
from autoseg.plans.postprocessing import Step
from autoseg.plans.reasons import without_reasons
from autoseg.plans.stage import Stage
from autoseg.runs.fold import Fold
from autoseg.runs.splits import Split, check_splits, read_splits
from autoseg.utils.digest import file_digest
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import atomic, first_fault, read_json, write_changed_json
from autoseg.utils.progress import say
from autoseg.utils.shell import quoted

#: File in a configuration's folder: which share of the source's weights was chosen.
SOURCE_SHARE = "source_share.json"

#: Beginning of the name of the file that keeps a template.
_TEMPLATE = "template"

#: The share that stands for the source's weights: all its folds, in the plan's network; and for the same untouched, as
#: its own run predicts, where that is something else: on images that the plan harmonizes and it was trained without,
#: or with channels, outputs or mirroring that the plan has not.
SOURCE, UNTOUCHED = 1.0, 2.0


@dataclass(frozen=True)
class Run:
    """A run folder and the paths in it; each of its files is read once, on first use."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open an existing run folder.

        Raises:
            AutosegError: there is no ``plan.json`` in it.
        """
        path = Path(path)
        if not (path / "plan.json").is_file():
            raise AutosegError(
                f"{path} is no run folder (it has no plan.json); make one with 'autoseg plan DATASET --out "
                f"{quoted(path)}'."
            )
        return cls(path)

    @classmethod
    def create(
        cls, path: str | Path, plan: Plan, fingerprint: Fingerprint, dataset: Dataset, splits: list[Split]
    ) -> "Run":
        """Write a new run folder, or a new plan into one: plan.json comes last, and files that stay are not touched.

        Splits that are replaced, and a plan that folds were trained by, stay beside the new ones
        (``splits_<digest>.json``, ``plan_<digest>.json``), which is said.

        Raises:
            UsageError: the folder holds a dataset.
        """
        path = Path(path)
        refuse_dataset_folder(path, dataset)
        path.mkdir(parents=True, exist_ok=True)
        _keep_earlier_splits(path / "splits.json", splits)
        _keep_earlier_plan(path / "plan.json", plan)
        write_changed_json(path / "fingerprint.json", fingerprint.model_dump(mode="json"))
        write_changed_json(path / "dataset.json", dataset.model_dump(mode="json"))
        write_changed_json(path / "splits.json", splits)
        _keep_template(path, dataset.preparation)
        save_plan(plan, path / "plan.json")
        return cls(path)

    @property
    def template(self) -> Path | None:
        """The skull-stripped template of the training data's preparation, where it was the user's own."""
        return next(iter(sorted(self.path.glob(f"{_TEMPLATE}.*"))), None)

    def __getstate__(self) -> dict[str, Path]:
        """The path alone: another process reads the files anew."""
        return {"path": self.path}

    @cached_property
    def plan(self) -> Plan:
        """The plan, validated."""
        return load_plan(self.path / "plan.json")

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the dataset that the planner used."""
        return _load(Fingerprint, self.path / "fingerprint.json")

    @property
    def regions(self) -> dict[str, list[int]]:
        """Values of the dataset's regions by name; none where the run does not know its dataset."""
        return self.fingerprint.regions if (self.path / "fingerprint.json").exists() else {}

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset the run was planned for (its files may be elsewhere by now)."""
        return _load(Dataset, self.path / "dataset.json")

    @cached_property
    def splits(self) -> list[Split]:
        """For each fold one ``{"train": [...], "validation": [...]}`` of case names.

        Raises:
            AutosegError: the file (which users may edit) is missing, is no such list, or does not fit the cases.
        """
        path = self.path / "splits.json"
        splits = read_splits(path)
        check_splits(splits, self.dataset, path)
        return splits

    @property
    def test_cases(self) -> list[str]:
        """Names of the cases of the hold-out test set, which no fold sees; often there are none."""
        return self.splits[0].get("test", [])

    def test(self, stage: Stage) -> Path:
        """Folder of the test set's predictions by a stage's folds, and of their evaluation."""
        return self.path / stage.name / "test"

    def preprocessed(self, data: str) -> Path:
        """Folder of the preprocessed cases called ``data``."""
        return self.path / "preprocessed" / data

    def fold(self, stage: Stage | str, number: int) -> Fold:
        """One fold of a stage, or of the configuration of that name.

        Raises:
            UsageError: the plan has no such configuration.
        """
        return Fold(self, self.plan.stage(stage) if isinstance(stage, str) else stage, number)

    def folds(self, stage: Stage | str) -> list[Fold]:
        """The folds of a stage that have finished weights, in order."""
        stage = self.plan.stage(stage) if isinstance(stage, str) else stage
        return [Fold(self, stage, number) for number in self.trained_folds(stage.name)]

    def trained_folds(self, configuration: str) -> list[int]:
        """Folds of a configuration that have finished weights."""
        found = (self.path / configuration).glob("fold_*/weights.safetensors")
        numbers = [path.parent.name.removeprefix("fold_") for path in found]
        return sorted(int(number) for number in numbers if number.isdecimal())  # skips fold_0_copy

    def source_folder(self, stage: Stage) -> Path:
        """Folder of the weights of all folds of the model that a stage is fine-tuned from."""
        return self.path / stage.name / "source"

    def untouched_folder(self, stage: Stage) -> Path:
        """Folder of these weights as the source's own run has them: another one where it has more than the plan."""
        own, folder = stage.recipe.initialization.untouched, self.source_folder(stage)
        return folder if own is None or not own.has_network else folder / "untouched"

    def kept_source(self, stage: Stage) -> list[Path]:
        """Those weights, where held-out cases say that no tuning is better than they are; else none."""
        share = self.kept_share(stage)
        if share < SOURCE:
            return []
        folder = self.untouched_folder(stage) if share == UNTOUCHED else self.source_folder(stage)
        return [folder / f"{n}.safetensors" for n in range(len(stage.recipe.initialization.ensemble))]

    def kept_steps(self, stage: Stage) -> tuple[Step, ...]:
        """The post-processing of that source, where it is kept, on the plan's label values.

        Steps on a source's own values are a part of how these are made of them
        (:class:`autoseg.inference.translation.Translation`).
        """
        share, start = self.kept_share(stage), stage.recipe.initialization
        own = start.untouched if share == UNTOUCHED else None
        return tuple(start.postprocessing) if share >= SOURCE and (own is None or own.target is None) else ()

    def source_steps(self, stage: Stage) -> list[Step]:
        """All of the source's post-processing where that is kept, on its own label values, too."""
        start = stage.recipe.initialization
        return start.steps_as_it_is if self.kept_share(stage) == UNTOUCHED else start.postprocessing

    def used(self, stage: Stage) -> Stage:
        """The stage as it predicts: where its source is kept untouched, that as its own run has it.

        That is so with all folds and with some, each of which stands for a fold of the source then; other checkpoints
        are of the stage as planned.
        """
        return stage.as_source if self.kept_share(stage) == UNTOUCHED else stage

    def source_choice(self, stage: Stage) -> dict[str, Any]:
        """What held-out cases chose of the plan's source; empty as long as they did not."""
        path, initialization = self.path / stage.name / SOURCE_SHARE, stage.recipe.initialization
        if initialization.keep != "auto" or not path.exists():
            return {}
        found: dict[str, Any] = read_json(path)
        now = {"source": initialization.ensemble, "names": initialization.names}
        own = initialization.untouched
        if found.get("share") == UNTOUCHED and found.get("has_network", False) != (own is not None and own.has_network):
            return {}  # chosen by an earlier version, which knew no other network of a source
        # Earlier versions did not note the names.
        return found if all(found.get(key, value) == value for key, value in now.items()) else {}

    def kept_share(self, stage: Stage) -> float:
        """The share of the source's weights that held-out cases chose; 0 as long as they did not."""
        return float(self.source_choice(stage).get("share", 0.0))

    def usual_configuration(self) -> str:
        """The recommended configuration; if it is not trained, the first trained one with the plan's whole target."""
        plan = self.plan
        trained = [s.name for s in plan.stages if self.trained_folds(s.name) and s.result == plan.target]
        return plan.recommended if plan.recommended in trained or not trained else trained[0]

    def how_to_train(self, configuration: str) -> str:
        """Advice on how to get trained folds of a configuration, for messages."""
        if not self.dataset.cases:
            return self.how_to_fine_tune
        option = "" if configuration == self.plan.recommended else f" --config {configuration}"
        command = f"'autoseg train {quoted(self.path)}{option}'"
        if any((self.path / configuration).glob("fold_*/tuned.safetensors")) and not self.trained_folds(configuration):
            return f"its fine-tuned weights are not compared with the source yet: let {command} end, or give it again"
        return f"train it with {command}"

    @property
    def how_to_fine_tune(self) -> str:
        """Advice on what to do with a run that has no cases, for messages."""
        return (
            "its model was imported; to fine-tune it, plan a dataset with 'autoseg plan DATASET --source "
            f"{quoted(self.path)} --out RUN'"
        )

    @property
    def how_to_find_dataset(self) -> str:
        """Advice on what to do where files of the dataset are gone, for messages."""
        return (
            "put the dataset back where it was or, where it moved, plan it again into this run: "
            f"'autoseg plan NEW_PLACE --out {quoted(self.path)}', with the same options as before"
        )

    def how_to_postprocess(self, configuration: str) -> str:
        """The command that chooses the post-processing of a configuration, for messages."""
        option = "" if configuration == self.usual_configuration() else f" --config {configuration}"
        return f"'autoseg postprocess {quoted(self.path)}{option}'"

    def how_to_validate(self, configuration: str) -> str:
        """Advice on how to get validated folds of a configuration, for messages."""
        if not self.dataset.cases or any(split["validation"] for split in self.splits):
            return self.how_to_train(configuration)
        return "it learns from all cases (--folds 1), so plan its dataset with --folds 2 or more and train that"

    def split(self, fold: int) -> Split:
        """The training and validation cases of a fold.

        Raises:
            UsageError: there is no such fold.
        """
        splits = self.splits
        if not 0 <= fold < len(splits):
            known = f"folds 0 to {len(splits) - 1}" if len(splits) > 1 else "fold 0 alone"
            raise UsageError(f"fold {fold} does not exist; {self.path / 'splits.json'} has {known}.")
        return splits[fold]


def _load(model: type, path: Path):  # type: ignore[no-untyped-def]
    data = read_json(path)
    try:
        return model.model_validate(data)  # type: ignore[attr-defined]
    except ValidationError as error:
        raise AutosegError(f"{path} is damaged ({first_fault(error)}); plan the run again.") from None


def _keep_earlier_splits(path: Path, new: list[Split]) -> None:
    """Keep a copy of splits that are about to be replaced: users may have written them."""
    try:
        same = not path.is_file() or read_splits(path) == new
    except AutosegError:  # no splits, but somebody's work
        same = False
    if not same:
        say(f"{path} was replaced; the previous version is kept as {_kept_copy(path).name}.")


def _keep_earlier_plan(path: Path, new: Plan) -> None:
    """Keep a copy of a plan that is about to be replaced, where folds were trained by it."""
    trained = {file.parent for name in ("weights.safetensors", "training_state.pt") for file in _of_folds(path, name)}
    if not trained or not path.is_file():
        return
    try:
        same = _deciding(load_plan(path)) == _deciding(new)
    except AutosegError:  # damaged, or of another version: kept all the same
        same = False
    if not same:
        say(
            f"{path} was replaced, and {len(trained)} fold(s) were trained by the previous version, which is kept as "
            f"{_kept_copy(path).name}: put it back to use them, or train anew with --restart."
        )


def _of_folds(plan: Path, name: str) -> list[Path]:
    return list(plan.parent.glob(f"*/fold_*/{name}"))


def _deciding(plan: Plan) -> Any:
    """What a plan says, without reasons, who wrote it, what the dataset is called, and what was computed about it."""
    left_out: Any = {"autoseg_version": True, "dataset": True, "configurations": {"__all__": {"memory"}}}
    return without_reasons(plan.model_dump(mode="json", exclude=left_out))


def _kept_copy(path: Path) -> Path:
    """A copy of a file beside it, named after its content."""
    copy = path.with_name(f"{path.stem}_{file_digest(path)[:8]}{path.suffix}")
    with atomic(copy) as temporary:
        shutil.copyfile(path, temporary)
    return copy


def _keep_template(folder: Path, preparation: Mapping[str, Any] | None) -> None:
    """Copy the template that a preparation names into a run folder; what an earlier plan left there goes."""
    named = (preparation or {}).get("atlas")
    source = Path(named) if named else None
    kept = None if source is None else folder / f"{_TEMPLATE}{image_ending(source) or source.suffix}"
    for other in folder.glob(f"{_TEMPLATE}.*"):
        if other != kept:
            other.unlink()
    if source is None or kept is None or not source.is_file():
        return
    if not (kept.is_file() and filecmp.cmp(source, kept, shallow=False)):
        with atomic(kept) as temporary:
            shutil.copyfile(source, temporary)


def refuse_dataset_folder(path: str | Path, dataset: Dataset) -> None:
    """Refuse a folder that holds a dataset as run folder: its ``dataset.json`` would be replaced.

    Raises:
        UsageError: names ``--out``.
    """
    path = Path(path)
    root = dataset.root if dataset.root.is_dir() else dataset.root.parent
    if path.resolve() == root.resolve():
        raise UsageError(f"--out {path} is the dataset's own folder; choose another one for the run.")
    # The fingerprint is written first: with it, this is a run folder that was not finished.
    begun = any((path / name).exists() for name in ("plan.json", "fingerprint.json"))
    if (path / "dataset.json").exists() and not begun:
        raise UsageError(f"--out {path} holds a dataset.json of something else; choose another folder for the run.")
