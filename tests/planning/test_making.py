"""How a planner is found and asked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from autoseg.data.checks import check
from autoseg.data.dataset import Dataset
from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.carried import Carried
from autoseg.planning.derived import compute_memory, refresh
from autoseg.planning.making import make_plan, plan_dataset
from autoseg.planning.planners import find_planner
from autoseg.planning.request import DEFAULT_GB, Request, ResolvedRequest, default_budget
from autoseg.plans.overrides import assignment, override
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Distillation
from autoseg.transfer.teacher import distilled
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_json
from tests.builders import blob, make_configuration, make_dataset, picture_of, write
from tests.builders import make_plan as by_hand
from tests.planners.fingerprints import abdomen, hippocampus
from tests.plans.test_plan import example
from tests.training.test_validation_loss import Halved, install


@dataclass(frozen=True)
class AnyTeacher:
    """A teacher that need not exist."""

    kind: ClassVar[str] = "teacher"
    option: ClassVar[str] = "--teacher"
    provides: ClassVar[str] = "which model is learned from"
    start: ClassVar[str] = "scratch"
    content: str = "any"

    def check(self, *_: Any) -> "AnyTeacher":
        return self

    def apply(self, plan: Plan) -> Plan:
        return distilled(plan, Distillation(teacher=self.content))

    def check_plan(self, plan: Plan) -> None: ...

    def install(self, plan: Plan, run: Path) -> None: ...

    @classmethod
    def remove_unused(cls, run: Path, plan: Plan) -> None: ...


TEACHER: tuple[Carried, ...] = (AnyTeacher(),)


def test_planners_are_found_by_name() -> None:
    assert callable(find_planner("unet"))
    with pytest.raises(UsageError, match="installed planners"):
        find_planner("oracle")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_memory_gb": 0.0}, "--gpu-memory 0"),
        ({"device": "tpu"}, "--device tpu is unknown"),
        (
            {"planner": "albunet2d", "device": "cuda", "test_share": 0.85},
            r"--test-share 0.85 leaves .* beside the 0.2 that planner albunet2d validates on; give less than 0.8",
        ),
    ],
)
def test_impossible_requests(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(hippocampus(), Request(**options))


def test_a_plan_can_be_made_for_another_machine() -> None:
    plan = make_plan(hippocampus(), Request(device="cuda", gpu_memory_gb=5))
    assert (plan.device, plan.gpu_memory_gb) == ("cuda", 5)


def test_the_default_budget_off_the_gpu() -> None:
    assert default_budget(torch.device("cpu")) == DEFAULT_GB


def test_memory_is_computed_anew_after_an_override() -> None:
    plan = make_plan(hippocampus(), Request(device="cuda", overrides=("configurations.3d_fullres.batch_size=2",)))
    configuration = plan.configurations["3d_fullres"]
    assert configuration.memory == compute_memory(plan.stage("3d_fullres"), "cuda")
    assert "set by the user" in configuration.reasons["batch_size"]


def test_a_network_of_another_family_has_its_memory_and_parameters() -> None:
    vnet = {"family": "vnet", "features": [4, 8], "convolutions": [1, 1], "kernel_size": 3, "norm": "none"}
    plan = refresh(override(Plan.model_validate(example()), [assignment("network", vnet)]))
    slices, volumes = plan.configurations["2d"], plan.configurations["3d_fullres"]
    assert (slices.network.family, volumes.network.family) == ("unet", "vnet")
    assert volumes.memory == compute_memory(plan.stage("3d_fullres"), plan.device)
    # By hand: 3×3×3 convolutions of 4 and 8 channels and 8 on the way out, 2×2×2 ones in between, each with a bias
    # and a slope a channel; then the classification.
    channels, heads = len(plan.channels), plan.target.heads
    blocks = (27 * channels * 4 + 8) + (27 * 8 * 8 + 16) + (27 * 8 * 8 + 16)
    between = (8 * 4 * 8 + 16) + (8 * 8 * 4 + 8)
    assert volumes.parameters == blocks + between + 8 * heads + heads


def test_a_teacher_is_in_every_configuration_and_within_the_budget() -> None:
    alone = make_plan(hippocampus(), Request(device="cuda", gpu_memory_gb=2))
    taught = make_plan(hippocampus(), Request(device="cuda", gpu_memory_gb=2, carried=TEACHER))
    assert taught.gpu_memory_gb == 2
    for name, configuration in taught.configurations.items():
        assert configuration.recipe.distillation == Distillation(teacher="any")
        assert configuration.memory == compute_memory(taught.stage(name), "cuda")
        assert configuration.memory.total <= 2e9
        assert alone.configurations[name].recipe.distillation is None


def test_a_teachers_term_that_would_not_fit_is_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a planner that fills its budget to the last byte."""

    def planner(_: Fingerprint, request: ResolvedRequest) -> Plan:
        return refresh(by_hand(make_configuration(batch_size=4 if request.gpu_memory_gb >= full else 2)))

    large = by_hand(make_configuration(batch_size=4))
    full = compute_memory(large.stage(), large.device).total / 1e9
    taught = AnyTeacher().apply(planner(hippocampus(), ResolvedRequest(gpu_memory_gb=full)))
    assert compute_memory(taught.stage(), taught.device).total > full * 1e9
    monkeypatch.setattr("autoseg.planning.making.find_planner", lambda _: planner)
    plan = make_plan(hippocampus(), Request(device="cuda", gpu_memory_gb=full, carried=TEACHER))
    configuration = plan.configurations["small"]
    assert configuration.batch_size == 2
    assert configuration.memory is not None
    assert configuration.memory.total <= full * 1e9
    assert plan.gpu_memory_gb == full
    assert "teacher" in plan.reasons["gpu_memory_gb"]


