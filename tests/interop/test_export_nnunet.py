"""A run exported to nnU-Net: back again unchanged, and on mirrored images the mirrored result."""

import json
import pydoc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from autoseg.data.dataset import load_case
from autoseg.inference.inputs import cases_to_predict
from autoseg.inference.predictor import Predictor
from autoseg.interop import export_nnunet, import_nnunet
from autoseg.interop.nnunet.mirroring import mirrored, mirrored_architecture
from autoseg.networks import build
from autoseg.networks.weights import load_network, load_weights
from autoseg.plans.families import UNet
from autoseg.plans.inference import Inference
from autoseg.plans.plan import Plan
from autoseg.plans.postprocessing import Step
from autoseg.plans.preprocessing import LANDMARKS, Channel, Normalization, Preprocessing
from autoseg.plans.target import Output, Target
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.store import save
from autoseg.runs.run import SOURCE, SOURCE_SHARE, UNTOUCHED, Run
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import write_json
from tests.builders import REGIONS, make_configuration, make_network, make_plan, make_recipe, write
from tests.interop.model import NAME, dataset, logits, plans, read, scan, stirred, write_model, zscore
from tests.interop.test_nnunet_refusals import trained
from tests.postprocessing.test_steps import choose

WHOLE = Inference(mirror_axes=[])


