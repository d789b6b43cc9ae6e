"""An imported model of nnU-Net against its network, applied by hand to an image that was prepared by hand."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from scipy.ndimage import binary_fill_holes, gaussian_filter
from skimage.transform import resize
from torch import nn

from autoseg.data.image import read_geometry
from autoseg.inference.inputs import cases_to_predict
from autoseg.inference.predictor import Predictor
from autoseg.inference.sliding_window import tile_weight
from autoseg.interop import export_nnunet, import_nnunet
from autoseg.networks.weights import load_weights
from autoseg.plans.tiles import tile_starts
from autoseg.postprocessing.choice import postprocess
from autoseg.runs.run import Run
from autoseg.utils.errors import UsageError
from tests.interop.model import (
    NAME,
    arch_kwargs,
    checkpoint,
    dataset,
    logits,
    network,
    plans,
    read,
    scan,
    stirred,
    write_model,
    zscore,
)

REGIONS = dataset(labels={"background": 0, "whole": [1, 2], "inner": 2}, regions_class_order=[1, 2])


def segmented(run: Path, images: Path, mirror: bool = False, **options: Any) -> dict[str, np.ndarray]:
    """Case → what is in the file that a prediction writes."""
    predictor = Predictor.load(run, device="cpu", mirror=mirror, **options)
    outcome = predictor.predict(cases_to_predict(images, Run.open(run).plan), images.parent / "out")
    assert outcome.failed == {}
    return {name: read(path) for name, path in outcome.written.items()}


def painted(scores: np.ndarray) -> np.ndarray:
    return scores.argmax(0).astype(np.uint8)


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR"])
@pytest.mark.parametrize("family", ["unet", "resenc"])
def test_folds_are_averaged_on_the_image_as_it_is_stored(tmp_path: Path, code: str, family: str) -> None:
    networks = write_model(tmp_path / NAME, plans(family=family), folds=(0, 3))
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(code)
    image = scan(tmp_path / "in" / "a_0000.nii.gz", direction=direction)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert run.trained_folds("3d_fullres") == [0, 3]
    expected = painted(logits(networks, zscore(image)[None]))
    assert len(np.unique(expected)) > 1
    found = segmented(run.path, tmp_path / "in")["a"]
    assert np.array_equal(found, expected)


def test_mirrored_copies(tmp_path: Path) -> None:
    networks = write_model(tmp_path / NAME, inference_allowed_mirroring_axes=(0, 2))
    image = zscore(scan(tmp_path / "in" / "a_0000.nii.gz"))[None]
    views = [(), (1,), (3,), (1, 3)]
    expected = np.mean([np.flip(logits(networks, np.flip(image, axes)), axes) for axes in views], 0)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert run.plan.configurations["3d_fullres"].inference.mirror_axes == [0, 2]
    assert np.array_equal(segmented(run.path, tmp_path / "in", mirror=True)["a"], painted(expected))
    assert not np.array_equal(painted(expected), painted(logits(networks, image)))


def test_a_model_that_must_not_be_mirrored(tmp_path: Path) -> None:
    write_model(tmp_path / NAME, inference_allowed_mirroring_axes=None)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert run.plan.configurations["3d_fullres"].inference.mirror_axes == []
    assert run.plan.configurations["3d_fullres"].recipe.augmentation.mirror_axes == []


def test_small_images_are_padded_after_normalization(tmp_path: Path) -> None:
    networks = write_model(tmp_path / NAME)
    image = zscore(scan(tmp_path / "in" / "a_0000.nii.gz", (5, 12, 11)))
    given = np.pad(image, ((1, 2), (0, 0), (2, 3)))
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    expected = painted(logits(networks, given[None]))[1:6, :, 2:13]
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)


def test_reader_that_turns_images_to_ras(tmp_path: Path) -> None:
    networks = write_model(tmp_path / NAME, {**plans(), "image_reader_writer": "NibabelIOWithReorient"})
    image = scan(tmp_path / "in" / "a_0000.nii.gz")  # stored in LPS, the identity
    seen = image[:, ::-1, ::-1]
    expected = painted(logits(networks, zscore(seen)[None]))[:, ::-1, ::-1]
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)


def test_transposed(tmp_path: Path) -> None:
    planned = {**plans(patch=(8, 16, 12)), "transpose_forward": [0, 2, 1], "transpose_backward": [0, 2, 1]}
    networks = write_model(tmp_path / NAME, planned)
    image = scan(tmp_path / "in" / "a_0000.nii.gz")
    expected = painted(logits(networks, zscore(image).transpose(0, 2, 1)[None])).transpose(0, 2, 1)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)


def test_resampled_in_three_dimensions(tmp_path: Path) -> None:
    """Third-order splines to the plan's spacing, scores linearly back; both by scikit-image, in float64."""
    planned = plans()
    planned["configurations"]["3d_fullres"]["spacing"] = [1.5, 0.75, 1.25]
    networks = write_model(tmp_path / NAME, planned)
    image = scan(tmp_path / "in" / "a_0000.nii.gz", (12, 9, 20), spacing=(1.0, 1.0, 1.0))
    given = resize(zscore(image).astype(float), (8, 12, 16), order=3, mode="edge", anti_aliasing=False)
    scores = logits(networks, given[None])
    back = [resize(head.astype(float), image.shape, order=1, mode="edge", anti_aliasing=False) for head in scores]
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    found = segmented(run.path, tmp_path / "in")["a"]
    assert (found == painted(np.stack(back))).mean() > 0.9995  # a tie may fall the other way in float32


