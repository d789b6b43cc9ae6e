"""Post-processing of label maps: hand-made maps, another library, invariants; what predict applies, and when not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from scipy import ndimage
from skimage.measure import label as components_of

from autoseg.data.dataset import Case, ChannelFile
from autoseg.inference.chain import TrainedStage
from autoseg.inference.members import Member
from autoseg.inference.predictor import Predictor
from autoseg.networks import build
from autoseg.networks.weights import save_weights
from autoseg.plans.target import Output, Target
from autoseg.postprocessing.steps import (
    POSTPROCESSING_FILE,
    Postprocessing,
    Score,
    Step,
    agreed_steps,
    apply_steps,
    chosen_steps,
    find_parts,
    weights_digests,
)
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError
from tests.builders import LABELS, Perfect, blob, loaded, make_configuration, make_plan, make_run, picture_of, write

MM = (1.0, 1.0, 1.0)
BRATS = Target(
    kind="regions",
    outputs=[
        Output(name="whole", values=[1, 2, 4], paint=2),
        Output(name="core", values=[1, 4], paint=1),
        Output(name="enhancing", values=[4], paint=4),
    ],
)


def largest(output: str) -> Step:
    return Step(kind="largest_component", output=output, mm3=None)


def size(output: str, mm3: float) -> Step:
    return Step(kind="minimum_size", output=output, mm3=mm3)


def total(output: str, mm3: float) -> Step:
    return Step(kind="minimum_total", output=output, mm3=mm3)


def flat(*rows: str) -> np.ndarray:
    """A picture ``(1, y, x)`` of one digit a voxel."""
    return np.array([[[int(digit) for digit in row] for row in rows]], np.int16)


def done(label: np.ndarray, *steps: Step, target: Target = LABELS, spacing: tuple[float, ...] = MM) -> np.ndarray:
    return apply_steps(label, steps, target, spacing)


def test_voxels_that_share_a_corner_are_one_component() -> None:
    label = flat(
        "11000",
        "00101",
        "00001",
    )
    assert np.array_equal(
        done(label, largest("outer")),
        flat(
            "11000",
            "00100",
            "00000",
        ),
    )
    volume = np.zeros((4, 4, 4), np.int16)
    volume[0, 0, 0] = volume[1, 1, 1] = 1
    volume[3, 3, 3] = 1
    found = done(volume, largest("outer"))
    assert (found[0, 0, 0], found[1, 1, 1], found[3, 3, 3]) == (1, 1, 0)


def test_a_label_becomes_what_is_around_it() -> None:
    label = flat(
        "2000000",
        "0011100",
        "0012100",
        "0011100",
        "2200022",
        "2200022",
        "2200020",
    )
    expected = flat(
        "0000000",
        "0011100",
        "0011100",
        "0011100",
        "2200000",
        "2200000",
        "2200000",
    )
    assert np.array_equal(done(label, largest("inner")), expected)
    # 6 voxels stay at 6 mm³, 5 do not.
    assert np.array_equal(done(label, size("inner", 6)), expected)
    assert np.count_nonzero(done(label, size("inner", 5)) == 2) == 11
    # A component that fills the picture has nothing around it.
    assert not done(np.full((1, 2, 2), 2, np.int16), size("inner", 9)).any()


def test_most_faces_decide_and_the_smallest_value_at_a_tie() -> None:
    assert done(flat("121"), size("inner", 2)).tolist() == [[[1, 1, 1]]]
    assert done(flat("120"), size("inner", 2)).tolist() == [[[1, 0, 0]]]
    label = flat(
        "010",
        "020",
        "010",
    )
    assert done(label, size("inner", 2))[0, 1, 1] == 0  # two faces each
    label[0, 1, 0] = 1
    assert done(label, size("inner", 2))[0, 1, 1] == 1  # three to one


def test_a_region_becomes_the_region_around_it() -> None:
    label = flat(
        "2222222000",
        "2144412022",
        "2111112042",
        "2222222022",
        "2422222000",
    )
    enhancing = flat(
        "2222222000",
        "2144412022",
        "2111112012",
        "2222222022",
        "2122222000",
    )
    core = flat(
        "2222222000",
        "2144412022",
        "2111112022",
        "2222222022",
        "2222222000",
    )
    whole = flat(
        "2222222000",
        "2144412000",
        "2111112000",
        "2222222000",
        "2422222000",
    )
    assert np.array_equal(done(label, largest("enhancing"), target=BRATS), enhancing)
    assert np.array_equal(done(label, largest("core"), target=BRATS), core)
    assert np.array_equal(done(label, largest("whole"), target=BRATS), whole)
    # All of it: 5 voxels of enhancing tumour.
    assert np.array_equal(done(label, total("enhancing", 5), target=BRATS), label)
    found = done(label, total("enhancing", 5.1), target=BRATS)
    assert np.array_equal(found, np.where(label == 4, 1, label))
    assert not done(label, total("whole", 1000), target=BRATS).any()


def test_regions_that_are_not_nested_become_background() -> None:
    target = Target(
        kind="regions",
        outputs=[Output(name="left", values=[1, 3], paint=1), Output(name="right", values=[2, 3], paint=2)],
    )
    assert done(flat("1320"), total("right", 9), target=target).tolist() == [[[1, 0, 0, 0]]]


def test_volumes_are_in_mm3() -> None:
    label = np.zeros((3, 8, 8), np.int16)
    label[1, 1:3, 1:3] = 1
    label[1, 5, 5:7] = 1
    spacing = (3.0, 0.5, 0.5)  # 0.75 mm³: 3 mm³ and 1.5 mm³
    for threshold, left in ((1.5, 6), (1.6, 4), (3.0, 4), (3.1, 0)):
        assert np.count_nonzero(done(label, size("outer", threshold), spacing=spacing)) == left
    for threshold, left in ((4.5, 6), (4.6, 0)):
        assert np.count_nonzero(done(label, total("outer", threshold), spacing=spacing)) == left
    # A picture's third axis counts 1 mm: 0.25 mm³ a voxel.
    assert np.count_nonzero(done(label[1:2], size("outer", 1.0), spacing=(0.5, 0.5))) == 4


def test_steps_follow_each_other() -> None:
    """Dropping the small core first leaves enhancing tumour too little to stay."""
    label = flat("14440222244", "22222222222")
    first, second = size("core", 3), total("enhancing", 4)
    assert np.array_equal(done(label, second, target=BRATS), label)
    assert done(label, first, second, target=BRATS).tolist() == flat("11110222222", "22222222222").tolist()


def test_the_map_given_is_left_alone() -> None:
    label = flat("10011", "00000")
    before = label.copy()
    done(label, largest("outer"))
    assert np.array_equal(label, before)
    assert done(label, largest("inner")) is label  # there is none
    assert done(label) is label


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, Step, Target]:
    target = draw(st.sampled_from([LABELS, BRATS]))
    values = [0, *(output.paint for output in target.outputs)]
    label = draw(arrays(np.int16, draw(SHAPES), elements=st.sampled_from([0, *values])))
    output = draw(st.sampled_from([output.name for output in target.outputs]))
    step = draw(
        st.one_of(
            st.just(largest(output)),
            st.floats(0.1, 30).map(lambda mm3: size(output, mm3)),
            st.floats(0.1, 60).map(lambda mm3: total(output, mm3)),
        )
    )
    return label, step, target


@given(problems())
def test_invariants(problem: tuple[np.ndarray, Step, Target]) -> None:
    label, step, target = problem
    output = next(output for output in target.outputs if output.name == step.output)
    found = apply_steps(label, [step], target, MM)
    assert found.dtype == label.dtype
    assert np.array_equal(apply_steps(found, [step], target, MM), found)  # done twice is done once
    assert set(np.unique(found)) <= {0, *(other.paint for other in target.outputs)}
    before, after = np.isin(label, output.values), np.isin(found, output.values)
    assert not (after & ~before).any()  # never more of the output
    assert np.array_equal(found[~before], label[~before])
    if target.kind == "regions":  # nor less of the regions around it
        for outer in target.outputs[: target.outputs.index(output)]:
            assert np.array_equal(np.isin(found, outer.values), np.isin(label, outer.values))
    # Another library's components.
    numbered = components_of(before, connectivity=3)
    voxels = np.bincount(numbered.ravel())[1:]
    if step.kind == "largest_component":
        assert np.count_nonzero(after) == (voxels.max() if len(voxels) else 0)
        assert components_of(after, connectivity=3).max() == min(len(voxels), 1)
    elif step.kind == "minimum_size":
        assert np.array_equal(after, np.isin(numbered, 1 + np.flatnonzero(voxels >= step.mm3)))
    else:
        assert np.count_nonzero(after) == (voxels.sum() if voxels.sum() >= step.mm3 else 0)
    # Background around the image changes nothing.
    assert np.array_equal(apply_steps(np.pad(label, 2), [step], target, MM)[2:-2, 2:-2, 2:-2], found) or _at_edge(label)


def _at_edge(label: np.ndarray) -> bool:
    """Whether something touches the image's edge, where what is around it depends on there being more."""
    inner = label[1:-1, 1:-1, 1:-1]
    return bool(np.count_nonzero(inner) < np.count_nonzero(label))