@pytest.mark.parametrize(
    ("network", "shape", "axes"),
    [
        (make_network(3, stages=3, encoder_blocks=[1, 2, 1]), (8, 12, 16), (1, 2)),
        (make_network(3, stages=3, family="resenc", encoder_blocks=[1, 2, 2]), (8, 12, 16), (1, 2)),
        (make_network(2, stages=3, norm="batch"), (12, 16), (0, 1)),
        (make_network(2, stages=2), (12, 16), (1,)),
        # Strides of 3, kernels of 1 and 5, stages that pool some axes only.
        (
            make_network(
                3,
                stages=3,
                strides=[[1, 1, 1], [1, 2, 3], [2, 2, 1]],
                kernel_sizes=[[1, 3, 5], [3, 1, 3], [3, 5, 1]],
                activation="relu",
            ),
            (4, 8, 12),
            (0, 1, 2),
        ),
        (make_network(3, family="resenc", strides=[[1, 1, 1], [1, 3, 2]], norm="batch"), (4, 12, 8), (0, 1)),
    ],
)
def test_mirrored_images_give_the_mirrored_result(network: UNet, shape: tuple, axes: tuple) -> None:
    module = stirred(build(network, 2, 3, deep_supervision=False))
    turned = mirrored(module, network, 2, 3, axes)
    image = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(1))
    over = [axis + 2 for axis in axes]
    with torch.inference_mode():
        expected, found = module(image), turned(image.flip(over)).flip(over)
        assert not torch.allclose(module(image.flip(over)).flip(over), expected, atol=1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_kernels_of_stages_that_pool_are_wider() -> None:
    network = make_network(3, stages=3, strides=[[1, 1, 1], [1, 2, 2], [2, 2, 1]])
    assert mirrored_architecture(network, [1, 2]).kernel_sizes == [[3, 3, 3], [3, 5, 5], [3, 5, 3]]
    assert mirrored_architecture(network, []) == network


@pytest.mark.parametrize("family", ["unet", "resenc"])
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIOWithReorient"])
def test_there_and_back(tmp_path: Path, family: str, reader: str) -> None:
    """An imported model comes out as it went in, to the bit."""
    planned = {**plans(family=family, channels=2), "image_reader_writer": reader, "transpose_forward": [2, 0, 1]}
    given = planned["configurations"]["3d_fullres"]
    given |= {
        "use_mask_for_norm": [True, False],
        "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
        "spacing": [3.5, 1.0, 0.75],
    }
    described = dataset(
        ("MR", "CT"), labels={"background": 0, "w": [1, 2], "i": 2, "ignore": 3}, regions_class_order=[1, 2]
    )
    networks = write_model(
        tmp_path / NAME, planned, described, folds=(0, 2), heads=2, inference_allowed_mirroring_axes=(1,)
    )
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    out = export_nnunet(run.path, tmp_path / "model")
    written = json.loads((out / "plans.json").read_text())
    for key in ("image_reader_writer", "transpose_forward", "dataset_name", "label_manager"):
        assert written[key] == planned[key]
    assert written["transpose_backward"] == [1, 2, 0]
    made = written["configurations"]["3d_fullres"]
    for key in given.keys() - {"data_identifier", "median_image_size_in_voxels"}:
        assert made[key] == given[key], key
    told = json.loads((out / "dataset.json").read_text())
    assert told["labels"] == described["labels"]
    assert told["regions_class_order"] == [1, 2]
    assert told["channel_names"] == {"0": "MR", "1": "CT"}
    for fold, net in zip((0, 2), networks, strict=True):
        found = torch.load(out / f"fold_{fold}" / "checkpoint_final.pth", weights_only=True)
        assert found["trainer_name"] == "nnUNetTrainer"
        assert found["init_args"]["configuration"] == "3d_fullres"
        assert found["inference_allowed_mirroring_axes"] == (1,)
        expected = net.state_dict()
        assert list(found["network_weights"]) == list(expected)
        assert all(torch.equal(found["network_weights"][name], tensor) for name, tensor in expected.items())
    again = import_nnunet(out, tmp_path / "again")
    assert again.plan == run.plan
    assert again.fingerprint == run.fingerprint


def _predicted(run: Run, images: Path, out: Path) -> np.ndarray:
    predictor = Predictor.load(run.path, device="cpu", mirror=True)
    outcome = predictor.predict(cases_to_predict(images, run.plan), out)
    assert outcome.failed == {}
    return read(outcome.written["a"])


@pytest.mark.parametrize("family", ["unet", "resenc"])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("code", ["LPS", "RAS", "SAR"])
def test_a_run_of_canonical_images(tmp_path: Path, family: str, transpose: tuple[int, int, int], code: str) -> None:
    """nnU-Net turns images to RAS; with mirrored kernels every voxel is the same again."""
    network = make_network(3, stages=3, family=family, encoder_blocks=[1, 1, 1])
    configuration = make_configuration(
        (12, 12, 12), network=network, inference=Inference(mirror_axes=[0, 2]), spacing=(1.0, 1.0, 1.0)
    )
    plan = make_plan(
        configuration,
        preprocessing=Preprocessing(transpose=transpose),
        channels=["mr"],
    ).model_copy(update={"channels": [Channel(name="mr", normalization=Normalization(scheme="zscore"))]})
    run = trained(tmp_path, plan)
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(code)
    scan(tmp_path / "in" / "a_0000.nii.gz", (10, 12, 8), direction=direction)
    out = export_nnunet(run.path, tmp_path / "model")
    assert json.loads((out / "plans.json").read_text())["image_reader_writer"] == "NibabelIOWithReorient"
    back = import_nnunet(out, tmp_path / "back")
    assert back.plan.preprocessing.orientation == "ras"
    expected = _predicted(run, tmp_path / "in", tmp_path / "first")
    assert len(np.unique(expected)) > 1
    assert np.array_equal(_predicted(back, tmp_path / "in", tmp_path / "second"), expected)


def built(out: Path, fold: int = 0) -> nn.Module:
    """What nnU-Net builds of an exported plain U-Net: the written words, imports looked up, and the written weights."""
    [made] = json.loads((out / "plans.json").read_text())["configurations"].values()
    assert (
        made["architecture"]["network_class_name"] == "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    )
    words = dict(made["architecture"]["arch_kwargs"])
    for name in made["architecture"]["_kw_requires_import"]:
        words[name] = pydoc.locate(words[name]) if words[name] is not None else None
    net = PlainConvUNet(input_channels=1, num_classes=3, deep_supervision=False, **words)
    found = torch.load(out / f"fold_{fold}" / "checkpoint_final.pth", weights_only=True)
    net.load_state_dict(found["network_weights"])
    return net.eval()


def test_what_nnunet_builds_of_the_plans(tmp_path: Path) -> None:
    """It gives the mirrored result for the mirrored image."""
    run = trained(tmp_path, make_plan(make_configuration(inference=WHOLE, network=make_network(stages=3))))
    net = built(export_nnunet(run.path, tmp_path / "model"))
    module = load_network(run.fold("small", 0).weights, run.plan.stage("small"), torch.device("cpu"))
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(net(image.flip((3, 4))).flip((3, 4)), module(image), rtol=1e-3, atol=1e-4)


def flat_plan(spacing: tuple[float | None, float, float] = (None, 1.0, 1.0), **changes: Any) -> Plan:
    """A 2D network that sees 12 × 16 pixels."""
    return make_plan(make_configuration((12, 16), spacing=spacing, inference=WHOLE), **changes).model_copy(
        update={"channels": [Channel(name="mr", normalization=Normalization(scheme="zscore"))]}
    )


def of_shape(
    run: Run, shape: tuple[int, int, int], dimension: int, spacings: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> None:
    """Make the run's training images ones of this shape, as far as the fingerprint tells; spacing in their slices."""
    cases = [
        case.model_copy(update={"shape": shape, "cropped_shape": shape, "spacing": (1.0, mm, mm)})
        for case, mm in zip(run.fingerprint.cases, spacings, strict=True)
    ]
    changed = run.fingerprint.model_copy(update={"cases": cases, "dimension": dimension})
    (run.path / "fingerprint.json").write_text(changed.model_dump_json())


@pytest.mark.parametrize("code", ["LPS", "RAS"])
def test_volumes_of_a_single_slice(tmp_path: Path, code: str) -> None:
    """They are turned to LPS here, and nnU-Net's reader turns them to RAS; pictures have no directions."""
    run = trained(tmp_path, flat_plan())
    of_shape(run, (1, 12, 16), dimension=2)
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(code)
    image = scan(tmp_path / "in" / "a_0000.nii.gz", (1, 12, 16), direction=direction)
    out = export_nnunet(run.path, tmp_path / "model")
    planned = json.loads((out / "plans.json").read_text())
    assert planned["image_reader_writer"] == "NibabelIOWithReorient"
    assert planned["original_median_shape_after_transp"] == [1, 12, 16]
    turned = image if code == "RAS" else image[:, ::-1, ::-1]
    expected = logits([built(out)], zscore(turned)).argmax(0)[None]
    assert len(np.unique(expected)) > 1
    found = _predicted(run, tmp_path / "in", tmp_path / "out")
    assert np.array_equal(found if code == "RAS" else found[:, ::-1, ::-1], expected)
    assert import_nnunet(out, tmp_path / "back").fingerprint.dimension == 2


def test_a_model_of_single_slices_keeps_its_reader(tmp_path: Path) -> None:
    planned = {**plans(2), "image_reader_writer": "NibabelIOWithReorient"}
    write_model(tmp_path / NAME, {**planned, "original_median_shape_after_transp": [1, 12, 16]})
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    out = export_nnunet(run.path, tmp_path / "model")
    assert json.loads((out / "plans.json").read_text())["image_reader_writer"] == "NibabelIOWithReorient"
    assert import_nnunet(out, tmp_path / "again").plan == run.plan


def test_slices_of_volumes_stay_slices_of_volumes(tmp_path: Path) -> None:
    run = trained(tmp_path, flat_plan(preprocessing=Preprocessing(transpose=(1, 0, 2))))
    of_shape(run, (14, 1, 10), dimension=3)
    first = export_nnunet(run.path, tmp_path / "first")
    assert json.loads((first / "plans.json").read_text())["original_median_shape_after_transp"] == [2, 14, 10]
    back = import_nnunet(first, tmp_path / "back")
    assert back.fingerprint.dimension == 3
    again = import_nnunet(export_nnunet(back.path, tmp_path / "second"), tmp_path / "again")
    assert again.fingerprint.dimension == 3


@pytest.mark.parametrize("kept", ["files", "preprocessed", "plan"])
def test_pictures_have_no_directions(tmp_path: Path, kept: str) -> None:
    """By a file, by a preprocessed case, or by the ending of the files."""
    run = trained(tmp_path, flat_plan(file_ending=".png"))
    of_shape(run, (1, 12, 16), dimension=2)
    for case in run.dataset.cases:
        write(case.channels["mr"].path, np.ones((12, 16), np.float32))
        if kept == "preprocessed":
            loaded = load_case(case.model_copy(update={"label": None}), ["mr"])
            stored = loaded.model_copy(update={"label": np.zeros((1, 12, 16), np.int16)})
            folder = run.preprocessed("fullres")
            save(folder, case.id, preprocess_case(stored, run.plan.stage("small")), "key")
        if kept != "files":
            case.channels["mr"].path.unlink()
    out = export_nnunet(run.path, tmp_path / "model")
    assert json.loads((out / "plans.json").read_text())["image_reader_writer"] == "NaturalImage2DIO"
    weights = torch.load(out / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    own = load_weights(run.fold("small", 0).weights)
    assert all(torch.equal(weights[name], tensor) for name, tensor in own.items())


def test_pictures_are_never_resampled_by_nnunet(tmp_path: Path) -> None:
    run = trained(tmp_path, flat_plan((None, 0.35, 0.35), file_ending=".tif"))
    for case in run.dataset.cases:
        write(case.channels["mr"].path, np.ones((12, 16), np.float32))
    of_shape(run, (1, 12, 16), dimension=2, spacings=(0.35, 0.35, 0.35, 0.35))
    out = export_nnunet(run.path, tmp_path / "model")
    assert json.loads((out / "plans.json").read_text())["configurations"]["small"]["spacing"] == [1.0, 1.0]
    of_shape(run, (1, 12, 16), dimension=2, spacings=(0.35, 0.35, 0.5, 0.35))
    with pytest.raises(AutosegError, match=r"it resamples pictures to 0.35×0.35 mm, and nnU-Net takes every pixel for"):
        export_nnunet(run.path, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("patch", "spacing", "columns", "written"),
    [
        ((12, 16), (2.0, 1.0, 1.0), 16, [2.0, 1.0, 1.0]),
        ((12, 16), (None, 1.0, 0.5), 8, [1.0, 0.5]),
        ((6, 12, 16), (None, 1.0, 0.5), 8, [1.0, 0.5]),
        ((6, 12, 16), (2.0, 1.0, 0.5), 8, [2.0, 1.0, 0.5]),
    ],
)
def test_slices_and_volumes_at_the_plans_spacing_and_at_their_own(
    tmp_path: Path, patch: tuple[int, ...], spacing: Any, columns: int, written: list[float]
) -> None:
    """nnU-Net keeps an image's own slices by the number of spacings, whatever the network's axes."""
    network = make_network(len(patch))
    run = trained(tmp_path, make_plan(make_configuration(patch, spacing=spacing, network=network, inference=WHOLE)))
    scan(tmp_path / "in" / "a_0000.nii.gz", (4, 12, columns), spacing=(1.0, 1.0, 3.0))
    out = export_nnunet(run.path, tmp_path / "model")
    assert json.loads((out / "plans.json").read_text())["configurations"]["small"]["spacing"] == written
    back = import_nnunet(out, tmp_path / "back")
    assert back.plan.configurations["small"].spacing == spacing
    expected = _predicted(run, tmp_path / "in", tmp_path / "first")
    assert len(np.unique(expected)) > 1
    assert (_predicted(back, tmp_path / "in", tmp_path / "second") == expected).mean() > 0.995


def test_masks_are_said_not_to_travel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, make_plan(make_configuration(inference=WHOLE)))
    export_nnunet(run.path, tmp_path / "without")
    assert "brain masks" not in capsys.readouterr().err
    cases = [case.model_copy(update={"mask": case.label}) for case in run.dataset.cases]
    masked = run.dataset.model_copy(update={"cases": tuple(cases)})
    (run.path / "dataset.json").write_text(masked.model_dump_json())
    export_nnunet(run.path, tmp_path / "model")
    assert "learned inside brain masks, of which nnU-Net knows nothing" in capsys.readouterr().err


def test_probabilities_are_said_to_become_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path / "a", make_plan(make_configuration(inference=WHOLE)))
    export_nnunet(run.path, tmp_path / "logits")
    assert "logits" not in capsys.readouterr().err
    averaging = Inference(mirror_axes=[], average="probabilities")
    run = trained(tmp_path / "b", make_plan(make_configuration(inference=averaging)))
    export_nnunet(run.path, tmp_path / "model")
    assert "as probabilities (inference.average); nnU-Net averages their logits" in capsys.readouterr().err


def test_post_processing_is_said_to_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's own, and what belongs to a source that it keeps."""
    steps = [Step(kind="largest_component", output="outer")]
    own = {"outputs": {"outer": "outer"}, "source_outputs": ["outer"], "postprocessing": steps}
    start = {"source": "model", "file": "s", "ensemble": ["a", "b"], "keep": "auto", **own}
    run = trained(tmp_path, make_plan(make_configuration(inference=WHOLE, recipe=make_recipe(initialization=start))))
    export_nnunet(run.path, tmp_path / "none")
    assert "post-processing" not in capsys.readouterr().err
    choose(run, Step(kind="minimum_size", output="inner", mm3=8))
    export_nnunet(run.path, tmp_path / "chosen")
    said = f"no post-processing: that of {run.path} is left out"
    assert f"{said} (inner: components ≥ 8 mm³)." in capsys.readouterr().err
    write_json(run.path / "small" / SOURCE_SHARE, {"share": SOURCE})
    export_nnunet(run.path, tmp_path / "kept", folds=[0])
    told = capsys.readouterr().err
    assert f"{said} (outer: largest component; inner: components ≥ 8 mm³, what belongs to the source" in told


def test_some_folds_of_a_run_that_keeps_its_source_unharmonized(tmp_path: Path) -> None:
    """Each of its folds has a fold of the source, which sees images as they are; what was tuned saw harmonized ones."""
    start = {"source": "model", "file": "s", "ensemble": ["a", "b"], "keep": "auto"}
    harmonize = {"mr": [float(number) for number in range(LANDMARKS)]}
    plan = make_plan(
        make_configuration(inference=WHOLE, recipe=make_recipe(initialization=start)),
        preprocessing=Preprocessing(orientation="stored", harmonize=harmonize),
    )
    run = trained(tmp_path, plan)
    fold = run.fold("small", 0)
    shutil.copyfile(fold.weights, fold.checkpoint("best"))
    with pytest.raises(AutosegError, match="nnU-Net does not harmonize intensities"):
        export_nnunet(run.path, tmp_path / "tuned", folds=[0])
    write_json(run.path / "small" / SOURCE_SHARE, {"share": UNTOUCHED})
    out = export_nnunet(run.path, tmp_path / "model", folds=[0])
    assert [path.name for path in (out / "fold_0").iterdir()] == ["checkpoint_final.pth"]
    weights = torch.load(out / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in load_weights(fold.weights).items())


def _described(tmp_path: Path, plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    out = export_nnunet(trained(tmp_path, plan).path, tmp_path / "model")
    return json.loads((out / "plans.json").read_text()), json.loads((out / "dataset.json").read_text())


def test_regions_of_one_value_each(tmp_path: Path) -> None:
    """nnU-Net takes lists of one value for labels; so the value stands there twice."""
    outputs = [Output(name="a", values=[1], paint=1), Output(name="b", values=[2], paint=2)]
    plan = make_plan(make_configuration(inference=WHOLE), target=Target(kind="regions", outputs=outputs, ignore=7))
    _, described = _described(tmp_path, plan)
    assert described["labels"] == {"background": 0, "a": [1, 1], "b": [2, 2], "ignore": 3}
    assert described["regions_class_order"] == [1, 2]
    back = import_nnunet(tmp_path / "model", tmp_path / "back").plan
    assert [(o.name, o.values, o.paint) for o in back.target.outputs] == [("a", [1], 1), ("b", [2], 2)]


@pytest.mark.parametrize(
    ("orientation", "ending", "reader", "written"),
    [
        ("canonical", ".nii", "NibabelIOWithReorient", ".nii"),
        ("canonical", ".mha", "SimpleITKIOWithReorient", ".mha"),
        ("canonical", ".png", "NibabelIOWithReorient", ".nii.gz"),
        ("stored", ".nii.gz", "SimpleITKIO", ".nii.gz"),
        ("stored", ".nii", "NibabelIO", ".nii"),
        ("ras", ".nrrd", "SimpleITKIOWithReorient", ".nrrd"),
        ("canonical", ".tif", "Tiff3DIO", ".tif"),
        ("stored", ".tiff", "Tiff3DIO", ".tiff"),
        ("ras", ".tif", "NibabelIOWithReorient", ".nii.gz"),
    ],
)
def test_reader_and_file_ending(tmp_path: Path, orientation: Any, ending: str, reader: str, written: str) -> None:
    plan = make_plan(
        make_configuration(inference=WHOLE),
        preprocessing=Preprocessing(orientation=orientation),
        file_ending=ending,
        target=REGIONS,
    )
    planned, described = _described(tmp_path, plan)
    assert planned["image_reader_writer"] == reader
    assert described["file_ending"] == written
    wider = planned["configurations"]["small"]["architecture"]["arch_kwargs"]["kernel_sizes"][1]
    assert wider == ([3, 5, 5] if orientation == "canonical" and reader != "Tiff3DIO" else [3, 3, 3])


def test_values_beyond_the_usual(tmp_path: Path) -> None:
    configuration = make_configuration((8, 8), spacing=(None, 0.5, 0.5), inference=Inference(mirror_axes=[]))
    configuration.resampling.separate_axis = "never"
    configuration.resampling.anisotropy = 4.0
    configuration.inference.patch_size = [16, 16]
    plan = make_plan(configuration).model_copy(
        update={"channels": [Channel(name="ct", normalization=_ct()), Channel(name="raw", normalization=_none())]}
    )
    planned, _ = _described(tmp_path, plan)
    made = planned["configurations"]["small"]
    assert made["patch_size"] == [16, 16]
    assert made["spacing"] == [0.5, 0.5]
    assert made["resampling_fn_data_kwargs"]["force_separate_z"] is False
    assert made["resampling_fn_data_kwargs"]["separate_z_anisotropy_threshold"] == 4.0
    assert made["normalization_schemes"] == ["CTNormalization", "NoNormalization"]
    seen = planned["foreground_intensity_properties_per_channel"]["0"]
    assert (seen["mean"], seen["std"], seen["percentile_00_5"], seen["percentile_99_5"]) == (40, 60, -100, 300)


def _ct() -> Normalization:
    return Normalization(scheme="ct", lower=-100, upper=300, mean=40, std=60)


def _none() -> Normalization:
    return Normalization(scheme="none")
