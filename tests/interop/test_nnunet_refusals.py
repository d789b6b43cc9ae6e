"""What can't be imported from nnU-Net, or exported to it: one sentence each, and nothing of a checkpoint is run."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.interop import export_nnunet, import_nnunet
from autoseg.interop.nnunet.checkpoint import read_checkpoint
from autoseg.networks import build
from autoseg.networks.weights import identity_of, save_weights
from autoseg.plans.configuration import Previous
from autoseg.plans.inference import Inference
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Channel, Normalization, Preprocessing
from autoseg.plans.target import Output, Target
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import REGIONS, make_configuration, make_plan, make_run
from tests.interop.model import NAME, checkpoint, dataset, network, plans, stirred, write_model


class Malicious:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Evaluating:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (self.code,)


class Building:
    """Looks like an array of numpy, whose parts are made by whatever function the file names."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.load, ("x.npy",)


@pytest.mark.parametrize("place", ["logging", "network_weights", "init_args"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, place: str) -> None:
    write_model(tmp_path / NAME)
    trace = tmp_path / "trace"
    for number, evil in enumerate(
        (Malicious(f"touch {trace}"), Evaluating(f"open({str(trace)!r}, 'w')"), Building(), Path("x"))
    ):
        torch.save(
            checkpoint(network(1, 3, 0).state_dict()) | {place: {"a": evil}},
            tmp_path / NAME / "fold_0" / "checkpoint_final.pth",
        )
        with pytest.raises(AutosegError, match=r"holds \S+, and reading that could run somebody's code; only check"):
            import_nnunet(tmp_path / NAME, tmp_path / f"run{number}")
    assert not trace.exists()
    assert not (tmp_path / "run0" / "plan.json").exists()


def test_a_plain_pickle_is_not_run(tmp_path: Path) -> None:
    """The format of old torch files, without the archive around it."""
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(pickle.dumps({"network_weights": Malicious(f"touch {tmp_path / 'trace'}")}))
    with pytest.raises(AutosegError):
        read_checkpoint(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], 'has no "network_weights"; give a checkpoint that nnU-Net v2 has written'),
        ({"state_dict": {}}, 'has no "network_weights"'),
        ({"network_weights": {}}, 'has no "network_weights"'),
        ({"network_weights": {"a": 1}}, 'has no "network_weights"'),
        (
            {"network_weights": {"a": torch.ones(1)}, "inference_allowed_mirroring_axes": "xy"},
            "must be numbers of axes, not 'xy'",
        ),
    ],
)
def test_other_checkpoints(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "checkpoint_final.pth")
    with pytest.raises(AutosegError, match=message):
        read_checkpoint(tmp_path / "checkpoint_final.pth")


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    with pytest.raises(AutosegError, match="does not exist"):
        read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(AutosegError, match="is no readable checkpoint of nnU-Net"):
        read_checkpoint(path)
    torch.save(checkpoint(network(1, 3, 0).state_dict()), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(AutosegError, match="is no readable checkpoint of nnU-Net"):
        read_checkpoint(path)


def _settings(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda planned: planned["configurations"]["3d_fullres"].update(changes)


def _with_torch(**given: Any) -> Callable[[dict[str, Any]], None]:
    changes: dict[str, Any] = {}
    for kind in ("data", "seg", "probabilities"):
        changes |= {f"resampling_fn_{kind}": "resample_torch_fornnunet", f"resampling_fn_{kind}_kwargs": given}
    return _settings(**changes)


def _words(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda planned: planned["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(changes)


def _named(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda planned: planned["configurations"]["3d_fullres"]["architecture"].update(network_class_name=name)


def _without(*names: str) -> Callable[[dict[str, Any]], None]:
    return lambda planned: [planned["configurations"]["3d_fullres"].pop(name) for name in names]  # type: ignore


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_settings(previous_stage="3d_lowres"), "is the second stage of a cascade, after 3d_lowres"),
        (_settings(preprocessor_name="Mine"), "images are preprocessed by Mine; only models with DefaultPreprocessor"),
        (
            _settings(resampling_fn_data="resample_torch_fornnunet"),
            "images are resampled by resample_torch_fornnunet, label maps by resample_data_or_seg_to_shape and scores",
        ),
        (_settings(resampling_fn_seg="mine"), "label maps are resampled by mine; only models with resample_data_or_se"),
        (_settings(resampling_fn_probabilities="no_resampling_hack"), "and scores by no_resampling_hack; only models"),
        (_with_torch(mode="nearest"), "only nnU-Net's own way"),
        (_with_torch(aniso_axis_mode="linear"), "only nnU-Net's own way"),
        (_with_torch(force_separate_z=True), "has force_separate_z true; only null and false"),
        (_settings(resampling_fn_probabilities_kwargs={"order": 3}), "only nnU-Net's own way"),
        (_settings(resampling_fn_data_kwargs={"order": 3, "order_z": 1}), "only nnU-Net's own way"),
        (_settings(normalization_schemes=["MyNorm"]), "normalizes with MyNorm, which autoseg does not know"),
        (_settings(normalization_schemes=["ZScoreNormalization"] * 2), "normalizes 2 channels and .*names 1"),
        (_settings(inherits_from="3d_fullres"), "configuration 3d_fullres inherits from itself"),
        (_settings(inherits_from="gone"), "has no configuration gone"),
        (_settings(patch_size=[8, 12, 15]), r"can't be a plan of autoseg: .*patch_size\[2\] = 15"),
        (_settings(patch_size="large"), r"is not as nnU-Net v2 writes it \(configurations.3d_fullres.patch_size"),
        (_without("spacing"), r"is not as nnU-Net v2 writes it \(configurations.3d_fullres.spacing: Field required"),
        (_without("architecture"), "has neither an architecture nor UNet_class_name"),
        (_named("primus.Primus"), "is a Primus; only PlainConvUNet and ResidualEncoderUNet can be imported"),
        (_words(norm_op="torch.nn.modules.instancenorm.InstanceNorm2d"), "has norm_op .*InstanceNorm2d, which autoseg"),
        (_words(norm_op=None), "has norm_op None"),
        (_words(nonlin="torch.nn.GELU"), "has nonlin torch.nn.GELU"),
        (_words(nonlin_kwargs={"negative_slope": 0.2}), "has negative_slope 0.2"),
        (_words(norm_op_kwargs={"eps": 1e-3, "affine": True}), "has norm_op_kwargs"),
        (_words(conv_bias=False), "has conv_bias False"),
        (_words(conv_op="torch.nn.modules.conv.Conv2d"), "has conv_op .*Conv2d"),
        (_words(strides=[[1, 1, 1]]), "has a network that autoseg can't build: .*strides has 1 entries"),
        (_words(n_stages=None), "arch_kwargs are damaged"),
        (
            lambda planned: [
                planned.update(image_reader_writer="NaturalImage2DIO"),
                planned["configurations"]["3d_fullres"].update(spacing=[999.0, 0.5, 1.0]),
            ],
            r"resamples to \[999.0, 0.5, 1.0\] mm pictures that NaturalImage2DIO reads as if every pixel were 1 × 1 mm",
        ),
        (
            lambda planned: planned.update(image_reader_writer="MyIO"),
            "are read by MyIO, which autoseg does not",
        ),
        (lambda planned: planned.update(label_manager="Mine"), "labels are handled by Mine"),
        (lambda planned: planned.pop("dataset_name"), r"is not as nnU-Net v2 writes it \(dataset_name: Field required"),
        (
            lambda planned: [
                planned["configurations"]["3d_fullres"].update(normalization_schemes=["CTNormalization"]),
                planned.update(foreground_intensity_properties_per_channel={}),
            ],
            "needs intensity properties of every CT channel",
        ),
    ],
)
def test_plans_that_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    planned = plans()
    change(planned)
    model = tmp_path / NAME
    write_model(model, plans())
    (model / "plans.json").write_text(json.dumps(planned))
    with pytest.raises(AutosegError, match=message) as refused:
        import_nnunet(model, tmp_path / "run")
    sentence = str(refused.value)
    assert str(model) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (dataset(labels={"background": 0, "a": 1, "c": 3}), "labels must be numbered 1, 2, 3, … without gaps"),
        (dataset(labels={"background": 0, "w": [1, 2], "c": 2}), 'needs a "regions_class_order"'),
        (dataset(labels={"background": 0, "w": [1, 2], "c": 2}, regions_class_order=[1, 0]), "c is painted with 0"),
        (dataset(labels={"background": 0, "w": 1, "ignore": 1}), "w has the value 1, whose voxels are left out"),
        (dataset(labels=7), '"labels" must be a table'),
        (dataset(channels=(), channel_names="MRI"), '"channel_names" must name the channels by number'),
    ],
)
def test_datasets_that_are_refused(tmp_path: Path, described: dict[str, Any], message: str) -> None:
    write_model(tmp_path / NAME)
    (tmp_path / NAME / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(AutosegError, match=message):
        import_nnunet(tmp_path / NAME, tmp_path / "run")


def test_weights_of_another_network(tmp_path: Path) -> None:
    write_model(tmp_path / NAME, heads=4, trainer_name="nnUNetTrainerUMambaBot")
    with pytest.raises(
        AutosegError, match=r"does not fit the network that plans.json describes .*; nnUNetTrainerUMamba"
    ):
        import_nnunet(tmp_path / NAME, tmp_path / "run")


def test_nothing_is_left_of_an_import_that_failed(tmp_path: Path) -> None:
    write_model(tmp_path / NAME, folds=(0, 1))
    (tmp_path / NAME / "fold_1" / "checkpoint_final.pth").write_bytes(b"damaged")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(AutosegError, match=r"checkpoint_final\.pth is no readable checkpoint"):
        import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["notes.txt"]


def test_axes_that_a_patch_has_not(tmp_path: Path) -> None:
    write_model(tmp_path / NAME, inference_allowed_mirroring_axes=(0, 3))
    with pytest.raises(AutosegError, match=r"mirrors the axes \[0, 3\], and a patch has 3"):
        import_nnunet(tmp_path / NAME, tmp_path / "run")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(AutosegError, match=r"is no nnU-Net model folder \(it has no plans.json\)"):
        import_nnunet(tmp_path / "nothing", tmp_path / "run")
    (tmp_path / "model.zip").write_bytes(b"PK")
    with pytest.raises(AutosegError, match=r"model\.zip is a zip file; unzip it first, and give the folder in it"):
        import_nnunet(tmp_path / "model.zip", tmp_path / "run")
    write_model(tmp_path / "Dataset007" / NAME)
    with pytest.raises(AutosegError, match=f"such as {NAME} in it"):
        import_nnunet(tmp_path / "Dataset007", tmp_path / "run")
    write_model(tmp_path / "untrained" / NAME, folds=())
    with pytest.raises(AutosegError, match=r"has no fold_0/checkpoint_final\.pth"):
        import_nnunet(tmp_path / "untrained" / NAME, tmp_path / "run")
    write_model(tmp_path / "begun" / NAME, folds=(1,), files=("checkpoint_latest.pth",))
    with pytest.raises(AutosegError, match=r"fold_1 has neither checkpoint_final\.pth nor checkpoint_best\.pth"):
        import_nnunet(tmp_path / "begun" / NAME, tmp_path / "run")
    write_model(tmp_path / "unnamed", init_args={})
    with pytest.raises(AutosegError, match="does not say its configuration; name the folder as nnU-Net does"):
        import_nnunet(tmp_path / "unnamed", tmp_path / "run")


def test_folders_in_use(tmp_path: Path) -> None:
    write_model(tmp_path / NAME)
    with pytest.raises(UsageError, match="is the dataset's own folder"):
        import_nnunet(tmp_path / NAME, tmp_path / NAME)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    with pytest.raises(UsageError, match="is a run folder already"):
        import_nnunet(tmp_path / NAME, run.path)
    export_nnunet(run.path, tmp_path / "model")
    with pytest.raises(UsageError, match=r"holds a plans\.json already"):
        export_nnunet(run.path, tmp_path / "model")
    with pytest.raises(UsageError, match=r"holds a plan\.json already"):
        export_nnunet(run.path, run.path)


def trained(root: Path, plan: Plan) -> Run:
    """A run whose first fold has random weights."""
    run = make_run(root, plan)
    for stage in plan.stages:
        net = build(stage.network, stage.in_channels, stage.heads)
        metadata = identity_of(stage)
        save_weights(run.fold(stage, 0).weights, stirred(net).state_dict(), metadata)
    return run


HALF = Inference(mirror_axes=[])


def _plan(**changes: Any) -> Plan:
    return make_plan(make_configuration(inference=HALF), **changes)


def _normalized(**values: Any) -> Plan:
    channels = [Channel(name="mr", normalization=Normalization(**values))]
    return _plan().model_copy(update={"channels": channels})


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            make_plan(make_configuration(network={"family": "vnet", "features": [4, 8], "convolutions": [1, 1]})),
            "nnU-Net has no network of the family vnet",
        ),
        (_plan(preprocessing=Preprocessing(box=(8, 8, 8))), "nnU-Net can't cut to a box"),
        (_plan(preprocessing=Preprocessing(bias_correction="n4")), "nnU-Net does not correct bias fields"),
        (_plan(preprocessing=Preprocessing(crop="none")), "nnU-Net always crops to non-zero voxels"),
        (_normalized(scheme="percentile"), r"nnU-Net has no normalization percentile \(channel mr\)"),
        (_normalized(scheme="minmax", masked=True), "nnU-Net's normalization minmax knows no mask"),
        (
            make_plan(make_configuration(spacing=(1.0, None, 1.0), inference=HALF)),
            "keep an image's own spacing but across",
        ),
        (
            make_plan(make_configuration((8, 8), spacing=(None, 1.0, None), inference=HALF)),
            "keep an image's own spacing but across",
        ),
        (make_plan(), "nnU-Net's tiles overlap by half"),
        (make_plan(make_configuration(inference=Inference(mirror_axes=[], step=[4, 4, 4]))), "tiles overlap by half"),
        (
            make_plan(make_configuration(inference=Inference(mirror_axes=[], edges="padded"))),
            "spreads its tiles evenly",
        ),
        (make_plan(make_configuration(inference=Inference(mirror_axes=[], gaussian_sigma=0))), "a Gaussian of 1/8"),
        (
            _plan(target=Target(kind="labels", outputs=[Output(name="tumour", values=[4], paint=4)])),
            r"nnU-Net needs labels numbered 1, 2, 3, …, not \[4\]",
        ),
        (
            make_plan(
                configurations={
                    "first": make_configuration(inference=HALF),
                    "small": make_configuration(inference=HALF, previous=Previous(configuration="first")),
                }
            ),
            "it follows another stage",
        ),
    ],
)
def test_plans_that_nnunet_can_not_follow(tmp_path: Path, plan: Plan, message: str) -> None:
    run = trained(tmp_path, plan)
    with pytest.raises(AutosegError, match=f"small can't become a model of nnU-Net: .*{message}"):
        export_nnunet(run.path, tmp_path / "model", "small")
    assert not (tmp_path / "model").exists()


def test_folds_and_configurations_that_are_none(tmp_path: Path) -> None:
    run = trained(tmp_path, make_plan(make_configuration(inference=HALF), target=REGIONS))
    with pytest.raises(UsageError, match="fold 1 of small is not trained"):
        export_nnunet(run.path, tmp_path / "model", folds=[1])
    with pytest.raises(UsageError, match="--config large is not in the plan"):
        export_nnunet(run.path, tmp_path / "model", "large")
    (run.fold("small", 0).weights).unlink()
    with pytest.raises(UsageError, match="has no trained fold of small; train it with"):
        export_nnunet(run.path, tmp_path / "model")
