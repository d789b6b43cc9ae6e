"""Lesion-wise scores: hand-worked by the rules of BraTS 2023, and those of 2026 against the challenges' own package."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from autoseg.evaluation.cases import Structure, evaluate_arrays
from autoseg.evaluation.challenges import EVALUATIONS, brats_evaluation
from autoseg.evaluation.folders import evaluate
from autoseg.evaluation.lesions import GLIOMA_2023, LesionRules, score_lesions
from autoseg.evaluation.masks import measure
from autoseg.evaluation.protocol import EvaluationProtocol
from autoseg.utils.errors import UsageError

MM = (1.0, 1.0, 1.0)
SHAPE = (20, 30, 40)


def cubes(*corners: tuple[int, int, int], side: int = 5) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for z, y, x in corners:
        mask[z : z + side, y : y + side, x : x + side] = True
    return mask


def test_a_perfect_prediction() -> None:
    mask = cubes((3, 3, 3), (3, 3, 25))
    assert score_lesions(mask, mask, MM) == (1.0, 0.0, 2, 0, 0)


def test_missed_and_false_lesions_count_as_nothing() -> None:
    # Found exactly: 1 and 0 mm; missed: 0 and 374; false: 0 and 374. Three in all.
    reference = cubes((3, 3, 3), (3, 3, 25))
    prediction = cubes((3, 3, 3), (12, 20, 12))
    found = score_lesions(prediction, reference, MM)
    assert found.dice == pytest.approx(1 / 3)
    assert found.hd95 == pytest.approx(2 * 374 / 3)
    assert (found.found, found.missed, found.false) == (1, 1, 1)


def test_lesions_that_a_dilation_joins_are_one() -> None:
    """Six voxels apart, three steps each meet: one lesion, of which one half is found. Eight apart, they are two."""
    near, far = cubes((3, 3, 3), (3, 3, 14)), cubes((3, 3, 3), (3, 3, 16))
    prediction = cubes((3, 3, 3))
    joined = score_lesions(prediction, near, MM)
    assert joined.dice == pytest.approx(2 * 125 / (125 + 250))
    assert (joined.found, joined.missed) == (1, 0)
    apart = score_lesions(prediction, far, MM)
    assert apart.dice == pytest.approx(1 / 2)
    assert (apart.found, apart.missed) == (1, 1)


def test_all_components_that_touch_the_dilated_lesion_are_its_prediction() -> None:
    """A component 3 voxels away from the lesion belongs to it, one 4 voxels away is false."""
    reference = cubes((3, 3, 3))
    beside = cubes((3, 3, 3)) | cubes((3, 3, 10), side=2)
    found = score_lesions(beside, reference, MM)
    assert found.dice == pytest.approx(2 * 125 / (125 + 133))
    assert found.false == 0
    away = score_lesions(cubes((3, 3, 3)) | cubes((3, 3, 11), side=2), reference, MM)
    assert (away.dice, away.false) == (pytest.approx(1 / 2), 1)


def test_small_lesions_of_the_reference_do_not_count() -> None:
    """A lesion of 27 mm³ is left out, whether found or not; what touches it is not false. One of 51 mm³ counts."""
    reference = cubes((3, 3, 3)) | cubes((3, 20, 30), side=3)
    assert score_lesions(cubes((3, 3, 3)), reference, MM) == (1.0, 0.0, 1, 0, 0)
    assert score_lesions(cubes((3, 3, 3)) | cubes((3, 20, 30), side=3), reference, MM).false == 0
    metastases = LesionRules(dilation=1, above_mm3=2)
    assert score_lesions(cubes((3, 3, 3)), reference, MM, metastases).dice == pytest.approx(1 / 2)
    # By volume, not by voxels: 27 voxels of 2 mm³.
    assert score_lesions(cubes((3, 3, 3)), reference, (2.0, 1.0, 1.0)).missed == 1


def test_without_lesions() -> None:
    nothing = np.zeros(SHAPE, bool)
    assert score_lesions(nothing, nothing, MM) == (1.0, 0.0, 0, 0, 0)
    assert score_lesions(cubes((3, 3, 3), side=1), nothing, MM) == (0.0, 374.0, 0, 0, 1)
    assert score_lesions(nothing, cubes((3, 3, 3)), MM) == (0.0, 374.0, 0, 1, 0)


def test_the_distance_of_a_lesion_is_that_of_its_surfaces() -> None:
    reference, prediction = cubes((3, 3, 3)), cubes((3, 3, 5))
    whole = measure(prediction, reference, MM, EvaluationProtocol(metrics=("hd95",)))
    assert score_lesions(prediction, reference, MM).hd95 == whole["hd95"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("rules", "volume", "picture"),
    [
        (GLIOMA_2023, 0.0, 3.0),
        (LesionRules(dilation=0), 0.0, 3.0),
        (LesionRules(matching="joined"), 0.0, 3.0),
        (LesionRules(matching="joined", dilation=0), 0.0, 3.0),
        (LesionRules(matching="one_to_one"), 1.0, 2.0),
    ],
)
def test_a_lesion_in_one_slice_of_a_volume_has_a_surface(rules: LesionRules, volume: float, picture: float) -> None:
    """A square with a hole, as in ``test_metrics.py``: in the first slice and inside, alone and beside another."""
    whole, holed = (np.zeros(SHAPE, bool) for _ in range(2))
    whole[3, 5:14, 5:14] = holed[3, 5:14, 5:14] = True
    holed[3, 8:11, 8:11] = False
    for cut, beside in ((0, cubes((4, 20, 30))), (3, cubes((8, 20, 30))), (3, cubes())):
        found = score_lesions((holed | beside)[cut:], (whole | beside)[cut:], MM, rules)
        lesions = 1 + beside.any()
        assert found.found == lesions
        assert found.hd95 == pytest.approx(volume / lesions)
        assert found.dice == pytest.approx((2 * 72 / 153 + lesions - 1) / lesions)
    assert score_lesions(holed[3:4], whole[3:4], MM, rules).hd95 == picture


def test_what_is_cut_off_changes_nothing() -> None:
    reference = cubes((0, 0, 0), (0, 0, 12), side=4)
    prediction = cubes((0, 0, 1), (8, 8, 30), side=4)
    box = (slice(0, 12), slice(0, 12), slice(0, 34))
    assert score_lesions(prediction, reference, MM) == score_lesions(prediction[box], reference[box], MM)


def blobs(seed: int, shape: tuple[int, ...] = (22, 24, 26)) -> np.ndarray:
    """Labels 1 to 4 in several blobs."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.8)
    noise /= noise.std()
    label = np.zeros(shape, np.uint8)
    for value, above in ((2, 1.3), (1, 1.7), (3, 2.0), (4, 2.6)):
        label[noise > above] = value
    return label


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    empty = np.zeros((22, 24, 26), np.uint8)
    one = blobs(1)
    moved = np.roll(one, 1, axis=0)
    moved[blobs(2) > 2] = 3
    thin = np.where(np.arange(22)[:, None, None] == 10, one, 0)
    whole = [(moved, one), (blobs(3), blobs(4)), (empty, one), (one, empty), (empty, empty), (one, one)]
    return [*whole, (np.roll(thin, 2, axis=1), thin)]


