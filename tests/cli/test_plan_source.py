"""``autoseg plan --source``: a trained model as the starting point, from the command line and inside."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import Result
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.data.dataset import Dataset, load_case
from autoseg.data.phantom import Cohort, generate
from autoseg.networks import build
from autoseg.networks.parts import own_tensors
from autoseg.networks.weights import identity_of, load_weights, save_weights
from autoseg.plans.configuration import Configuration
from autoseg.plans.files import save_plan
from autoseg.plans.overrides import override
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Recipe
from autoseg.preprocessing.case import preprocess_case
from autoseg.runs.run import Run
from autoseg.transfer.mixed_cases import mixed_dataset
from autoseg.transfer.tensors import start_from_model, transfer_tables
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import write

Command = Callable[..., Result]
FIRST = "encoder.stages.0.0.convs.0.conv.weight"
#: A small network, whatever the planner's choice: the tests are about what becomes of its weights.
SMALL = (
    'network={"features": [4, 8], "strides": [[1,1,1],[2,2,2]], "kernel_sizes": [[3,3,3],[3,3,3]], '
    '"encoder_blocks": [1,1], "decoder_convs": [1]}'
)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def plan(*arguments: object) -> Result:
    return invoke("plan", *arguments, "--device", "cuda", "--workers", 1)


def pretend_trained(run: Run, folds: Sequence[int] = (0,)) -> Run:
    """Put random weights where those of a training would be."""
    plan = run.plan
    for stage in plan.stages:
        for fold in folds:
            torch.manual_seed(10 + fold)
            network = build(stage.network, stage.in_channels, stage.heads)
            path = run.fold(stage, fold).weights
            path.parent.mkdir(parents=True)
            save_weights(path, network.state_dict(), identity_of(stage))
    return run


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    return generate(folder, Cohort(cases=3, shape=(16, 20, 20), spacing=(8.0, 8.0, 8.0)))


@pytest.fixture(scope="module")
def sources(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of two and of four channels, as if trained."""
    folder = tmp_path_factory.mktemp("sources")
    for name, channels in (("two", "flair,t1c"), ("four", "")):
        options = ["--channels", channels, "--set", SMALL, "--gpu-memory", 4, "--set", "evaluation.empty=brats"]
        result = plan(phantoms, "--out", folder / name, *options)
        assert result.exit_code == 0, result.output
        pretend_trained(Run.open(folder / name), folds=(0, 2))
    return {name: folder / name for name in ("two", "four")}


def started(run: Run, name: str = "3d_fullres") -> tuple[dict[str, torch.Tensor], Plan, Configuration]:
    """Weights of a network that the run's training would start with."""
    plan, stage = run.plan, run.plan.stage(name)
    configuration = stage.configuration
    torch.manual_seed(0)
    network = build(stage.network, stage.in_channels, stage.heads)
    start_from_model(network, stage, run.path)
    return own_tensors(network), plan, configuration