def test_a_step_is_complete() -> None:
    for fields in ({"kind": "minimum_size"}, {"kind": "largest_component", "mm3": 3.0}, {"kind": "smooth"}):
        with pytest.raises(ValidationError):
            Step(**{"output": "outer", "mm3": None, **fields})
    with pytest.raises(ValidationError):
        size("outer", 0)
    assert str(size("outer", 20.0)) == "outer: components ≥ 20 mm³"
    assert str(total("outer", 1200)) == "outer: total ≥ 1200 mm³"
    assert str(largest("outer")) == "outer: largest component"


# --- what predict applies ---


def choose(run: Run, *steps: Step, **changes: Any) -> Path:
    """Write the choice of these steps for fold 0 as it is now trained."""
    score = Score(mean=0.8, outputs={"outer": 0.8, "inner": 0.8})
    fields: dict[str, Any] = {
        "autoseg_version": "0.1.0",
        "configuration": "small",
        "steps": list(steps),
        "before": score,
        "after": score,
        "improved": 1,
        "worsened": 0,
        "cases": 1,
        "all_cases": 2,
        "folds": [0],
        "all_folds": 2,
        "empty": "skip",
        "weights": weights_digests(run.path, ["small/fold_0/weights.safetensors"]),
        "tried": [],
    }
    path = run.path / "small" / POSTPROCESSING_FILE
    Postprocessing(**{**fields, **changes}).write(path)
    return path


