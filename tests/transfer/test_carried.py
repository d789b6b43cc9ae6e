"""What is carried into a run: planning again, and being killed on the way, leaves a run folder that is whole."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from autoseg.networks import build
from autoseg.networks.weights import content_of, load_weights, planned_weights
from autoseg.planning import making
from autoseg.planning.carried import CARRIED, Carried
from autoseg.planning.request import Request, ResolvedRequest
from autoseg.plans.families import Inflated
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Initialization
from autoseg.runs.run import Run
from autoseg.transfer.initial_weights import InitialWeights
from autoseg.transfer.source import Source, source_initialization
from autoseg.transfer.source_cases import SourceCases
from autoseg.transfer.teacher import TEACHER_FOLDER, Teacher, installed_teacher
from autoseg.transfer.tensors import input_names, start_from_model, transfer_tables
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import make_configuration, make_fingerprint, make_plan, make_run
from tests.transfer.test_teacher_scores import pretend

pytestmark = pytest.mark.usefixtures("one_core")


def planner(_: object, request: ResolvedRequest) -> Plan:
    """A small network; of the inflated family where initial weights are carried, the source's where there is one."""
    source = request.carries(Source)
    if request.carries(InitialWeights) is not None:
        network = Inflated(encoder="resnet18", decoder_features=[2] * 5, decoder_widths=[2] * 5)
        return make_plan(make_configuration((2, 64, 64), network=network))
    plan = make_plan()
    if source is None:
        return plan
    stage, model = plan.stage(), source.model
    names = [output.name for output in stage.target.outputs]
    start = source_initialization(
        model, model.stage, input_names(stage), stage.target, {"mr": "mr"}, {name: name for name in names}
    )
    recipe = stage.recipe.model_copy(update={"initialization": start})
    return make_plan(stage.configuration.model_copy(update={"recipe": recipe}))


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Carried, ...]]:
    """What may be carried, by name."""
    monkeypatch.setattr(making, "find_planner", lambda _: planner)
    monkeypatch.setattr(making, "default_planner", lambda *_: "small")
    monkeypatch.setattr(making, "checked_fingerprint", lambda dataset, *_: make_fingerprint(dataset))
    monkeypatch.setattr("autoseg.transfer.initial_weights.check_fit", lambda *_: None)
    runs = {}
    for index, name in enumerate(("first", "second")):
        runs[name] = pretend(make_run(tmp_path / name), (index, 1 - index) if index else (0,)).path
        save_file({"layer": torch.full((2,), float(index))}, str(tmp_path / f"{name}.safetensors"))
    return {
        "nothing": (),
        "source": (Source(runs["first"]),),
        "other source": (Source(runs["second"], fold=1),),
        "teacher": (Teacher(runs["first"]),),
        "other teacher": (Teacher(runs["second"]),),
        "weights": (InitialWeights(tmp_path / "first.safetensors"),),
        "other weights": (InitialWeights(tmp_path / "second.safetensors"),),
        "source and teacher": (Source(runs["second"]), Teacher(runs["first"])),
    }


def again(path: Path, carried: tuple[Carried, ...]) -> Run:
    """Plan the first run's dataset into a folder."""
    dataset = Run.open(path.parent / "first" / "run").dataset
    # Opened anew, as by another command.
    fresh = tuple(replace(item) for item in carried)  # type: ignore[type-var]
    return making.plan_dataset(dataset, path, Request(device="cuda", gpu_memory_gb=8, carried=fresh))


def check_whole(path: Path) -> None:
    """The plan finds all its files, with the right content."""
    run = Run.open(path)
    for stage in run.plan.stages:
        start = stage.recipe.initialization
        if start.source == "model":
            network = build(stage.network, stage.in_channels, stage.heads)
            assert "are the source's" in start_from_model(network, stage, path)
            assert [row.done for row in transfer_tables(run)[stage.name]].count("copied") > 0
        elif start.source == "file":
            assert content_of(planned_weights(start, path, load_weights, "--weights")) == start.content
        if stage.recipe.distillation is not None:
            teacher = installed_teacher(run, stage.recipe.distillation)
            assert teacher.content == stage.recipe.distillation.teacher


def left_over(path: Path) -> list[str]:
    """Files of things carried that the plan does not use."""
    run = Run.open(path)
    starts = [stage.recipe.initialization for stage in run.plan.stages]
    used = {name for start in starts for name in (start.file, *start.ensemble)}
    used |= {stage.recipe.distillation.teacher for stage in run.plan.stages if stage.recipe.distillation}
    found = [*path.glob("*.safetensors"), *path.glob(f"{TEACHER_FOLDER}/*"), *path.glob(".*")]
    return [found.name for found in found if found.name not in used]


class Killed(BaseException):
    """Instead of a kill."""


