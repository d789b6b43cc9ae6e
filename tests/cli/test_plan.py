"""``autoseg plan``."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from click.testing import Result
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.data.dataset import Dataset
from autoseg.data.phantom import Cohort, generate
from autoseg.runs.run import Run
from autoseg.runs.splits import make_splits
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import make_run

Command = Callable[..., Result]


@pytest.fixture
def phantoms(tmp_path: Path) -> Path:
    return generate(tmp_path / "heads", Cohort(cases=3, shape=(16, 20, 20), spacing=(8.0, 8.0, 8.0)))


@pytest.fixture
def plan() -> Command:
    def run(*arguments: object, device: str = "cuda") -> Result:
        options = ["--device", device, "--gpu-memory", "4", "--workers", "1"]
        return CliRunner().invoke(app, ["plan", *map(str, arguments), *options])

    return run


def show(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_a_run_folder_a_table_and_the_next_command(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "Läufe mit Leer" / "run 1"
    result = plan(phantoms, "--out", out)
    assert result.exit_code == 0, result.output
    assert "3d_fullres (recommended)" in result.output
    assert "memory GB" in result.output
    (following,) = [line for line in result.output.splitlines() if line.startswith("Next: ")]
    assert shlex.split(following) == ["Next:", "autoseg", "train", str(out)]
    run = Run.open(out)
    assert run.plan.target.kind == "regions"
    assert len(run.splits) == 3
    assert [case.id for case in run.dataset.cases] == [case.id for case in run.fingerprint.cases]


def test_the_time_that_is_planned_for_is_in_the_next_command(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    result = plan(phantoms, "--out", tmp_path / "run", "--max-time", "90s", device="cpu")
    assert result.exit_code == 0, result.output
    assert result.output.rstrip().endswith("--max-time 90s")
    network = Run.open(tmp_path / "run").plan.configurations["3d_fullres"].network
    assert "steps in 0.025 h" in network.reasons["features"]


def test_reasons_are_printed_when_planning_and_afterwards(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    first = plan(phantoms, "--out", tmp_path / "run", "--explain")
    assert "configurations.3d_fullres.patch_size" in first.output
    again = show(tmp_path / "run", "--explain")
    assert again.exit_code == 0, again.output
    assert "covers the median image" in again.output
    assert "Next" not in again.output


def test_json_is_the_plan(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    assert plan(phantoms, "--out", tmp_path / "run", "--json").exit_code == 0
    printed = show(tmp_path / "run", "--json")
    assert json.loads(printed.stdout) == json.loads((tmp_path / "run" / "plan.json").read_text())


def test_overrides_change_what_depends_on_them(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    plan(phantoms, "--out", tmp_path / "run")
    before = Run.open(tmp_path / "run").plan.configurations["3d_fullres"]
    result = plan(
        phantoms, "--out", tmp_path / "run", "--set", "batch_size=3", "--set", "recipe.epochs=7",
        "--set", "configurations.3d_fullres.recipe.precision=fp32",
        "--channels", "flair,t1c", "--regions", "whole_tumor",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    plan_ = Run.open(tmp_path / "run").plan
    after = plan_.configurations["3d_fullres"]
    assert plan_.channel_names == ["t1c", "flair"]
    assert plan_.target.heads == 1
    assert (after.batch_size, after.recipe.epochs) == (3, 7)
    assert after.reasons["batch_size"] == "set by the user"
    assert before.memory is not None
    assert after.memory is not None
    assert after.memory.precision == "fp32"
    assert after.memory.total > before.memory.total


def test_planning_again_keeps_the_splits(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    plan(phantoms, "--out", tmp_path / "run", "--seed", 1)
    splits = Run.open(tmp_path / "run").splits
    dataset = Dataset.open(phantoms)
    other = next(seed for seed in range(2, 50) if make_splits(dataset, seed=seed) != splits)
    for options, told in ((("--seed", other), True), (("--seed", 1), False), ((), False)):
        result = plan(phantoms, "--out", tmp_path / "run", *options)
        assert Run.open(tmp_path / "run").splits == splits
        assert (f"splits.json stays, with the folds of before and not those of seed {other}" in result.output) == told


def test_a_faulty_dataset_is_refused_with_all_its_errors(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    for case in ("phantom_001", "phantom_003"):
        next((phantoms / case).glob("*flair*")).write_bytes(b"no image")
    result = plan(phantoms, "--out", tmp_path / "run")
    assert isinstance(result.exception, AutosegError)
    assert "phantom_001" in str(result.exception)
    assert "phantom_003" in str(result.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--planner", "magic"], "--planner magic is unknown; installed planners: .*resenc, unet"),
        (["--channels", "pet"], "--channels pet is unknown; the dataset has t1, t1c, t2, flair"),
        (["--set", "recipe.epoch=3"], "there is no key epoch"),
        (["--set", "batch_size=two"], "--set batch_size=two makes the plan invalid: .*batch_size"),
        (["--layout", "zip"], "--layout zip is unknown"),
        (["--channels", ","], "--channels names nothing"),
        (["--regions", " , "], "--regions names nothing"),
        (["--raters", ","], "--raters names nothing"),
        (["--set", "recipe.schedule.patience=3"], "patience=3 would change nothing: patience is read by plateau"),
        (["--json", "--explain"], "--json has the reasons in it"),
    ],
)
def test_wrong_usage(plan: Command, phantoms: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = plan(phantoms, "--out", tmp_path / "run", *options)
    assert isinstance(result.exception, UsageError)
    with pytest.raises(UsageError, match=message):
        raise result.exception


def test_out_is_needed_for_a_dataset_and_changes_are_refused_for_a_run(
    plan: Command, phantoms: Path, tmp_path: Path
) -> None:
    assert "--out is missing" in str(plan(phantoms).exception)
    plan(phantoms, "--out", tmp_path / "run")
    assert "only shown" in str(show(tmp_path / "run", "--set", "recipe.epochs=3").exception)
    assert "--json has the reasons in it" in str(show(tmp_path / "run", "--json", "--explain").exception)


def test_verify_runs_a_step_here(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    small = ["--set", "network.features=[4,8]", "--set", "network.encoder_blocks=[1,1]"]
    result = plan(phantoms, "--out", tmp_path / "run", "--verify", *small, device="cpu")
    # Setting one list of several that belong together is refused; the plan's own network is verified instead.
    assert isinstance(result.exception, UsageError)
    result = plan(phantoms, "--out", tmp_path / "run", "--verify", device="cpu")
    assert result.exit_code == 0, result.output
    assert "saved for the backward pass: computed" in result.output
    assert "+0.0 %" in result.output


@pytest.mark.parametrize("option", ["--planner=unet", "--device=cpu", "--seed=0", "--workers=1", "--layout=msd"])
def test_a_run_is_only_shown_whatever_is_asked_to_change(tmp_path: Path, option: str) -> None:
    run = make_run(tmp_path)
    refused = show(run.path, option).exception
    assert isinstance(refused, UsageError)
    assert str(refused).startswith(f"{option.partition('=')[0]}: {run.path} is a planned run, and is only shown")
    assert show(run.path).exit_code == 0


def test_a_dataset_is_not_overwritten(plan: Command, phantoms: Path) -> None:
    before = sorted(phantoms.iterdir())
    assert "is the dataset's own folder" in str(plan(phantoms, "--out", phantoms).exception)
    assert sorted(phantoms.iterdir()) == before


@pytest.mark.parametrize("command", ["plan x --out y", "train x", "demo"])
def test_no_negative_seed(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--seed", "-1"])
    assert result.exit_code == 2
    assert "--seed" in result.output


def test_folds(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    assert plan(phantoms, "--out", tmp_path / "run", "--folds", 2).exit_code == 0
    assert [len(split["validation"]) for split in Run.open(tmp_path / "run").splits] == [2, 1]
    # Another number gives up the stored ones; none asked for keeps them.
    assert plan(phantoms, "--out", tmp_path / "run", "--folds", 1).exit_code == 0
    assert plan(phantoms, "--out", tmp_path / "run").exit_code == 0
    (split,) = Run.open(tmp_path / "run").splits
    assert len(split["train"]) == 3
    assert split["validation"] == []
    assert "--folds 0 is too few; give 1" in str(plan(phantoms, "--out", tmp_path / "none", "--folds", 0).exception)


def test_the_warnings_of_a_dataset_are_not_lost(plan: Command, phantoms: Path, tmp_path: Path) -> None:
    """The same as 'autoseg inspect' says; a case's label that is empty may be right, or not."""
    path = phantoms / "phantom_001" / "seg.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image * 0, str(path))
    result = plan(phantoms, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "Warning: phantom_001: the label is empty. Right, if there is nothing to segment" in result.output