def trained(root: Path, seed: int = 0) -> Run:
    run = make_run(root, cases=2)
    train(run, seed)
    return run


def train(run: Run, seed: int) -> None:
    torch.manual_seed(seed)
    network = build(run.plan.configurations["small"].network, 1, 3)
    save_weights(run.fold("small", 0).weights, network.state_dict())


def specked() -> np.ndarray:
    label = blob()
    label[8, 1, 12:14] = 1
    return label


def perfect(*steps: Step) -> Predictor:
    plan = make_plan()
    member = Member("run", [TrainedStage(plan.stage("small"), [Perfect(plan.target)])])
    return Predictor([member], torch.device("cpu"), postprocessing=steps)


@pytest.mark.parametrize("results", [["label"], ["probabilities"]])
def test_the_predictor_drops_what_it_is_told_to(results: list[str]) -> None:
    case = loaded(picture_of(specked()), spacing=(2.0, 1.0, 1.0))
    assert np.array_equal(perfect().predict_case(case, results).label, specked())
    assert np.array_equal(perfect(largest("outer")).predict_case(case, results).label, blob())
    assert np.array_equal(perfect(size("outer", 4.0)).predict_case(case, results).label, specked())
    assert np.array_equal(perfect(size("outer", 4.1)).predict_case(case, results).label, blob())


def test_probabilities_stay() -> None:
    case = loaded(picture_of(specked()))
    plain, changed = (
        p.predict_case(case, ["probabilities"]).probabilities for p in (perfect(), perfect(largest("outer")))
    )
    assert all(np.array_equal(plain[name], changed[name]) for name in plain)


def test_the_record_says_so(tmp_path: Path) -> None:
    scan = write(tmp_path / "scans" / "c.nii.gz", picture_of(specked()))
    perfect(size("outer", 20.0)).predict([Case(id="c", channels={"mr": ChannelFile(path=scan)})], tmp_path / "out")
    told = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert told["postprocessing"] == [{"kind": "minimum_size", "output": "outer", "mm3": 20.0}]
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "c.nii.gz"))), blob())


