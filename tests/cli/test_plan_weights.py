"""``autoseg plan --weights`` and ``--encoder``, and the training that starts from them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train
from autoseg.data.phantom import Cohort, generate
from autoseg.runs.run import Run
from autoseg.utils.device import Compute
from autoseg.utils.errors import AutosegError, UsageError
from planners import inflated

Command = Callable[..., Result]

#: The network, made small: what is tested is where its encoder starts.
SMALL = [
    "--set", "network.decoder_features=[4,4,4,4,4]", "--set", "network.decoder_widths=[4,4,4,4,4]",
    "--set", "patch_size=[2,64,64]", "--set", "batch_size=1", "--set", "recipe.iterations_per_epoch=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    return generate(folder / "heads", Cohort(cases=2, shape=(16, 20, 20), spacing=(8.0, 8.0, 8.0)))


@pytest.fixture
def plan(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(inflated, "_PATCH", (8, 64, 64))

    def run(*arguments: object, planner: str = "inflated") -> Result:
        options = ["--device", "cuda", "--gpu-memory", "8", "--workers", "1", "--planner", planner]
        return CliRunner().invoke(app, ["plan", str(phantoms), "--out", str(tmp_path / "run"), *options, *arguments])

    return run


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as somebody would download it: a whole classifier of pictures in three colours."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), str(path))
    return path


def test_training_starts_from_a_file_that_moves_with_the_run(
    plan: Command, resnet18: Path, tmp_path: Path, one_core: None
) -> None:
    result = plan("--weights", str(resnet18), "--channels", "t1c", *SMALL)
    assert result.exit_code == 0, result.output
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run", moved)
    run = Run.open(moved)
    recipe = run.plan.configurations["3d_fullres"].recipe
    (file,) = moved.glob("initial_weights_*.safetensors")
    assert (recipe.initialization.source, recipe.initialization.file) == ("file", file.name)
    # So small a step that what was learned can't be told from what was loaded.
    still = run.plan.model_copy(deep=True)
    still.configurations["3d_fullres"].recipe.optimizer.learning_rate = 1e-12
    still.configurations["3d_fullres"].recipe.optimizer.weight_decay = 0
    (moved / "plan.json").write_text(still.model_dump_json())
    train(moved, folds=[0], length=Length(epochs=1), compute=Compute("cpu", 1))
    log = (moved / "3d_fullres" / "fold_0" / "log.txt").read_text()
    assert f"120 of 120 tensors of the encoder resnet18 start from {file.name}" in log
    trained = load_file(str(moved / "3d_fullres" / "fold_0" / "weights.safetensors"))
    wanted = load_file(str(resnet18))
    name = "layer3.1.conv2.weight"
    torch.testing.assert_close(trained[f"encoder.model.{name}"], wanted[name])
    torch.testing.assert_close(trained["encoder.model.conv1.weight"], wanted["conv1.weight"].sum(1, keepdim=True))
    # A training that goes on does not start again, even where the file is gone.
    file.unlink()
    train(moved, folds=[0], length=Length(epochs=2), compute=Compute("cpu", 1))
    with pytest.raises(AutosegError, match="is gone"):
        train(moved, folds=[0], resume=False, length=Length(epochs=1), compute=Compute("cpu", 1))


def test_weights_of_another_encoder_are_refused_before_anything_is_written(
    plan: Command, resnet18: Path, tmp_path: Path
) -> None:
    result = plan("--weights", str(resnet18), "--encoder", "resnet34")
    assert isinstance(result.exception, AutosegError)
    assert "does not fit the encoder resnet34: 120 of its" in str(result.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("source", ["imagenet", "random"])
def test_weights_that_need_no_file(plan: Command, tmp_path: Path, source: str) -> None:
    result = plan("--weights", source)
    assert result.exit_code == 0, result.output
    initialization = Run.open(tmp_path / "run").plan.configurations["3d_fullres"].recipe.initialization
    assert (initialization.source, initialization.file) == (source, "")
    assert initialization.reasons["source"] == f"asked for with --weights {source}"
    assert not list((tmp_path / "run").glob("initial_weights*"))


@pytest.mark.parametrize(
    ("options", "planner", "error", "message"),
    [
        (["--weights", "imagenet"], "unet", UsageError, "--weights: planner unet makes no network with an encoder"),
        (["--encoder", "resnet18"], "unet", UsageError, "--encoder resnet18: planner unet has no encoder to choose"),
        (["--encoder", "resnet"], "inflated", AutosegError, "has no model resnet;"),
        (["--weights", "none.pth"], "inflated", AutosegError, "--weights none.pth does not exist"),
        (["--set", "recipe.initialization.source=imagenet"], "unet", UsageError, "use the family inflated"),
        (["--set", "recipe.initialization.source=file"], "inflated", UsageError, "needs the name of a file in the run"),
    ],
)
def test_wrong_usage(plan: Command, options: list[str], planner: str, error: type[Exception], message: str) -> None:
    result = plan(*options, planner=planner)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