def test_separate_axis_is_looked_for_from_where_one_comes(tmp_path: Path) -> None:
    """The image is coarse along y, the plan along z: nearest along y on the way there, along z on the way back."""
    planned = plans()
    planned["configurations"]["3d_fullres"]["spacing"] = [4.0, 1.0, 1.0]
    networks = write_model(tmp_path / NAME, planned)
    image = scan(tmp_path / "in" / "a_0000.nii.gz", (32, 3, 16), spacing=(1.0, 4.0, 1.0))
    seen = zscore(image).astype(float)
    planes = [resize(seen[:, y], (8, 16), order=3, mode="edge", anti_aliasing=False) for y in range(3)]
    scores = logits(networks, np.stack([planes[y // 4] for y in range(12)], 1)[None])
    # Three rows out of twelve: the middle of each four, halfway between its second and third.
    rows = (scores[:, :, 1::4] + scores[:, :, 2::4]) / 2
    expected = painted(np.repeat(rows, 4, axis=1))
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    found = segmented(run.path, tmp_path / "in")["a"]
    assert (found == expected).mean() > 0.9995
    # The same axis both ways would say something else.
    middle = np.stack([resize(h, (32, 3, 16), order=1, mode="edge", anti_aliasing=False) for h in scores.astype(float)])
    assert (painted(middle) == expected).mean() < 0.99


def resampled_by(planned: dict[str, Any], function: str, **given: Any) -> None:
    """Make a model's plans those of nnU-Net's planners with this function."""
    for kind in ("data", "seg", "probabilities"):
        planned["configurations"]["3d_fullres"][f"resampling_fn_{kind}"] = function
        planned["configurations"]["3d_fullres"][f"resampling_fn_{kind}_kwargs"] = dict(given)


def linearly(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resample ``(channel, *space)`` with torch."""
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    return F.interpolate(torch.from_numpy(np.ascontiguousarray(array))[None], shape, mode=mode)[0].numpy()


def test_resampled_with_torch(tmp_path: Path) -> None:
    planned = plans()
    resampled_by(planned, "resample_torch_fornnunet", is_seg=False, force_separate_z=False)
    planned["configurations"]["3d_fullres"]["spacing"] = [4.0, 0.75, 1.25]
    networks = write_model(tmp_path / NAME, planned)
    image = scan(tmp_path / "in" / "a_0000.nii.gz", (32, 9, 20))
    expected = painted(linearly(logits(networks, linearly(zscore(image)[None], (8, 12, 16))), image.shape))
    assert len(np.unique(expected)) > 1
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert (segmented(run.path, tmp_path / "in")["a"] == expected).mean() > 0.9995
    # Exported, it is nnU-Net's default function with the same result.
    again = import_nnunet(export_nnunet(run.path, tmp_path / "model"), tmp_path / "again")
    assert again.plan == run.plan


def test_resampled_with_torch_and_an_axis_apart(tmp_path: Path) -> None:
    """Without a word on it, an anisotropic axis is apart: that of the image, and on the way back that of the plan."""
    planned = plans()
    resampled_by(planned, "resample_torch_fornnunet", memefficient_seg_resampling=False)
    planned["configurations"]["3d_fullres"]["spacing"] = [4.0, 1.0, 1.0]
    networks = write_model(tmp_path / NAME, planned)
    image = scan(tmp_path / "in" / "a_0000.nii.gz", (32, 3, 16), spacing=(1.0, 4.0, 1.0))
    planes = linearly(zscore(image).transpose(1, 0, 2), (8, 16))
    scores = logits(networks, np.stack([planes[y // 4] for y in range(12)], 1)[None])
    # Each plane along z to three rows, then four times the same plane.
    rows = np.stack([linearly(scores[:, z], (3, 16)) for z in range(8)], 1)
    expected = painted(np.repeat(rows, 4, axis=1))
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert (segmented(run.path, tmp_path / "in")["a"] == expected).mean() > 0.9995


def test_never_resampled(tmp_path: Path) -> None:
    planned = plans()
    resampled_by(planned, "no_resampling_hack")
    planned["configurations"]["3d_fullres"]["spacing"] = [1.5, 0.75, 2.0]
    networks = write_model(tmp_path / NAME, planned)
    image = scan(tmp_path / "in" / "a_0000.nii.gz", spacing=(0.5, 1.0, 4.0))
    expected = painted(logits(networks, zscore(image)[None]))
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)
    out = export_nnunet(run.path, tmp_path / "model")
    made = json.loads((out / "plans.json").read_text())["configurations"]["3d_fullres"]
    assert [made[f"resampling_fn_{kind}"] for kind in ("data", "seg", "probabilities")] == ["no_resampling_hack"] * 3
    assert made["resampling_fn_data_kwargs"] == {}
    assert len(made["spacing"]) == 3
    assert import_nnunet(out, tmp_path / "again").plan == run.plan


def test_overlapping_tiles_of_odd_size(tmp_path: Path) -> None:
    planned = plans(patch=(11, 12, 16))
    arch = planned["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arch["strides"] = [[1, 1, 1], [1, 2, 2], [1, 2, 2]]
    folder = tmp_path / NAME
    write_model(folder, planned)
    torch.manual_seed(5)
    words = {**arch, "conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    net = PlainConvUNet(input_channels=1, num_classes=3, deep_supervision=False, **words).eval()
    torch.save(checkpoint(net.state_dict()), folder / "fold_0" / "checkpoint_final.pth")
    image = zscore(scan(tmp_path / "in" / "a_0000.nii.gz", (22, 12, 16)))
    weight = np.zeros((11, 12, 16))
    weight[5, 6, 8] = 1
    weight = gaussian_filter(weight, [11 / 8, 12 / 8, 2], mode="constant")
    total, weights = np.zeros((3, 22, 12, 16)), np.zeros((22, 12, 16))
    for start in (0, 6, 11):  # three tiles 5.5 apart
        total[:, start : start + 11] += logits([net], image[None, start : start + 11]) * weight
        weights[start : start + 11] += weight
    run = import_nnunet(folder, tmp_path / "run")
    found = segmented(run.path, tmp_path / "in")["a"]
    assert (found == painted(total / weights)).mean() > 0.999  # weights are rounded to 16 bits


@pytest.mark.parametrize("patch", [(11, 8, 24), (7, 40)])
def test_weights_as_nnunet_makes_them(patch: tuple[int, ...]) -> None:
    """A filtered peak, ten times its share of the largest, in half precision, nowhere zero."""
    peak = np.zeros(patch)
    peak[tuple(n // 2 for n in patch)] = 1
    peak = gaussian_filter(peak, [n / 8 for n in patch], mode="constant")
    expected = torch.from_numpy(10 * peak / peak.max()).half()
    expected[expected == 0] = expected[expected > 0].min()
    found = tile_weight(patch, 0.125, "nnunet")
    torch.testing.assert_close(found, expected.float(), rtol=2e-3, atol=2e-7)
    assert found.min() > 0


@pytest.mark.parametrize(("size", "patch"), [(22, 11), (23, 11), (64, 20), (31, 7), (8, 8)])
def test_tiles_half_a_patch_apart(size: int, patch: int) -> None:
    count = int(np.ceil((size - patch) / (patch / 2))) + 1
    assert tile_starts(size, patch, 0.5, manner="nnunet") == [
        int(n) for n in np.linspace(0, size - patch, count).round()
    ]


@pytest.mark.parametrize("size", [2, 5, 6, 31])
def test_every_slice_once(size: int) -> None:
    """nnU-Net's 2D networks go through the slices; half of a tile of one slice is no way to the next."""
    assert tile_starts(size, 1, 0.5, manner="nnunet") == list(range(size))


def test_regions_are_painted_in_their_order(tmp_path: Path) -> None:
    networks = write_model(tmp_path / NAME, described=REGIONS, heads=2)
    image = scan(tmp_path / "in" / "a_0000.nii.gz")
    whole, inner = logits(networks, zscore(image)[None]) > 0
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], np.where(inner, 2, np.where(whole, 1, 0)))
    assert run.plan.target.kind == "regions"
    assert [(o.name, o.values, o.paint) for o in run.plan.target.outputs] == [("whole", [1, 2], 1), ("inner", [2], 2)]
    assert run.fingerprint.regions == {"whole": [1, 2], "inner": [2]}


def test_crop_and_statistics_inside_with_its_holes_filled(tmp_path: Path) -> None:
    planned = plans(channels=2)
    planned["configurations"]["3d_fullres"]["use_mask_for_norm"] = [True, False]
    networks = write_model(tmp_path / NAME, planned, dataset(("t1", "flair")))
    rng = np.random.default_rng(1)
    head = np.zeros((10, 14, 18), bool)
    head[1:9, 1:13, 1:17] = True
    head[1, 1] = False
    head[4:6, 5:8, 6:9] = False  # a ventricle of zeros
    image = (rng.normal(100, 20, (2, 10, 14, 18)) * head).astype(np.float32)
    for number, voxels in enumerate(image):
        (tmp_path / "in").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "in" / f"a_{number:04d}.nii.gz"))
    box = (slice(1, 9), slice(1, 13), slice(1, 17))
    inside = binary_fill_holes(head)[box]
    assert inside.sum() > head[box].sum()
    first, second = image[(slice(None), *box)]
    within = np.where(inside, (first - first[inside].mean()) / first[inside].std(), 0)
    scores = logits(networks, np.stack([within, zscore(second)]))
    expected = np.zeros((10, 14, 18), np.uint8)
    expected[box] = painted(scores)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)