@pytest.fixture(scope="module")
def by_package() -> Any:
    """``by_package(config, prediction, reference)``: region → values, as the challenge's package computes them."""
    pytest.importorskip("brats_evaluation", reason="the challenges' package brats-evaluation is not installed")
    panoptica = pytest.importorskip("panoptica")
    from brats_evaluation import config_path

    evaluators: dict[str, Any] = {}

    def run(config: str, prediction: np.ndarray, reference: np.ndarray) -> dict[str, dict[str, Any]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if config not in evaluators:
                evaluators[config] = panoptica.Panoptica_Evaluator.load_from_config(str(config_path(config)))
            found = evaluators[config].evaluate(prediction, reference)
            return {region: result.to_dict(True) for region, result in found.items()}

    return run


#: The package's names → ours.
REGIONS = {"et": "enhancing_tumor", "tc": "tumor_core", "wt": "whole_tumor", "rc": "resection_cavity"}
PARTS = {"snfh": "edema", "netc": "non_enhancing"}


def ours(name: str, prediction: np.ndarray, reference: np.ndarray) -> dict[str, dict[str, float]]:
    rules = brats_evaluation(name)
    protocol = rules.protocol(EvaluationProtocol())
    return {
        structure.name: measure(
            np.isin(prediction, structure.values), np.isin(reference, structure.values), MM, protocol
        )
        for structure in rules.structures
    }


def limited(value: Any) -> float:
    """Not defined → NaN, infinite → 373, as the challenge's tables have it."""
    value = float("nan") if value is None else float(value)
    return 373.0 if np.isinf(value) else value


@pytest.mark.parametrize("number", range(7))
def test_gliomas_of_2026_as_the_package_has_them(by_package: Any, number: int) -> None:
    prediction, reference = pairs()[number]
    theirs = by_package("gli", prediction, reference)
    mine = ours("gli2026", prediction, reference)
    for region, name in (REGIONS | PARTS).items():
        expected = theirs[region]
        got = mine[name]
        assert got["dice"] == pytest.approx(limited(expected.get("global_bin_dsc")), nan_ok=True)
        assert got["border_hd95"] == pytest.approx(limited(expected.get("global_bin_hd95")), nan_ok=True)
        assert got["lesion_dice"] == pytest.approx(limited(expected.get("sq_dsc")), nan_ok=True)
        assert got["lesion_hd95"] == pytest.approx(limited(expected.get("sq_hd95")), nan_ok=True)
        counts = [got[f"lesions_{what}"] for what in ("found", "missed", "false")]
        assert counts == [expected.get(key, 0) for key in ("tp", "fn", "fp")]


@pytest.mark.parametrize("number", range(7))
def test_metastases_of_2026_as_the_package_has_them(by_package: Any, tmp_path: Path, number: int) -> None:
    """Through the package's own table, with its thresholds."""
    import json

    from brats_evaluation.metrics_parser import parse_mets_results

    prediction, reference = pairs()[number]
    theirs = by_package("mets", prediction, reference)
    (tmp_path / "found.json").write_text(json.dumps({"metrics": [{"subject_name": "a", **theirs}]}, default=float))
    parse_mets_results(str(tmp_path / "found.json"), 20.0, 0.1, str(tmp_path / "table.csv"))
    import pandas

    table = pandas.read_csv(tmp_path / "table.csv").iloc[0]
    mine = ours("met2026", prediction, reference)
    for region, name in REGIONS.items():
        assert mine[name]["lesion_dice"] == pytest.approx(table[f"lesionwise_dsc_mean_{region}"], nan_ok=True)
        assert mine[name]["lesion_hd95"] == pytest.approx(table[f"lesionwise_hd95_mean_{region}"], nan_ok=True)
        assert mine[name]["dice"] == pytest.approx(table[f"global_dsc_{region}"], nan_ok=True)
        assert mine[name]["border_hd95"] == pytest.approx(table[f"global_hd95_{region}"], nan_ok=True)


def test_whole_regions_as_each_edition_counts_them() -> None:
    nothing, cube = np.zeros(SHAPE, np.uint8), cubes((3, 3, 3)).astype(np.uint8) * 3
    missed = ours("gli2023", nothing, cube)["enhancing_tumor"]
    assert (missed["dice"], missed["hd95"], missed["sensitivity"]) == (0.0, 374.0, 0.0)
    absent = ours("gli2023", nothing, nothing)["enhancing_tumor"]
    assert (absent["dice"], absent["hd95"], absent["sensitivity"]) == (1.0, 0.0, 1.0)
    assert (absent["lesion_dice"], absent["lesion_hd95"]) == (1.0, 0.0)
    before = ours("gli2021", nothing, np.where(cube, 4, 0))["enhancing_tumor"]
    assert before["hd95"] == pytest.approx(373.1287, abs=1e-4)
    assert "lesion_dice" not in before


def test_rules_of_each_challenge_of_2023() -> None:
    expected = {"gli2023": (3, 50), "ssa2023": (3, 50), "ped2023": (3, 50), "men2023": (1, 50), "met2023": (1, 2)}
    for name, (dilation, smallest) in expected.items():
        rules = EVALUATIONS[name].lesions
        assert rules is not None
        assert (rules.dilation, rules.above_mm3, rules.penalty_mm, rules.matching) == (
            dilation,
            smallest,
            374,
            "touching",
        )
    assert EVALUATIONS["gli2023"].lesions == GLIOMA_2023
    with pytest.raises(UsageError, match=r"--brats gli2019 is unknown; choose one of gli2021"):
        brats_evaluation("gli2019")


def test_a_structure_has_its_tissue_s_rules_whatever_it_is_called() -> None:
    """``gli2024`` scores enhancing lesions from 10 mm³ on, others from 20: one of 15 voxels that is missed."""
    reference = np.zeros(SHAPE, np.uint8)
    reference[3, 4:7, 4:9] = 3
    protocol = brats_evaluation("gli2024").protocol(EvaluationProtocol())
    structures = [Structure("enhancing_tumor", (3,)), Structure("ET", (3,)), Structure("core", (1, 3))]
    found = evaluate_arrays(np.zeros_like(reference), reference, MM, structures, protocol)
    for name in ("enhancing_tumor", "ET"):
        assert (found[name]["lesion_dice"], found[name]["lesions_missed"]) == (0.0, 1)
    assert (found["core"]["lesion_dice"], found["core"]["lesions_missed"]) == (1.0, 0)


def test_files_by_a_challenge(tmp_path: Path) -> None:
    for folder, label in (("predicted", pairs()[0][0]), ("real", pairs()[0][1])):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(label), str(tmp_path / folder / "a.nii.gz"))
    rules = brats_evaluation("gli2026")
    protocol = rules.protocol(EvaluationProtocol())
    found = evaluate(tmp_path / "predicted", tmp_path / "real", targets=rules.structures, protocol=protocol)
    expected = ours("gli2026", *pairs()[0])
    for row in found.rows:
        for metric in rules.metrics:
            assert row.values[metric] == pytest.approx(expected[row.target][metric])