def test_distance_to_a_source_without_cases(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """An imported model knows the intensities of all its cases' voxels together; what else is unknown, is said."""
    model = tmp_path / "model"
    shutil.copytree(sources["two"], model)
    fingerprint = json.loads((model / "fingerprint.json").read_text("utf-8"))
    (model / "fingerprint.json").write_text(json.dumps(fingerprint | {"cases": []}), "utf-8")
    told = " ".join(plan(phantoms, "--source", model, "--out", tmp_path / "run").output.split())
    assert "Spacing, field of view and volumes of the source's cases are not known: it was imported." in told
    assert "flair, median" in told  # cells are broken into lines
    assert "percentile of all cases' voxels" in told
    assert "spacing z" not in told


def test_two_channels_become_four(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    result = plan(phantoms, "--source", sources["two"], "--out", tmp_path / "run", "--explain")
    assert result.exit_code == 0, result.output
    run = Run.open(tmp_path / "run")
    assert run.plan.planner == "finetune"
    assert run.plan.channel_names == ["t1", "t1c", "t2", "flair"]
    # The table of tensors (whose cells are broken into lines), and the short line that is always there.
    assert "Weights of 3d_fullres" in result.output
    assert "of 16 tensors 15 are the source's, 1 adapted and 0 new" in result.output
    assert "The source was trained on 3 of these 3 cases" in result.output
    (rows,) = transfer_tables(Run.open(tmp_path / "run")).values()
    assert all(row.tensor in result.output for row in rows)
    assert rows[0].done == "t1c from t1c; flair from flair; t1, t2 from the mean of t1c, flair"
    weights, now, configuration = started(run)
    before = Run.open(sources["two"])
    source = load_weights(before.fold("3d_fullres", 0).weights)
    order = before.plan.channel_names
    assert order == ["t1c", "flair"]
    mean = source[FIRST].mean(1)
    for index, wanted in enumerate([mean, source[FIRST][:, 0], mean, source[FIRST][:, 1]]):
        torch.testing.assert_close(weights[FIRST][:, index], wanted)
    untouched = [name for name in weights if name != FIRST]
    assert all(torch.equal(weights[name], source[name]) for name in untouched)
    # What need not change did not.
    old = before.plan.configurations["3d_fullres"]
    for name in ("spacing", "patch_size", "batch_size", "resampling"):
        assert getattr(configuration, name) == getattr(old, name)
    assert configuration.network.model_dump(exclude={"reasons"}) == old.network.model_dump(exclude={"reasons"})
    assert now.channels[1].normalization.scheme == before.plan.channels[0].normalization.scheme
    assert "the source's" in now.channels[1].normalization.reasons["scheme"]
    assert list(now.configurations) == [before.plan.recommended]
    assert now.evaluation.empty == before.plan.evaluation.empty == "brats"


def test_four_channels_become_two(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    options = ["--channels", "t2,flair", "--source-fold", 2]
    result = plan(phantoms, "--source", sources["four"], *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    weights, *_ = started(Run.open(tmp_path / "run"))
    source = load_weights(Run.open(sources["four"]).fold("3d_fullres", 2).weights)
    torch.testing.assert_close(weights[FIRST], 2 * source[FIRST][:, 2:])
    (rows,) = transfer_tables(Run.open(tmp_path / "run")).values()
    assert [row.done for row in rows if row.tensor == FIRST] == [
        "t2 from t2; flair from flair; t1, t1c dropped, the others times 4/2"
    ]
    # Shown again later, and moved, it still knows.
    shutil.move(tmp_path / "run", tmp_path / "moved")
    shown = invoke("plan", tmp_path / "moved", "--explain")
    assert "4/2" in shown.output
    assert torch.equal(started(Run.open(tmp_path / "moved"))[0][FIRST], weights[FIRST])


def test_other_regions(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """A region by its name, one that is said to be another, and one that is new; the labels' softmax, too."""
    head = "decoder.seg_layers.0.weight"
    source = load_weights(Run.open(sources["four"]).fold("3d_fullres", 0).weights)[head]
    names = [output.name for output in Run.open(sources["four"]).plan.target.outputs]
    assert names == ["whole_tumor", "tumor_core", "enhancing_tumor"]
    options = ["--regions", "edema,necrosis,enhancing", "--map-label", "edema=whole_tumor", "--map-label"]
    result = plan(phantoms, "--source", sources["four"], *options, "enhancing=new", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    run = Run.open(tmp_path / "run")
    assert run.plan.target.kind == "labels"
    assert [output.name for output in run.plan.target.outputs] == ["edema", "necrosis", "enhancing"]
    weights, _, configuration = started(run)
    assert torch.equal(weights[head][1], source[0])
    torch.manual_seed(0)
    fresh = own_tensors(build(configuration.network, 4, 4))[head]
    assert torch.equal(weights[head][[0, 2, 3]], fresh[[0, 2, 3]])
    assert configuration.recipe.initialization.outputs == {"edema": "whole_tumor"}


def test_channels_by_other_names(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """What BraTS 2021 calls t1ce and we t1c is one sequence; and what nobody could know, the user says."""
    folder = tmp_path / "renamed"
    shutil.copytree(phantoms, folder)
    toml = (folder / "autoseg.toml").read_text()
    (folder / "autoseg.toml").write_text(toml.replace("t1c = ", "T1ce = ").replace("flair = ", "sag_3d = "))
    result = plan(folder, "--source", sources["two"], "--map-channel", "sag_3d=flair", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    given = Run.open(tmp_path / "run").plan.configurations["3d_fullres"].recipe.initialization
    assert given.channels == {"T1ce": "t1c", "sag_3d": "flair"}
    assert given.source_channels == ["t1c", "flair"]
    result = plan(folder, "--source", sources["two"], "--map-channel", "T1ce=new", "--out", tmp_path / "new")
    assert "none is the same" in str(result.exception)


def test_sided_structures_are_not_mirrored(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """Left and right: one axis where all images lie the same way round, any where each lies as its file has it."""
    data = shutil.copytree(phantoms, tmp_path / "sided")
    toml = (data / "autoseg.toml").read_text()
    (data / "autoseg.toml").write_text(toml.replace("whole_tumor", "tumor_left"))
    source = shutil.copytree(sources["four"], tmp_path / "stored")
    given = json.loads((source / "plan.json").read_text())
    assert given["configurations"]["3d_fullres"]["recipe"]["augmentation"]["mirror_axes"] == [0, 1, 2]
    given["preprocessing"]["orientation"] = "stored"
    (source / "plan.json").write_text(json.dumps(given))
    stored = Run.open(source)
    weights = stored.fold("3d_fullres", 0).weights
    identity = {"identity": stored.plan.stage("3d_fullres").identity}
    save_weights(weights, load_weights(weights), identity)
    found = {}
    for name, start in (("canonical", sources["four"]), ("stored", source)):
        result = plan(
            data, "--source", start, "--map-label", "tumor_left=whole_tumor", "--out", tmp_path / f"{name}_run"
        )
        assert result.exit_code == 0, result.output
        configuration = Run.open(tmp_path / f"{name}_run").plan.configurations["3d_fullres"]
        assert configuration.inference.mirror_axes == configuration.recipe.augmentation.mirror_axes
        # As it is, the source mirrors what its own run does.
        untouched = configuration.recipe.initialization.untouched
        assert untouched is not None
        assert (untouched.mirror_axes, untouched.has_network) == ([0, 1, 2], False)
        found[name] = configuration.inference.mirror_axes
    assert found == {"canonical": [0, 1], "stored": []}
    # A source of slices or flat patches that was turned all the way round: half a turn would swap the sides, too.
    given["configurations"]["3d_fullres"]["recipe"]["augmentation"]["rotation"] = 180.0
    (source / "plan.json").write_text(json.dumps(given))
    turned = Run.open(source)
    save_weights(weights, load_weights(weights), {"identity": turned.plan.stage("3d_fullres").identity})
    options = ("--map-label", "tumor_left=whole_tumor", "--out", tmp_path / "turned_run")
    assert plan(data, "--source", source, *options).exit_code == 0
    augmentation = Run.open(tmp_path / "turned_run").plan.configurations["3d_fullres"].recipe.augmentation
    assert augmentation.rotation == 30.0
    assert "tilted head" in augmentation.reasons["rotation"]


def test_less_memory_makes_patches_smaller_and_leaves_weights_alone(
    phantoms: Path, sources: dict[str, Path], tmp_path: Path
) -> None:
    before = Run.open(sources["four"]).plan.configurations["3d_fullres"]
    assert before.memory is not None
    budget = 0.4 * before.memory.total / 1e9
    result = plan(phantoms, "--source", sources["four"], "--out", tmp_path / "run", "--gpu-memory", budget)
    assert result.exit_code == 0, result.output
    after = Run.open(tmp_path / "run").plan.configurations["3d_fullres"]
    assert after.memory is not None
    assert after.memory.total <= budget * 1e9
    assert (after.batch_size, after.patch_size) != (before.batch_size, before.patch_size)
    assert after.parameters == before.parameters
    assert "made smaller" in after.reasons["batch_size"] + after.reasons["patch_size"]
    # It predicts as it did, in the source's tiles, unless they are far larger than its patches now.
    larger = math.prod(before.tile_size) / math.prod(after.patch_size)
    assert after.tile_size == (before.tile_size if larger <= 4 else after.patch_size)


def test_recipes_for_small_cohorts(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for way in ("all", "layerwise", "unfreeze", "encoder", "heads"):
        out = tmp_path / way
        assert plan(phantoms, "--source", sources["four"], "--tuning", way, "--out", out).exit_code == 0
        found[way] = Run.open(out).plan.configurations["3d_fullres"].recipe
    before = Run.open(sources["four"]).plan.configurations["3d_fullres"].recipe
    assert {way: (r.freeze.part, r.freeze.until) for way, r in found.items()} == {
        "all": ("none", 1.0),
        "layerwise": ("none", 1.0),
        "unfreeze": ("body", 0.2),
        "encoder": ("encoder", 1.0),
        "heads": ("body", 1.0),
    }
    assert found["layerwise"].optimizer.layer_decay < 1 == found["all"].optimizer.layer_decay
    for recipe in found.values():
        assert recipe.optimizer.name == before.optimizer.name
        assert recipe.schedule.warmup > 0
        assert recipe.ema_decay > 0
        assert recipe.epochs * recipe.iterations_per_epoch < before.epochs * before.iterations_per_epoch
    assert found["all"].optimizer.learning_rate < before.optimizer.learning_rate


def test_a_fine_tuned_source_does_not_lower_the_rate_again(
    phantoms: Path, sources: dict[str, Path], tmp_path: Path
) -> None:
    def rate_of(name: str, source: Path, *options: object) -> float:
        assert plan(phantoms, "--source", source, "--out", tmp_path / name, *options).exit_code == 0
        pretend_trained(Run.open(tmp_path / name))
        return Run.open(tmp_path / name).plan.configurations["3d_fullres"].recipe.optimizer.learning_rate

    once = rate_of("once", sources["four"])
    assert once < Run.open(sources["four"]).plan.configurations["3d_fullres"].recipe.optimizer.learning_rate
    assert rate_of("twice", tmp_path / "once") == once
    # Of an optimizer whose rate from scratch nobody knows any more, the lowered one is kept.
    adamw = ["recipe.optimizer.name=adamw", "recipe.optimizer.learning_rate=0.0007"]
    assert rate_of("other", sources["four"], "--set", adamw[0], "--set", adamw[1]) == 0.0007
    assert rate_of("again", tmp_path / "other") == 0.0007


def test_the_source_is_not_written_over(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    source = shutil.copytree(sources["two"], tmp_path / "source")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    result = plan(phantoms, "--source", source, "--out", tmp_path / "elsewhere" / ".." / "source")
    assert isinstance(result.exception, UsageError)
    assert "is the run folder that --out writes" in str(result.exception)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_a_full_disk_leaves_the_weights_of_the_earlier_plan(
    phantoms: Path, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert plan(phantoms, "--source", sources["two"], "--out", run).exit_code == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise AutosegError("the disk is full.")

    monkeypatch.setattr("autoseg.transfer.source.save_weights", full)
    assert "disk is full" in str(plan(phantoms, "--source", sources["four"], "--out", run).exception)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_planning_again_without_a_source(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    assert plan(phantoms, "--source", sources["four"], "--out", tmp_path / "run").exit_code == 0
    assert list((tmp_path / "run").glob("source_*")) != []
    assert plan(phantoms, "--out", tmp_path / "run").exit_code == 0
    assert transfer_tables(Run.open(tmp_path / "run")) == {}
    assert list((tmp_path / "run").glob("source_*")) == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    label = np.zeros((40, 48), np.uint8)
    label[10:20, 10:30] = 1
    for number in range(3):
        write(root / "images" / f"{number}.png", (label * 100 + number + 1).astype(np.uint8))
        write(root / "masks" / f"{number}.png", label)
    text = '[channels]\nflair = "images/{id}.png"\n[label]\nfile = "masks/{id}.png"\nvalues = { cell = 1 }\n'
    (root / "autoseg.toml").write_text(text)
    return root


def test_bad_pairs_get_one_sentence(
    phantoms: Path, sources: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = sources["two"]
    nnunet = tmp_path / "nnunet"
    nnunet.mkdir()
    for name in ("plans.json", "dataset.json"):
        (nnunet / name).write_text("{}")
    assert plan(phantoms, "--out", tmp_path / "untrained").exit_code == 0
    foreign = shutil.copytree(two, tmp_path / "foreign")
    data = json.loads((foreign / "plan.json").read_text())
    data["configurations"]["3d_fullres"]["network"] = {"family": "mamba"}
    (foreign / "plan.json").write_text(json.dumps(data))
    monkeypatch.chdir(tmp_path)
    wrong: list[tuple[list[object], int, str]] = [
        ([pictures, "--source", two], 2, "was trained on volumes (3D) and the dataset has pictures (2D)"),
        ([phantoms, "--source", two, "--channels", "t1,t2"], 2, "none is the same; say which is which with"),
        ([phantoms, "--source", foreign], 1, "network family mamba is unknown"),
        ([phantoms, "--source", phantoms], 2, "is no run folder"),
        ([phantoms, "--source", nnunet], 2, "import it first with 'autoseg import nnunet"),
        ([phantoms, "--source", "untrained"], 2, "has no trained fold of 3d_fullres"),
        ([phantoms, "--source", two, "--source-config", "3d"], 2, "--source-config 3d is not in"),
        ([phantoms, "--source", two, "--source-fold", 1], 2, "trained: 0, 2"),
        ([phantoms, "--source", two, "--tuning", "fast"], 2, "--tuning fast is unknown; choose one of all"),
        ([phantoms, "--source", two, "--planner", "unet"], 2, "use --planner finetune"),
        ([phantoms, "--source", two, "--weights", "random"], 2, "give one of them"),
        ([phantoms, "--planner", "finetune"], 2, "--source RUN"),
        ([phantoms, "--tuning", "all"], 2, "--tuning goes with --source"),
        ([phantoms, "--source-fold", 0], 2, "--source-fold goes with --source"),
        ([phantoms, "--source", two, "--map-channel", "pet=flair"], 2, "not pet"),
        ([phantoms, "--source", two, "--map-channel", "t1=pet"], 2, "not pet"),
        ([phantoms, "--source", two, "--map-label", "whole_tumor=liver"], 2, "not liver"),
        ([phantoms, "--source", two, "--map-channel", "flair"], 2, "is not of the form NAME=SOURCE"),
    ]
    for number, (arguments, code, sentence) in enumerate(wrong):
        out = tmp_path / f"wrong_{number}"
        result = CliRunner().invoke(app, ["plan", *map(str, arguments), "--out", str(out), "--device", "cuda"])
        assert isinstance(result.exception, AutosegError), (arguments, result.output)
        said = str(result.exception)
        assert sentence in said
        assert "\n" not in said
        assert not out.exists()
        assert isinstance(result.exception, UsageError) == (code == 2), said


def test_the_file_in_the_run_folder_is_checked(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    assert plan(phantoms, "--source", sources["two"], "--out", tmp_path / "run").exit_code == 0
    run = Run.open(tmp_path / "run")
    (file,) = (tmp_path / "run").glob("source_3d_fullres_*.safetensors")
    weights = load_weights(file)
    save_weights(file, {**weights, FIRST: weights[FIRST] + 1})
    with pytest.raises(AutosegError, match="is not the file that was planned with"):
        started(run)
    file.unlink()
    with pytest.raises(AutosegError, match="is gone; plan again with --source"):
        started(run)


@pytest.mark.parametrize("planner", ["cascade", "region_cascade"])
def test_a_source_of_stages_hands_on_all_of_them(planner: str, phantoms: Path, tmp_path: Path) -> None:
    options = ["--planner", planner, "--channels", "flair,t1c", "--gpu-memory", 4]
    if planner == "cascade":
        options += ["--set", SMALL]
    assert plan(phantoms, "--out", tmp_path / "source", *options).exit_code == 0
    before = pretend_trained(Run.open(tmp_path / "source"))
    result = plan(phantoms, "--source", tmp_path / "source", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    run = Run.open(tmp_path / "run")
    chain = [stage.name for stage in before.plan.stage().chain]
    assert list(run.plan.configurations) == chain
    for stage in chain:
        weights, now, configuration = started(run, stage)
        source = load_weights(before.fold(stage, 0).weights)
        given = configuration.recipe.initialization
        assert set(given.outputs) >= {output.name for output in now.stage(stage).target.outputs}
        assert set(given.channels.values()) == set(given.source_channels)
        assert sum(torch.equal(weights[name], source[name]) for name in weights) >= 0.9 * len(weights)
    last = run.plan.configurations[chain[-1]]
    assert last.previous is not None
    assert last.previous.configuration == chain[-2]
    if planner == "cascade":
        regions = ["found: whole_tumor", "found: tumor_core", "found: enhancing_tumor"]
        assert last.recipe.initialization.source_channels == ["t1c", "flair", *regions]
        # The second stage learns from predictions; of a single fold there would be none.
        result = plan(phantoms, "--source", tmp_path / "source", "--folds", 1, "--out", tmp_path / "single")
        assert "--folds 1: 3d_cascade_fullres learns from what 3d_lowres predicts" in str(result.exception)
        assert not (tmp_path / "single").exists()
    else:
        result = plan(phantoms, "--source", tmp_path / "source", "--regions", "whole_tumor", "--out", tmp_path / "one")
        assert "which the dataset has not all" in str(result.exception)
        data = shutil.copytree(phantoms, tmp_path / "more")
        toml = (data / "autoseg.toml").read_text()
        (data / "autoseg.toml").write_text(toml.replace("regions = {", "regions = { cavity = [1],"))
        result = plan(data, "--source", tmp_path / "source", "--out", tmp_path / "cavity")
        assert isinstance(result.exception, UsageError)
        assert "has several stages, none of which segments cavity; leave it out with --regions" in str(result.exception)


def test_raters_of_source_and_cohort(tmp_path: Path) -> None:
    """One decoder becomes several and several one; who is known keeps theirs, the others get the mean."""
    cohort = Cohort(cases=3, shape=(16, 20, 20), spacing=(8.0, 8.0, 8.0), raters=2)
    data = generate(tmp_path / "raters", cohort)
    options = ["--gpu-memory", 4, "--set", SMALL]
    assert plan(data, "--out", tmp_path / "single", *options).exit_code == 0
    single = load_weights(pretend_trained(Run.open(tmp_path / "single")).fold("3d_fullres", 0).weights)
    result = plan(data, "--source", tmp_path / "single", "--raters", "all", "--out", tmp_path / "several")
    assert result.exit_code == 0, result.output
    several = Run.open(tmp_path / "several")
    first, second = several.plan.raters
    weights, *_ = started(several)
    head = "seg_layers.0.weight"
    for number in (0, 1):
        assert torch.equal(weights[f"decoders.{number}.{head}"], single[f"decoder.{head}"])
    assert torch.equal(weights[FIRST], single[FIRST])
    # As if trained, the two differ; a source of two for one, and for the same two the other way round.
    two = load_weights(pretend_trained(several).fold("3d_fullres", 0).weights)
    two[f"decoders.1.{head}"] += 1
    identity = {"identity": several.plan.stage("3d_fullres").identity}
    save_weights(several.fold("3d_fullres", 0).weights, two, identity)
    assert plan(data, "--source", tmp_path / "several", "--out", tmp_path / "one").exit_code == 0
    weights, *_ = started(Run.open(tmp_path / "one"))
    torch.testing.assert_close(weights[f"decoder.{head}"], (two[f"decoders.0.{head}"] + two[f"decoders.1.{head}"]) / 2)
    result = plan(data, "--source", tmp_path / "several", "--raters", f"{second},{first}", "--out", tmp_path / "swap")
    assert result.exit_code == 0, result.output
    weights, *_ = started(Run.open(tmp_path / "swap"))
    assert torch.equal(weights[f"decoders.0.{head}"], two[f"decoders.1.{head}"])
    assert torch.equal(weights[f"decoders.1.{head}"], two[f"decoders.0.{head}"])


def test_how_much_of_the_source_is_kept(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """Chosen where it knows all that is asked for; nothing where it does not, or for the paper's way."""

    told: dict[str, str] = {}

    def kept(name: str, *options: object) -> float | str:
        result = plan(phantoms, "--source", *options, "--out", tmp_path / name)
        assert result.exit_code == 0
        told[name] = " ".join(result.output.split())
        return Run.open(tmp_path / name).plan.configurations["3d_fullres"].recipe.initialization.keep

    four = sources["four"]
    assert kept("same", four) == "auto"
    assert len(Run.open(tmp_path / "same").plan.stage().recipe.initialization.ensemble) == 2
    assert kept("all", four, "--tuning", "all") == 0
    assert kept("fewer", four, "--channels", "t1,t2") == 0
    assert kept("more", sources["two"]) == 0
    assert kept("fewer regions", four, "--regions", "whole_tumor") == "auto"
    assert kept("other", four, "--regions", "whole_tumor,edema") == 0
    assert kept("asked", four, "--set", "recipe.initialization.keep=0.2") == 0.2
    # Without the channels that it has more, it is scored where it was trained to go without; and labels beyond.
    dropped = shutil.copytree(four, tmp_path / "dropped")
    given = json.loads((dropped / "plan.json").read_text())
    given["configurations"]["3d_fullres"]["recipe"]["channel_dropout"] = 0.2
    (dropped / "plan.json").write_text(json.dumps(given))
    assert kept("without", dropped, "--channels", "t1,t2") == "auto"
    labels = tmp_path / "labels"
    assert plan(phantoms, "--regions", "edema,necrosis", "--set", SMALL, "--out", labels).exit_code == 0
    pretend_trained(Run.open(labels))
    assert kept("fewer labels", labels, "--regions", "edema") == "auto"
    # What can't be as the source's own run has it, is said at once.
    assert kept("other tiles", four, "--set", "inference.overlap=0.25") == "auto"
    sentence = "The source as it is is scored, and kept, with this plan's inference.overlap, not its own"
    assert sentence in told["other tiles"]
    assert "The source as it is can't be scored: it has flair, t1c, too, and is not known" in told["fewer"]
    assert "The source as it is can't be scored: it has no t1, t2." in told["more"]
    assert all("The source as it is" not in told[name] for name in ("same", "fewer regions", "without", "fewer labels"))
    # Too few patients to choose by are told before any time is spent.
    assert kept("two", four, "--test-share", "0.34") == "auto"
    assert "2 held-out patient(s) can't tell whether tuning helps, 3 can: the source is kept as it is" in told["two"]
    assert "can't tell" not in told["same"]
    assert "Held-out cases don't choose how much of the source is kept (20% is)" in told["asked"]
    assert "(0% is)" in told["all"]
    words = ("--source", four, "--max-time", "5m", "--device", "cpu", "--out", tmp_path / "in time")
    with pytest.raises(UsageError, match="planner finetune does not choose a width; give the time to"):
        raise invoke("plan", phantoms, *words).exception or AssertionError


def test_a_source_that_looked_at_its_validation(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """Held-out cases of the cohort choose how much of it is kept, and decide on nothing before; unless none do."""
    model = tmp_path / "model"
    shutil.copytree(sources["four"], model)
    follows = 'recipe.schedule={"name": "plateau", "follows": "validation_loss"}'
    save_plan(override(Run.open(model).plan, ["recipe.early_stopping=10", follows]), model / "plan.json")

    def recipe(name: str, *options: object) -> Recipe:
        result = plan(phantoms, "--source", model, *options, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        return Run.open(tmp_path / name).plan.stage("3d_fullres").recipe

    usual = recipe("usual")
    assert (usual.early_stopping, usual.schedule.follows) == (0, "training_loss")
    assert "they may not end the tuning" in usual.reasons["early_stopping"]
    assert recipe("all", "--tuning", "all").early_stopping == 10
    early = ("--set", "recipe.early_stopping=5")
    assert recipe("set", *early, "--set", "recipe.initialization.keep=0.5").early_stopping == 5
    for wrong, instead in ((early, "early_stopping=0"), (("--set", follows), "schedule.follows=training_loss")):
        refused = plan(phantoms, "--source", model, *wrong, "--out", tmp_path / "wrong")
        assert f"set recipe.{instead}, or keep to a number" in str(refused.exception)
    assert not (tmp_path / "wrong").exists()


def test_ways_to_tune(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """Each leaves its mark in the plan; the looks that scanners differ in come 2.5 times as often."""

    def recipe(name: str) -> Recipe:
        result = plan(phantoms, "--source", sources["four"], "--tuning", name, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        return Run.open(tmp_path / name).plan.stage("3d_fullres").recipe

    usual, loud = recipe("layerwise").augmentation, recipe("augmented").augmentation
    assert loud.contrast_probability == pytest.approx(2.5 * usual.contrast_probability)
    assert loud.gamma_probability == pytest.approx(min(1, 2.5 * usual.gamma_probability))
    assert (loud.rotation_probability, loud.contrast) == (usual.rotation_probability, usual.contrast)
    assert recipe("norms").freeze.part == "kernels"
    assert (recipe("pulled").initialization.pull, recipe("pulled").initialization.keep) == (20, "auto")
    assert (recipe("lowrank").initialization.rank, recipe("lowrank").initialization.keep) == (4, "auto")
    unknown = plan(phantoms, "--source", sources["four"], "--tuning", "more", "--out", tmp_path / "none")
    assert "augmented" in str(unknown.exception)


def test_harmonized(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """Images of another gain are preprocessed to what the source's own images are; the plan says by what."""
    other = tmp_path / "other"
    shutil.copytree(phantoms, other)
    for case in Dataset.open(other).cases:
        for file in case.channels.values():
            image = sitk.ReadImage(str(file.path))
            sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32) * 3.0, str(file.path))
    result = plan(other, "--source", sources["four"], "--harmonize", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    run, source = Run.open(tmp_path / "run"), Run.open(sources["four"])
    assert run.plan.preprocessing.harmonize == source.fingerprint.landmarks
    stages = [one.plan.stage("3d_fullres") for one in (run, source)]
    names = stages[0].channel_names
    for case in run.dataset.cases:
        ours = preprocess_case(load_case(case, names), stages[0]).image
        theirs = preprocess_case(load_case(source.dataset.case(case.id), names), stages[1]).image
        # Not the same: each image is brought to the mean of all. But the gain is gone.
        ratio = [float(np.percentile(a, 95) / np.percentile(b, 95)) for a, b in zip(ours, theirs, strict=True)]
        assert ratio == pytest.approx([1.0] * len(ratio), abs=0.2)
    # What the fingerprint of an earlier version does not know is measured, where the images are there.
    older = tmp_path / "older"
    shutil.copytree(sources["four"], older)
    path = older / "fingerprint.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    wanted = known.pop("landmarks")
    path.write_text(json.dumps(known), encoding="utf-8")
    assert plan(other, "--source", older, "--harmonize", "--out", tmp_path / "again").exit_code == 0
    assert Run.open(tmp_path / "again").plan.preprocessing.harmonize == wanted
    gone = json.loads((older / "dataset.json").read_text(encoding="utf-8").replace(str(phantoms), "/nowhere"))
    (older / "dataset.json").write_text(json.dumps(gone), encoding="utf-8")
    refused = plan(other, "--source", older, "--harmonize", "--out", tmp_path / "refused")
    assert "--harmonize: the fingerprint of" in str(refused.exception or refused.output)
    assert not (tmp_path / "refused").exists()


def test_what_can_not_be_harmonized_is_said_before_the_cohort_is_read(
    phantoms: Path, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of the cohort's channels alone: what the source has beyond does not matter."""
    older = tmp_path / "older"
    shutil.copytree(sources["four"], older)
    path = older / "fingerprint.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    del known["landmarks"]["t2"]
    path.write_text(json.dumps(known), encoding="utf-8")
    gone = json.loads((older / "dataset.json").read_text(encoding="utf-8").replace(str(phantoms), "/nowhere"))
    (older / "dataset.json").write_text(json.dumps(gone), encoding="utf-8")
    asked = (phantoms, "--source", older, "--harmonize", "--out", tmp_path / "run")
    result = plan(*asked, "--channels", "t1,flair")
    assert result.exit_code == 0, result.output
    wanted = {name: known["landmarks"][name] for name in ("t1", "flair")}
    assert Run.open(tmp_path / "run").plan.preprocessing.harmonize == wanted

    def read(*_: object) -> None:
        pytest.fail("the cohort was read")

    monkeypatch.setattr("autoseg.planning.making.examine", read)
    refused = plan(*asked)
    assert "--harmonize: the fingerprint of" in str(refused.exception or refused.output)


def test_a_source_whose_best_weights_were_taken(phantoms: Path, tmp_path: Path) -> None:
    """Weights that are averaged with the source are those at the end; where none are kept, the best ones."""
    options = ["--set", SMALL, "--set", "inference.checkpoint=best", "--gpu-memory", 4]
    assert plan(phantoms, "--out", tmp_path / "source", *options).exit_code == 0
    pretend_trained(Run.open(tmp_path / "source"))
    for way, expected in (("", "weights"), ("all", "best")):
        out = tmp_path / f"tuned_{way}"
        result = plan(phantoms, "--out", out, "--source", tmp_path / "source", "--tuning", way)
        assert result.exit_code == 0, result.output
        chosen = Run.open(out).plan.stage().configuration
        assert (chosen.inference.checkpoint, bool(chosen.recipe.initialization.keep)) == (expected, expected != "best")


def test_where_the_tuning_begins(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """With the best of the source's two folds, unless one is named, or the source can't be measured or kept."""

    def begin(name: str, *options: object) -> str:
        assert plan(phantoms, "--source", *options, "--out", tmp_path / name).exit_code == 0
        return Run.open(tmp_path / name).plan.stage().recipe.initialization.begin

    four = sources["four"]
    assert begin("usual", four) == "best"
    assert begin("named", four, "--source-fold", 0) == "fold"
    assert begin("all", four, "--tuning", "all") == "fold"
    assert begin("fewer", four, "--channels", "t1,t2") == "fold"
    assert begin("asked", four, "--set", "recipe.initialization.begin=fold") == "fold"


def test_what_a_source_was_trained_with_is_its_own(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """Cases mixed into its batches, and epochs of its cases."""
    size = {"shape": (16, 20, 20), "spacing": (8.0, 8.0, 8.0)}
    data = generate(tmp_path / "data", Cohort(cases=3, seed=5, **size))  # type: ignore[arg-type]
    options = ("--source-data", data, "--set", "recipe.epoch_length=pass")
    assert plan(phantoms, "--source", sources["four"], *options, "--out", tmp_path / "once").exit_code == 0
    once = pretend_trained(Run.open(tmp_path / "once")).plan.stage().recipe
    assert once.source_cases is not None
    result = plan(phantoms, "--source", tmp_path / "once", "--out", tmp_path / "twice")
    assert result.exit_code == 0, result.output
    run = Run.open(tmp_path / "twice")
    recipe = run.plan.stage().recipe
    assert recipe.source_cases is None
    # As many steps as the reason says.
    steps = recipe.epochs * recipe.steps_of_epoch(2, run.plan.stage().configuration.batch_size)
    assert recipe.reasons["epochs"].startswith(f"{steps} steps")


def test_cases_from_elsewhere(phantoms: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """The source's cases, as the plan and the file in the run folder say."""
    size = {"shape": (16, 20, 20), "spacing": (8.0, 8.0, 8.0)}
    data = generate(tmp_path / "data", Cohort(cases=2, seed=5, **size))  # type: ignore[arg-type]
    out = tmp_path / "run"
    four = ("--source", sources["four"])
    result = plan(phantoms, *four, "--source-data", data, "--out", out)
    assert result.exit_code == 0, result.output
    run = Run.open(out)
    recipe = run.plan.stage().recipe
    assert recipe.source_cases is not None
    assert recipe.source_cases.share == 0.25
    found = mixed_dataset(run, recipe.source_cases.file)
    assert found.values == {value: value for value in Dataset.open(data).labels.values()}
    assert len(found.dataset.cases) == 2
    for options, sentence in (
        (("--source-data", data), "--source-data goes with --source"),
        ((*four, "--source-data", phantoms), "has the scan of"),
    ):
        refused = plan(phantoms, *options, "--out", tmp_path / "refused")
        assert sentence in str(refused.exception)
        assert not (tmp_path / "refused").exists()