@pytest.mark.parametrize(
    ("scheme", "prepared"),
    [
        ("CTNormalization", lambda a: (np.clip(a, 2, 190) - 90) / 30),
        ("RescaleTo01Normalization", lambda a: (a - a.min()) / (a.max() - a.min())),
        ("RGBTo01Normalization", lambda a: a / 255),
        ("NoNormalization", lambda a: a),
    ],
)
def test_normalizations(tmp_path: Path, scheme: str, prepared: Any) -> None:
    planned = plans()
    # nnU-Net's other normalizations know no mask, whatever the plan says.
    planned["configurations"]["3d_fullres"] |= {"normalization_schemes": [scheme], "use_mask_for_norm": [True]}
    networks = write_model(tmp_path / NAME, planned)
    image = np.abs(scan(tmp_path / "in" / "a_0000.nii.gz"))
    image[3, 4:8, 5:9] = 0
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "in" / "a_0000.nii.gz"))
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    expected = painted(logits(networks, prepared(image)[None]))
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)


def test_colours_of_16_bits_fail_as_in_nnunet(tmp_path: Path) -> None:
    planned = plans()
    planned["configurations"]["3d_fullres"]["normalization_schemes"] = ["RGBTo01Normalization"]
    write_model(tmp_path / NAME, planned)
    image = np.abs(scan(tmp_path / "in" / "a_0000.nii.gz")) * 200
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "in" / "a_0000.nii.gz"))
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    predictor = Predictor.load(run.path, device="cpu")
    outcome = predictor.predict(cases_to_predict(tmp_path / "in", run.plan), tmp_path / "out")
    assert "MRI has values from" in outcome.failed["a"]
    export_nnunet(run.path, tmp_path / "back")
    again = json.loads((tmp_path / "back" / "plans.json").read_text())["configurations"]["3d_fullres"]
    assert again["normalization_schemes"] == ["RGBTo01Normalization"]