def test_every_stage_of_a_cascade_learns_from_the_teacher() -> None:
    plan = make_plan(abdomen(), Request("cascade", "cuda", carried=TEACHER))
    assert [stage.recipe.distillation is not None for stage in plan.stage().chain] == [True, True]


def test_a_teachers_numbers_are_set_like_any() -> None:
    overrides = ("recipe.distillation.weight=0.5", "configurations.2d.recipe.distillation.temperature=4")
    plan = make_plan(hippocampus(), Request(device="cuda", overrides=overrides, carried=TEACHER))
    found = {name: c.recipe.distillation for name, c in plan.configurations.items()}
    assert all(each is not None and each.weight == 0.5 for each in found.values())
    assert found["2d"] is not None
    assert found["2d"].temperature == 4
    for wrong in ("recipe.distillation.weight=-1", "recipe.distillation.temperature=0"):
        with pytest.raises(UsageError, match=r"recipe\.distillation"):
            make_plan(hippocampus(), Request(overrides=(wrong,), carried=TEACHER))
    with pytest.raises(UsageError, match="distillation"):
        make_plan(hippocampus(), Request(overrides=("recipe.distillation.weight=1",)))


def test_what_follows_validations_needs_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``--folds 1`` a rate would never fall; what changes nothing is told, and else all is as asked."""
    dataset = make_dataset(tmp_path / "data", 2)
    usual = Request(device="cuda", gpu_memory_gb=4, folds=1)
    idle = ("recipe.early_stopping=10", "inference.checkpoint=best")
    followed = 'recipe.schedule={"name": "plateau", "follows": "validation_loss"}'
    fails = replace(usual, overrides=(*idle, followed))
    with pytest.raises(UsageError, match=r"--folds 1: .*validation loss.*--folds 2 or more, or --set recipe.sch"):
        plan_dataset(dataset, tmp_path / "run", fails)
    assert not (tmp_path / "run").exists()
    plan_dataset(dataset, tmp_path / "run", replace(fails, folds=2))
    told = "trains without recipe.early_stopping and inference.checkpoint=best"
    assert told not in capsys.readouterr().err
    for changed in ("recipe.schedule.name=cosine", "recipe.schedule.follows=training_loss"):
        plan_dataset(dataset, tmp_path / "run", replace(fails, overrides=(*fails.overrides, changed)))
        assert told in capsys.readouterr().err


def test_a_schedule_of_another_package_needs_validations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Halved)
    dataset, request = make_dataset(tmp_path / "data", 2), Request(device="cuda", gpu_memory_gb=4, folds=1)
    with pytest.raises(UsageError, match=r"--folds 1: the learning rate of .* falls only by its validation loss"):
        plan_dataset(dataset, tmp_path / "run", replace(request, overrides=('recipe.schedule={"name": "halved"}',)))


def _by_pattern(root: Path) -> Dataset:
    """A typing error in the pattern of a channel."""
    (root / "autoseg.toml").write_text(
        '[channels]\nmr = "imagesTr/{id}_0000.nii.gz"\nct = "imagesTr/{id}_001.nii.gz"\n'
        '[label]\nfile = "labelsTr/{id}.nii.gz"\nvalues = { outer = 1, inner = 2 }\n'
    )
    return Dataset.open(root)


def _by_number(root: Path) -> Dataset:
    """One more name than there are files of a case."""
    data = {"channel_names": {"0": "mr", "1": "ct"}, "labels": {"outer": 1, "inner": 2}, "file_ending": ".nii.gz"}
    write_json(root / "dataset.json", data)
    return Dataset.open(root)


@pytest.mark.parametrize("described", [_by_pattern, _by_number])
def test_a_channel_that_no_labelled_case_has_is_not_planned(
    tmp_path: Path, described: Callable[[Path], Dataset]
) -> None:
    """Its weights would only ever see zeros. What is not planned does no harm."""
    for number in range(2):
        label = blob(shift=number)
        write(tmp_path / "data" / f"imagesTr/p{number}_0000.nii.gz", picture_of(label, number))
        write(tmp_path / "data" / f"labelsTr/p{number}.nii.gz", label)
    dataset = described(tmp_path / "data")
    assert [problem.what for problem in check(dataset, workers=1)] == ["no labelled case has ct"]
    usual = Request(device="cuda", gpu_memory_gb=2, folds=2, workers=1)
    for channels in ((), ("ct",), ("mr", "ct")):
        with pytest.raises(AutosegError, match=r"no labelled case has ct; correct its pattern.*\(--channels mr\)"):
            plan_dataset(dataset, tmp_path / "run", replace(usual, channels=channels))
    assert not (tmp_path / "run").exists()
    plan = plan_dataset(dataset, tmp_path / "run", replace(usual, channels=("mr",))).plan
    assert plan.channel_names == ["mr"]
    assert not plan.allow_missing_channels


def test_a_renamed_dataset_replaces_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Planned again into the run that was trained on it, it decides the same."""
    dataset, request = make_dataset(tmp_path / "data", 2), Request(device="cuda", gpu_memory_gb=4, workers=1)
    run = plan_dataset(dataset, tmp_path / "run", request)
    weights = run.fold(run.plan.stage(), 0).weights
    weights.parent.mkdir(parents=True)
    weights.touch()
    moved = make_dataset(tmp_path / "moved", 2).model_copy(update={"name": "moved"})
    again = plan_dataset(moved, tmp_path / "run", request)
    assert again.plan.dataset == "moved"
    assert "replaced" not in capsys.readouterr().err
    assert not list(run.path.glob("plan_*.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planner": "oracle"}, "--planner oracle is unknown"),
        ({"channels": ("ct",)}, "--channels ct is unknown; the dataset has mr"),
        ({"regions": ("lung",)}, "--regions lung is unknown; the dataset has outer, inner"),
        ({"overrides": ("recipe.epochs",)}, "--set recipe.epochs is not of the form"),
        ({"folds": 0}, "--folds 0 is too few"),
        (
            {"device": "cpu", "planner": "vnet", "max_time": 60.0},
            "--max-time: planner vnet does not choose a width; use .* cascade",
        ),
        ({"device": "cuda", "max_time": 60.0}, "--max-time: a network for cuda is as wide as its memory allows"),
    ],
)
def test_typing_errors_are_told_before_the_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("the images are read")

    monkeypatch.setattr("autoseg.planning.making.examine", read)
    dataset = make_dataset(tmp_path / "data", 2)
    with pytest.raises(UsageError, match=message):
        plan_dataset(dataset, tmp_path / "run", Request(**options))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*file is a file"):
        plan_dataset(dataset, tmp_path / "file")
    with pytest.raises(UsageError, match=r"--out .*file/run can't be written"):
        plan_dataset(dataset, tmp_path / "file" / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file"]