def steps(monkeypatch: pytest.MonkeyPatch, last: int) -> Callable[[], int]:
    """Be killed after so many changes to the disk."""
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if count == last:
                raise Killed
            count += 1
            return real(*arguments, **options)

        return call

    for module, name in ((os, "replace"), (Path, "unlink"), (shutil, "rmtree"), (shutil, "copyfile")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return lambda: count


PAIRS = [
    ("nothing", "source"),
    ("source", "other source"),
    ("source", "nothing"),
    ("teacher", "other teacher"),
    ("weights", "other weights"),
    ("other weights", "source and teacher"),
    ("source and teacher", "weights"),
]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_kill_leaves_the_plan_of_before_or_the_new_one(
    worlds: dict[str, tuple[Carried, ...]], tmp_path: Path, before: str, after: str
) -> None:
    kept = tmp_path / "kept"
    again(kept, worlds[before])
    check_whole(kept)
    plans = [(kept / "plan.json").read_bytes()]
    for step in range(60):
        run = tmp_path / "again"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(kept, run)
        with pytest.MonkeyPatch.context() as patch:
            steps(patch, step)
            try:
                again(run, worlds[after])
                done = True
            except Killed:
                done = False
        check_whole(run)
        plans.append((run / "plan.json").read_bytes())
        if done:
            break
    assert done
    assert step > 3
    # Once the new plan is there, it stays.
    assert plans == sorted(plans, key=lambda plan: plan != plans[0])
    assert len(set(plans)) == 2
    assert left_over(run) == []
    # And after a kill, planning again leaves nothing behind either.
    again(run, worlds["nothing"])
    assert left_over(run) == []
    assert not (run / TEACHER_FOLDER).exists()


def test_nothing_is_written_before_the_plan_is_known_to_be_good(
    worlds: dict[str, tuple[Carried, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AutosegError("it does not fit.")

    monkeypatch.setattr(Teacher, "check_plan", refuse)
    with pytest.raises(AutosegError, match="does not fit"):
        again(tmp_path / "run", worlds["source and teacher"])
    assert not (tmp_path / "run").exists()


def test_two_starts_are_refused(worlds: dict[str, tuple[Carried, ...]], tmp_path: Path) -> None:
    both = (*worlds["weights"], *worlds["source"])
    with pytest.raises(UsageError, match="--weights and --source both say what the training starts from"):
        again(tmp_path / "run", both)


@pytest.mark.parametrize("world", ["source", "source cases"])
def test_what_was_not_checked_is_not_planned(
    worlds: dict[str, tuple[Carried, ...]], tmp_path: Path, world: str
) -> None:
    """Of the source it would not be known which cases it has seen, of its cases not which values are taken."""
    dataset = Run.open(tmp_path / "first" / "run").dataset
    (source,), cases = worlds["source"], SourceCases(tmp_path / "first" / "data")
    request = Request(device="cuda", gpu_memory_gb=8, carried=(source,))
    if world == "source":
        told = "--source: it was not compared with the dataset; plan with autoseg.plan"
    else:
        told = "--source-data: it was not compared with the dataset"
        request = replace(request, carried=(source.check(request, dataset, tmp_path / "out"), cases))
    with pytest.raises(UsageError, match=told):
        making.make_plan(make_fingerprint(dataset), request)
    _, checked = making.checked_request(dataset, tmp_path / "out", replace(request, carried=(source,)))
    assert making.make_plan(make_fingerprint(dataset), checked).stage().recipe.initialization.learned != {}
    assert isinstance(source, Source)
    assert source.learned is None  # what was given stays as it was


def test_run_folders_of_earlier_versions(worlds: dict[str, tuple[Carried, ...]], tmp_path: Path) -> None:
    """Their files have names without the content, and the teacher lies right in its folder."""
    path = tmp_path / "old"
    run = again(path, worlds["source and teacher"])
    (teacher,) = (path / TEACHER_FOLDER).iterdir()
    for item in list(teacher.iterdir()):
        shutil.move(item, path / TEACHER_FOLDER / item.name)
    teacher.rmdir()
    stage = run.plan.stage()
    old = path / "source_small.safetensors"
    (path / stage.recipe.initialization.file).rename(old)
    (path / "plan.json").write_text(
        (path / "plan.json").read_text().replace(stage.recipe.initialization.file, old.name)
    )
    (path / "transfer.json").write_text("{}")  # which tensor came from where
    check_whole(path)
    for name in ("source and teacher", "nothing"):
        again(path, worlds[name])
        check_whole(path)
        assert left_over(path) == []
        assert not (path / "transfer.json").exists()


@pytest.mark.parametrize("gone", ["plan.json", "splits.json"])
def test_a_damaged_copy_of_the_teacher_is_made_anew(
    worlds: dict[str, tuple[Carried, ...]], tmp_path: Path, gone: str
) -> None:
    run = again(tmp_path / "run", worlds["teacher"])
    (teacher,) = (run.path / TEACHER_FOLDER).iterdir()
    (teacher / gone).unlink()
    again(run.path, worlds["teacher"])
    check_whole(run.path)
    assert left_over(run.path) == []


@dataclass(frozen=True)
class Note:
    """A further kind: a text in the run folder."""

    text: str
    kind: ClassVar[str] = "note"
    option: ClassVar[str] = "--note"
    provides: ClassVar[str] = "a note"
    start: ClassVar[str] = "scratch"

    @property
    def content(self) -> str:
        return self.text

    def check(self, *_: object) -> "Note":
        return self

    def apply(self, plan: Plan) -> Plan:
        return plan.model_copy(update={"reasons": {**plan.reasons, "channels": self.text}})

    def check_plan(self, plan: Plan) -> None: ...

    def install(self, plan: Plan, run: Path) -> None:
        run.mkdir(exist_ok=True)
        (run / f"note_{self.text}").write_text(self.text)

    @classmethod
    def remove_unused(cls, run: Path, plan: Plan) -> None:
        for path in run.glob("note_*"):
            if path.name != f"note_{plan.reasons.get('channels')}":
                path.unlink()


@pytest.fixture
def note() -> Iterator[None]:
    CARRIED.register("note", Note)
    yield
    del CARRIED._things["note"]


@pytest.mark.usefixtures("note")
def test_one_more_kind_is_one_class(worlds: dict[str, tuple[Carried, ...]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for text in ("a", "b"):
        again(run, (Note(text), *worlds["source"]))
        assert [path.name for path in run.glob("note_*")] == [f"note_{text}"]
    again(run, ())
    assert not list(run.glob("note_*"))


def test_words_need_no_file() -> None:
    assert InitialWeights("imagenet").initialization == Initialization(
        source="imagenet", reasons={"source": "asked for with --weights imagenet"}
    )