def test_slices(tmp_path: Path) -> None:
    planned = plans(2)
    planned["configurations"]["2d"]["spacing"] = [1.0, 0.5]
    networks = write_model(tmp_path / NAME, planned)
    image = scan(tmp_path / "in" / "a_0000.nii.gz", (5, 12, 8), spacing=(1.0, 1.0, 5.0))
    seen = zscore(image).astype(float)
    slices = [resize(plane, (12, 16), order=3, mode="edge", anti_aliasing=False) for plane in seen]
    scores = np.stack([logits(networks, plane[None]) for plane in slices], 1).astype(float)
    # Two pixels of the network to one of the image: their mean lies in its middle.
    expected = painted((scores[..., ::2] + scores[..., 1::2]) / 2)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    found = segmented(run.path, tmp_path / "in")["a"]
    assert (found == expected).mean() > 0.9995
    assert run.plan.recommended == "2d"
    assert run.plan.configurations["2d"].spacing == (None, 1.0, 0.5)
    assert run.fingerprint.dimension == 3


def test_what_else_the_run_knows(tmp_path: Path) -> None:
    planned = plans(channels=2)
    write_model(
        tmp_path / NAME,
        planned,
        dataset(("T1", "T1"), labels={"background": 0, "b": 2, "a": 1, "ignore": 3}, file_ending=".nrrd"),
        trainer_name="nnUNetTrainer_5epochs",
    )
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    plan, configuration = run.plan, run.plan.configurations["3d_fullres"]
    assert plan.channel_names == ["T1_0", "T1_1"]
    assert [(o.name, o.paint) for o in plan.target.outputs] == [("a", 1), ("b", 2)]
    assert plan.target.ignore == run.fingerprint.ignore_label == 3
    assert (plan.dataset, plan.file_ending, plan.recommended) == ("Dataset007_Blobs", ".nrrd", "3d_fullres")
    assert configuration.patch_size == [8, 12, 16]
    assert configuration.batch_size == 2
    assert configuration.network.strides == [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    assert configuration.network.kernel_sizes == [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    assert configuration.network.deep_supervision
    assert configuration.inference.precision == "fp32"
    assert configuration.recipe.epochs == 5
    assert configuration.recipe.loss.batch_dice
    assert configuration.parameters > 0
    seen = run.fingerprint.intensities["T1_1"]
    assert (seen.mean, seen.std, seen.percentile_50, seen.percentile_99_5) == (90, 30, 80, 190)
    assert run.fingerprint.dimension == 3
    assert run.dataset.cases == ()
    assert run.splits == [{"train": [], "validation": []}]


@pytest.mark.parametrize(
    ("trainer", "epochs"),
    [
        ("nnUNetTrainer", 1000),
        ("nnUNetTrainer_1epoch", 1),
        ("nnUNetTrainerDA5_10epochs", 10),
        ("nnUNetTrainer_250epochs_NoMirroring", 250),
        ("nnUNetTrainer_onlyMirror01_1500ep", 1500),
        ("nnUNetTrainer_probabilisticOversampling_033", 1000),
        ("nnUNetTrainerAdam_3en4", 1000),
    ],
)
def test_epochs_of_trainer_classes(tmp_path: Path, trainer: str, epochs: int) -> None:
    write_model(tmp_path / NAME, trainer_name=trainer)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert run.plan.configurations["3d_fullres"].recipe.epochs == epochs


def of_pictures(folder: Path, ending: str = ".png", **changes: Any) -> list[nn.Module]:
    """A model of nnU-Net's reader for pictures."""
    planned = {**plans(2), "original_median_shape_after_transp": [1, 12, 16], "image_reader_writer": "NaturalImage2DIO"}
    planned["configurations"]["2d"].update(changes)
    return write_model(folder, planned, dataset(file_ending=ending))


def test_pictures(tmp_path: Path) -> None:
    of_pictures(tmp_path / NAME)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert run.fingerprint.dimension == 2
    out = export_nnunet(run.path, tmp_path / "model")
    written = json.loads((out / "plans.json").read_text())
    assert written["image_reader_writer"] == "NaturalImage2DIO"
    assert written["configurations"]["2d"]["spacing"] == [1.0, 1.0]
    assert import_nnunet(out, tmp_path / "again").plan == run.plan


def test_pictures_that_say_how_large_they_are(tmp_path: Path) -> None:
    """nnU-Net takes every pixel for one millimetre, those of 72 dpi (0.35 mm), too."""
    networks = of_pictures(tmp_path / NAME, ".tif")
    image = np.random.default_rng(0).integers(1, 255, (12, 16), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a_0000.tif", image, resolution=(72, 72), resolutionunit="INCH")
    assert read_geometry(tmp_path / "in" / "a_0000.tif").geometry.spacing == pytest.approx((25.4 / 72, 25.4 / 72))
    expected = painted(logits(networks, zscore(image.astype(np.float32))[None]))
    assert len(np.unique(expected)) > 1
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)


def test_trainer_with_batch_normalization(tmp_path: Path) -> None:
    """The trainer class builds it, and the plans still say instance normalization; the weights tell."""
    write_model(tmp_path / NAME)
    words = {**arch_kwargs(), "conv_op": nn.Conv3d, "norm_op": nn.BatchNorm3d, "nonlin": nn.LeakyReLU}
    net = stirred(PlainConvUNet(input_channels=1, num_classes=3, deep_supervision=False, **words))
    file = tmp_path / NAME / "fold_0" / "checkpoint_final.pth"
    torch.save(checkpoint(net.state_dict(), trainer_name="nnUNetTrainerBN"), file)
    image = zscore(scan(tmp_path / "in" / "a_0000.nii.gz"))
    expected = painted(logits([net], image[None]))
    assert len(np.unique(expected)) > 1
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert run.plan.configurations["3d_fullres"].network.norm == "batch"
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)
    out = export_nnunet(run.path, tmp_path / "model")
    written = torch.load(out / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert all(torch.equal(written[name], tensor) for name, tensor in net.state_dict().items())
    assert import_nnunet(out, tmp_path / "again").plan == run.plan


@pytest.mark.parametrize("sized", [False, True])
def test_stacks(tmp_path: Path, sized: bool, write_json: Any) -> None:
    """Voxels are those of the file beside a stack, else of 1 mm, whatever dots per inch its header has."""
    planned = {**plans(), "image_reader_writer": "Tiff3DIO"}
    networks = write_model(tmp_path / NAME, planned, dataset(file_ending=".tif"))
    image = np.random.default_rng(0).integers(1, 255, (8, 12, 8 if sized else 16), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    how: dict[str, Any] = {"photometric": "minisblack", "resolution": (72, 72), "resolutionunit": "INCH"}
    tifffile.imwrite(tmp_path / "in" / "a_0000.tif", image, **how)
    if sized:
        write_json(tmp_path / "in" / "a.json", {"spacing": [1.0, 1.0, 2.0]})
    given = zscore(image.astype(np.float32))
    if sized:
        given = resize(given.astype(float), (8, 12, 16), order=3, mode="edge", anti_aliasing=False)
    scores = logits(networks, given[None]).astype(float)
    back = [resize(head, image.shape, order=1, mode="edge", anti_aliasing=False) for head in scores]
    expected = painted(np.stack(back))
    assert len(np.unique(expected)) > 1
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert (segmented(run.path, tmp_path / "in")["a"] == expected).mean() > 0.9985
    out = export_nnunet(run.path, tmp_path / "model")
    assert json.loads((out / "plans.json").read_text())["image_reader_writer"] == "Tiff3DIO"
    assert import_nnunet(out, tmp_path / "again").plan == run.plan


def test_trainer_without_deep_supervision(tmp_path: Path) -> None:
    write_model(tmp_path / NAME, trainer_name="nnUNetTrainerNoDeepSupervision")
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert not run.plan.configurations["3d_fullres"].network.deep_supervision


def test_plans_of_before_2_3(tmp_path: Path) -> None:
    """The same network, said the old way."""
    new = plans()
    old = plans()
    configuration = old["configurations"]["3d_fullres"]
    words = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": words["n_conv_per_stage"],
        "n_conv_per_stage_decoder": words["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": words["strides"],
        "conv_kernel_sizes": words["kernel_sizes"],
    }
    old["foreground_intensity_properties_by_modality"] = old.pop("foreground_intensity_properties_per_channel")
    found = []
    for name, planned in (("new", new), ("old", old)):
        write_model(tmp_path / name / NAME, planned)
        found.append(import_nnunet(tmp_path / name / NAME, tmp_path / name / "run"))
    assert found[0].plan == found[1].plan
    assert found[0].fingerprint == found[1].fingerprint


def test_inherited_configurations(tmp_path: Path) -> None:
    planned = plans()
    planned["configurations"]["middle"] = {"inherits_from": "3d_fullres", "batch_size": 7, "spacing": [2.0, 2.0, 2.0]}
    planned["configurations"]["last"] = {"inherits_from": "middle", "spacing": [3.0, 1.0, 1.0]}
    write_model(tmp_path / NAME, planned)
    plan = import_nnunet(tmp_path / NAME, tmp_path / "run").plan
    assert plan.recommended == "last"
    assert plan.configurations["last"].batch_size == 7
    assert plan.configurations["last"].spacing == (3.0, 1.0, 1.0)
    assert plan.configurations["last"].patch_size == [8, 12, 16]


def test_the_folder_names_the_configuration_where_no_checkpoint_does(tmp_path: Path) -> None:
    write_model(tmp_path / NAME, init_args={})
    assert import_nnunet(tmp_path / NAME, tmp_path / "run").plan.recommended == "3d_fullres"


def test_fold_all_alone_is_fold_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "a" / NAME, folds=("all",))
    assert import_nnunet(tmp_path / "a" / NAME, tmp_path / "a" / "run").trained_folds("3d_fullres") == [0]
    assert "was trained on all cases; it becomes fold 0" in capsys.readouterr().err
    write_model(tmp_path / "b" / NAME, folds=(1, "all"))
    assert import_nnunet(tmp_path / "b" / NAME, tmp_path / "b" / "run").trained_folds("3d_fullres") == [1]
    assert "is left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("finished", "begun", "best", "used", "said"),
    [
        ((0, 1, 2, 3), (), (4,), [0, 1, 2, 3], "fold_4 is left out, as it has no checkpoint_final.pth"),
        ((0, 1), (4,), (), [0, 1], "fold_4 is left out, as it has no checkpoint_final.pth"),
        (("all",), (), (0,), [0], "fold_0 is left out, as it has no checkpoint_final.pth"),
        ((2, "all"), (), (0,), [2], "fold_all is left out, as nnU-Net does where there are numbered folds"),
        ((), (1,), (2, "all"), [2], "fold_1 is left out, as it has no checkpoint_best.pth"),
        ((), (1,), ("all",), [0], "fold_all was trained on all cases; it becomes fold 0"),
    ],
)
def test_folds_that_nnunet_predicts_with(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    finished: tuple,
    begun: tuple,
    best: tuple,
    used: list[int],
    said: str,
) -> None:
    """Those that are finished; a begun one, with nothing but its latest weights or the best so far, is none of them."""
    write_model(tmp_path / NAME, folds=(*finished, *begun, *best), files=())
    for folds, file in ((finished, "final"), (best, "best"), ((*begun, *best), "latest")):
        for fold in folds:
            where = tmp_path / NAME / f"fold_{fold}" / f"checkpoint_{file}.pth"
            torch.save(checkpoint(network(1, 3, seed=7 if fold == "all" else fold).state_dict()), where)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert run.trained_folds("3d_fullres") == used
    assert said in capsys.readouterr().err
    # Numbers stay with their weights; that of all cases has a seed of its own.
    expected = network(1, 3, seed=7 if "all" in (*finished, *best) and used == [0] else used[0]).state_dict()
    found = load_weights(run.fold("3d_fullres", used[0]).weights)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_final_and_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / NAME, files=("checkpoint_final.pth",))
    best = network(1, 3, seed=9)
    torch.save(checkpoint(best.state_dict()), tmp_path / NAME / "fold_0" / "checkpoint_best.pth")
    image = zscore(scan(tmp_path / "in" / "a_0000.nii.gz"))
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    expected = painted(logits([best], image[None]))
    assert np.array_equal(segmented(run.path, tmp_path / "in", checkpoint="best")["a"], expected)
    assert not np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)
    (run.path / "3d_fullres" / "fold_0" / "best.safetensors").unlink()
    with pytest.raises(UsageError, match=r"the imported model has no checkpoint_best\.pth\); leave the option out"):
        Predictor.load(run.path, device="cpu", checkpoint="best")
    with pytest.raises(UsageError, match="no trained and validated fold of 3d_fullres; its model was imported"):
        postprocess(run)
    (tmp_path / NAME / "fold_0" / "checkpoint_final.pth").unlink()
    run = import_nnunet(tmp_path / NAME, tmp_path / "run2")
    assert "checkpoint_best.pth is taken in its place" in capsys.readouterr().err
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], expected)


