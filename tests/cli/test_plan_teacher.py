"""``autoseg plan --teacher``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.data.phantom import Cohort, generate
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError
from tests.transfer.test_teacher_scores import pretend

Command = Callable[..., Result]

#: A small network, whatever the planner's choice: the tests are about what it is given to learn from.
SMALL = (
    'network={"features": [4, 8], "strides": [[1,1,1],[2,2,2]], "kernel_sizes": [[3,3,3],[3,3,3]], '
    '"encoder_blocks": [1,1], "decoder_convs": [1]}'
)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    return generate(folder / "heads", Cohort(cases=3, shape=(16, 20, 20), spacing=(8.0, 8.0, 8.0)))


@pytest.fixture
def plan(phantoms: Path, tmp_path: Path) -> Command:
    def run(out: str, *arguments: object) -> Result:
        options = ["--device", "cuda", "--gpu-memory", "4", "--workers", "1"]
        options += [] if "--source" in arguments else ["--set", SMALL]
        return CliRunner().invoke(
            app, ["plan", str(phantoms), "--out", str(tmp_path / out), *options, *map(str, arguments)]
        )

    return run


def test_a_student_with_fewer_channels(plan: Command, tmp_path: Path) -> None:
    assert plan("teacher").exit_code == 0
    untrained = plan("student", "--channels", "t1", "--teacher", tmp_path / "teacher")
    assert isinstance(untrained.exception, AutosegError)
    assert "has no trained fold of 3d_fullres; train it with" in str(untrained.exception)
    assert not (tmp_path / "student").exists()

    pretend(Run.open(tmp_path / "teacher"), (0, 2))
    result = plan(
        "student", "--channels", "t1", "--teacher", tmp_path / "teacher", "--explain",
        "--set", "recipe.distillation.weight=0.5", "--set", "recipe.distillation.temperature=4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3d_fullres of" in result.output
    student = Run.open(tmp_path / "student")
    assert student.plan.channel_names == ["t1"]
    for configuration in student.plan.configurations.values():
        distillation = configuration.recipe.distillation
        assert distillation is not None
        assert (distillation.weight, distillation.temperature) == (0.5, 4)
        assert distillation.reasons["weight"] == "set by the user"
    # All that the teacher needs to be asked comes along: its weights, and where the scans of all its channels are.
    (copy,) = (student.path / "teacher").iterdir()
    kept = sorted(str(path.relative_to(copy)) for path in student.path.rglob("*.safetensors"))
    assert kept == [f"3d_fullres/fold_{fold}/weights.safetensors" for fold in (0, 2)]
    assert set(student.dataset.cases[0].channels) == {"t1", "t1c", "t2", "flair"}
    # Who starts from the student does not go on learning from its teacher, unless it is said.
    pretend(student, (0,))
    for more, taught in (([], False), (["--teacher", tmp_path / "teacher"], True)):
        assert plan("tuned", "--channels", "t1", "--source", student.path, *more).exit_code == 0
        for configuration in Run.open(tmp_path / "tuned").plan.configurations.values():
            assert (configuration.recipe.distillation is not None) == taught
    assert json.loads((student.path / "splits.json").read_text()) == Run.open(tmp_path / "teacher").splits
    # Planned again without a teacher, the run folder does not go on carrying one.
    assert (tmp_path / "tuned" / "teacher").is_dir()
    assert plan("tuned", "--channels", "t1").exit_code == 0
    assert not (tmp_path / "tuned" / "teacher").exists()


def test_a_teacher_that_does_not_speak_of_all(plan: Command, tmp_path: Path) -> None:
    assert plan("teacher", "--regions", "whole_tumor").exit_code == 0
    pretend(Run.open(tmp_path / "teacher"), (0,))
    result = plan("student", "--teacher", tmp_path / "teacher")
    assert isinstance(result.exception, AutosegError)
    assert "a teacher must have every output of the student" in str(result.exception)
    assert not (tmp_path / "student").exists()
    assert plan("student", "--regions", "whole_tumor", "--teacher", tmp_path / "teacher").exit_code == 0