def test_loading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path)
    assert Predictor.load(run.path, device="cpu").postprocessing == ()
    choose(run, largest("outer"))
    assert Predictor.load(run.path, device="cpu").postprocessing == (largest("outer"),)
    assert "Post-processing: outer: largest component." in capsys.readouterr().err
    assert Predictor.load(run.path, device="cpu", postprocessing=False).postprocessing == ()
    assert capsys.readouterr().err == ""


def test_a_run_trained_again_needs_another_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path)
    choose(run, largest("outer"))
    train(run, 1)
    assert Predictor.load(run.path, device="cpu").postprocessing == ()
    assert "was decided for other weights and is not applied" in capsys.readouterr().err
    (run.fold("small", 0).weights).unlink()
    assert chosen_steps(run.path, "small", LABELS) == ()


def test_advice_names_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(configurations={"other": make_configuration(), "small": make_configuration()})
    run = make_run(tmp_path, plan.model_copy(update={"recommended": "other"}), cases=2)
    train(run, 0)
    other = run.fold("other", 0).weights
    other.parent.mkdir(parents=True)
    other.write_bytes(run.fold("small", 0).weights.read_bytes())
    choose(run, largest("outer"))
    train(run, 1)
    assert chosen_steps(run.path, "small", LABELS) == ()
    assert f"run 'autoseg postprocess {run.path} --config small' again" in capsys.readouterr().err


def test_another_checkpoint_needs_another_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path)
    best, weights = run.fold("small", 0).checkpoint("best"), run.fold("small", 0).weights
    train(run, 1)
    weights.rename(best)
    train(run, 0)
    choose(run, largest("outer"))
    assert Predictor.load(run.path, device="cpu").postprocessing == (largest("outer"),)
    capsys.readouterr()
    assert Predictor.load(run.path, device="cpu", checkpoint="best").postprocessing == ()
    said = capsys.readouterr().err
    assert "decided for the weights at the end of the training and is not applied with --checkpoint best" in said
    # Where the best weights on the way are those at the end, it is theirs.
    best.write_bytes(weights.read_bytes())
    assert Predictor.load(run.path, device="cpu", checkpoint="best").postprocessing == (largest("outer"),)


def test_several_runs_must_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [trained(tmp_path / name) for name in ("a", "b")]
    parts = [(run.path, "small") for run in runs]
    assert agreed_steps(parts, LABELS) == ()
    assert capsys.readouterr().err == ""
    choose(runs[0], largest("outer"), size("inner", 20))
    assert agreed_steps(parts, LABELS) == ()
    assert "different post-processing, so none is applied" in capsys.readouterr().err
    choose(runs[1], largest("outer"), size("inner", 30))
    assert agreed_steps(parts, LABELS) == ()
    choose(runs[1], largest("outer"), size("inner", 20))
    both = Predictor.load([run.path for run in runs], device="cpu")
    assert both.postprocessing == (largest("outer"), size("inner", 20))


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    run = trained(tmp_path)
    path = choose(run, largest("lesion"))
    with pytest.raises(AutosegError, match=r"names the output lesion, which this run has not \(outer, inner\)"):
        chosen_steps(run.path, "small", LABELS)
    path.write_text(path.read_text().replace("largest_component", "smooth"))
    with pytest.raises(AutosegError, match=r"postprocessing.json is damaged \(steps.0.kind"):
        chosen_steps(run.path, "small", LABELS)


@given(arrays(np.int16, st.tuples(*[st.integers(1, 9)] * 3), elements=st.integers(0, 1)), st.permutations(range(3)))
@example(np.array([[[1, 0, 1]]], np.int16), [0, 1, 2])
@example(np.array([[[1]], [[0]], [[1]], [[0]], [[1]]], np.int16), [0, 1, 2])
def test_components_are_numbered_as_by_scipy(label: np.ndarray, order: list[int]) -> None:
    """In scan order: where several are the largest, the first one is kept."""
    label = label.transpose(order)
    expected, count = ndimage.label(label, np.ones((3, 3, 3)))
    found = find_parts(label, LABELS.outputs[0])
    assert found.voxels.tolist() == np.bincount(expected.ravel(), minlength=count + 1)[1:].tolist()
    again = np.zeros_like(expected)
    inside = again[found.box]
    inside[np.unravel_index(found.positions, inside.shape)] = found.owners + 1
    assert np.array_equal(again, expected)