def test_weights_of_several_gpus(tmp_path: Path) -> None:
    [net] = write_model(tmp_path / NAME)
    prefixed = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save(checkpoint(prefixed), tmp_path / NAME / "fold_0" / "checkpoint_final.pth")
    image = zscore(scan(tmp_path / "in" / "a_0000.nii.gz"))
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    assert np.array_equal(segmented(run.path, tmp_path / "in")["a"], painted(logits([net], image[None])))


def test_several_tiles_and_mirrors_do_not_depend_on_their_grouping(tmp_path: Path) -> None:
    """Two by two by two tiles, all eight mirrored copies of each, by hand."""
    [net] = write_model(tmp_path / NAME)
    image = zscore(scan(tmp_path / "in" / "a_0000.nii.gz", (12, 16, 20)))
    weight = tile_weight((8, 12, 16), 0.125, "nnunet").numpy()
    total, weights = np.zeros((3, *image.shape)), np.zeros(image.shape)
    combinations = [c for n in range(4) for c in itertools.combinations((1, 2, 3), n)]
    for start in itertools.product((0, 4), repeat=3):
        box = tuple(slice(a, a + n) for a, n in zip(start, (8, 12, 16), strict=True))
        tile = image[box][None]
        mean = np.mean([np.flip(logits([net], np.flip(tile, axes)), axes) for axes in combinations], 0)
        total[(slice(None), *box)] += mean * weight
        weights[box] += weight
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    found = segmented(run.path, tmp_path / "in", mirror=True)["a"]
    assert (found == painted(total / weights)).mean() > 0.9995


def test_plan_can_be_shown_and_read(tmp_path: Path) -> None:
    write_model(tmp_path / NAME)
    run = import_nnunet(tmp_path / NAME, tmp_path / "run")
    stored = json.loads((run.path / "plan.json").read_text())
    assert stored["preprocessing"]["orientation"] == "stored"
    assert stored["planner"] == "nnunet"
