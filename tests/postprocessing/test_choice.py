"""Choosing post-processing: what helps is kept, what hurts is not, and the figures are the evaluation's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import autoseg
from autoseg.evaluation.cases import evaluate_pairs
from autoseg.evaluation.protocol import Empty, EvaluationProtocol
from autoseg.evaluation.summary import Evaluation
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.files import save_plan
from autoseg.plans.target import Output, Target
from autoseg.postprocessing.choice import postprocess, results_table, verdict
from autoseg.postprocessing.steps import Postprocessing, Step, Trial, chosen_steps
from autoseg.runs.run import SOURCE, SOURCE_SHARE, UNTOUCHED, Run
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_json
from tests.builders import (
    LABELS,
    REGIONS,
    blob,
    keep_share,
    make_configuration,
    make_plan,
    make_run,
    make_tuned_plan,
    write,
)

Change = Callable[[np.ndarray], np.ndarray]


def validated(
    root: Path,
    change: Change,
    references: Change | None = None,
    target: Target = LABELS,
    folds: tuple[int, ...] = (0, 1),
    empty: Empty = "skip",
) -> Run:
    """A run of four cases whose folds predicted the changed references; its weights are only a file."""
    run = make_run(root, make_plan(target=target, evaluation=EvaluationRules(empty=empty)))
    for fold in folds:
        (weights := run.fold("small", fold).weights).parent.mkdir(parents=True)
        weights.write_bytes(f"weights of fold {fold}".encode())
        out = weights.parent / "validation"
        pairs = []
        for case in run.split(fold)["validation"]:
            path = run.dataset.case(case).label
            assert path is not None
            reference = blob(shift=int(case[-1]) % 2)
            write(path, reference if references is None else references(reference))
            predicted = write(out / f"{case}.nii.gz", change(reference.copy()))
            pairs.append((case, predicted, path))
        evaluate_pairs(pairs, target.outputs, out, EvaluationProtocol(empty=empty))
    return run


def test_a_cascades_choice_rests_on_the_weights_of_all_its_stages(tmp_path: Path) -> None:
    run = validated(tmp_path, speck)
    last = make_configuration(previous={"configuration": "low"})
    save_plan(make_plan(configurations={"low": make_configuration(), "small": last}), run.path / "plan.json")
    run = Run.open(run.path)
    earlier = [run.fold("low", fold).weights for fold in (0, 1)]
    for path in earlier:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights of the first stage")
    found = postprocess(run)
    assert found.configuration == "small"
    assert set(found.weights) == {f"{c}/fold_{fold}/weights.safetensors" for c in ("low", "small") for fold in (0, 1)}
    assert chosen_steps(run.path, "small", LABELS) == tuple(found.steps) != ()
    earlier[1].write_bytes(b"trained again")
    assert chosen_steps(run.path, "small", LABELS) == ()


def test_it_rests_on_how_a_source_is_kept(tmp_path: Path) -> None:
    """On harmonized images or not: either way, folds have the same weights. What else was compared does not matter."""
    run = validated(tmp_path, speck)
    save_plan(make_tuned_plan(), run.path / "plan.json")
    run = Run.open(run.path)
    keep_share(run, UNTOUCHED)
    found = postprocess(run)
    assert chosen_steps(run.path, "small", LABELS) == tuple(found.steps) != ()
    write_json(run.path / "small" / SOURCE_SHARE, {"share": UNTOUCHED, "cases": ["another"]})
    assert chosen_steps(run.path, "small", LABELS) == tuple(found.steps)
    keep_share(run, SOURCE)
    assert chosen_steps(run.path, "small", LABELS) == ()
    (run.path / "small" / SOURCE_SHARE).unlink()
    assert chosen_steps(run.path, "small", LABELS) == ()


def nothing(label: np.ndarray) -> np.ndarray:
    return label


def speck(label: np.ndarray) -> np.ndarray:
    """24 voxels of outer far from the rest: 8 and 16."""
    label[8:10, :2, 12:14] = 1
    label[:2, :2, :4] = 1
    return label


def find(found: Postprocessing, kind: str, output: str) -> list[Trial]:
    return [trial for trial in found.tried if (trial.step.kind, trial.step.output) == (kind, output)]


def test_what_helps_is_kept(tmp_path: Path) -> None:
    run = validated(tmp_path, speck)
    found = postprocess(run, workers=2)
    # outer: 5·7·7 − 3·3·4 = 209 voxels in the reference, 233 predicted; inner is right.
    outer = 2 * 209 / (209 + 233)
    assert found.before.outputs == pytest.approx({"outer": outer, "inner": 1.0})
    assert found.before.mean == pytest.approx((outer + 1) / 2)
    # A tenth of 209 mm³ is 21 mm³: gentler than the largest component, and as good.
    assert found.steps == [Step(kind="minimum_size", output="outer", mm3=21.0)]
    assert found.after.mean == 1.0
    assert (found.improved, found.worsened, found.cases, found.all_cases) == (4, 0, 4, 4)
    assert (found.folds, found.all_folds) == ([0, 1], 2)
    # 0.1 % of 209 mm³ is below a voxel; the others are tried. Those below 8 mm³ change nothing.
    sizes = {trial.step.mm3: trial for trial in find(found, "minimum_size", "outer")}
    assert list(sizes) == [2.1, 6.3, 21.0]
    assert [trial.improved for trial in sizes.values()] == [0, 0, 4]
    (largest,) = find(found, "largest_component", "outer")
    assert largest.after.mean == 1.0
    assert not largest.kept
    assert chosen_steps(run.path, "small", LABELS) == tuple(found.steps)
    assert Postprocessing.read(run.path / "small" / "postprocessing.json") == found


def test_the_figures_are_the_evaluations(tmp_path: Path) -> None:
    run = validated(tmp_path, lambda label: np.roll(speck(label), 1, axis=2))
    found = postprocess(run)
    evaluation = Evaluation.merge(Evaluation.read(run.fold("small", fold).validation) for fold in (0, 1))
    assert found.before.mean == pytest.approx(evaluation.mean("dice"))
    assert found.before.outputs == pytest.approx({name: evaluation.mean("dice", name) for name in ("outer", "inner")})


def test_what_hurts_is_not_kept(tmp_path: Path) -> None:
    """References of two parts, rightly predicted."""
    found = postprocess(validated(tmp_path, speck, speck))
    assert found.before.mean == 1.0
    assert found.steps == []
    (largest,) = find(found, "largest_component", "outer")
    assert (largest.improved, largest.worsened, largest.kept) == (0, 4, False)
    assert "Nothing is chosen: no step raises the mean Dice of 1.0000." in verdict(found)


def test_no_other_output_may_lose(tmp_path: Path) -> None:
    """The whole would gain more than the inner region loses with it."""

    def islet(label: np.ndarray) -> np.ndarray:
        label[0, 0, 0] = 2
        return label

    def islet_and_specks(label: np.ndarray) -> np.ndarray:
        label[8:10, :2, 4:14] = 1
        return islet(label)

    found = postprocess(validated(tmp_path, islet_and_specks, islet, REGIONS))
    (largest,) = find(found, "largest_component", "whole")
    assert largest.after.mean > largest.before.mean + 0.01
    assert largest.after.outputs["inner"] == pytest.approx(2 * 36 / (36 + 37))
    assert largest.before.outputs["inner"] == 1.0
    assert not largest.kept
    assert found.steps == []
    said = "each step that raises the mean Dice of "
    assert f"Nothing is chosen: {said}" in verdict(found)
    assert "by more than 0.0005 lowers a structure's own by more than 0.0001." in verdict(found)


def test_a_gain_too_small_to_count_is_said(tmp_path: Path) -> None:
    found = postprocess(validated(tmp_path, speck, speck))
    (trial, *others) = found.tried
    gain = trial.after.model_copy(update={"mean": 0.9003})
    trial = trial.model_copy(update={"before": gain.model_copy(update={"mean": 0.9}), "after": gain})
    slight = found.model_copy(update={"tried": [trial, *others]})
    assert "Nothing is chosen: no step raises the mean Dice of 1.0000 by more than 0.0005." in verdict(slight)
    unknown = trial.model_copy(update={"before": gain.model_copy(update={"mean": None})})
    assert "1.0000." in verdict(found.model_copy(update={"tried": [unknown]}))


def test_of_several_steps_each_builds_on_those_before(tmp_path: Path) -> None:
    """Both regions have specks; the inner one's are judged after the whole's are gone."""

    def specks(label: np.ndarray) -> np.ndarray:
        label = speck(label)
        label[5:7, 8:10, 2] = 2  # four voxels of inner, on the whole
        return label

    found = postprocess(validated(tmp_path, specks, target=REGIONS))
    assert [(step.kind, step.output) for step in found.steps] == [
        ("minimum_size", "whole"),
        ("largest_component", "inner"),
    ]
    first, second = (trial for trial in found.tried if trial.kept)
    assert second.before == first.after
    assert found.after.mean == second.after.mean
    assert found.after.mean == 1.0


@pytest.mark.parametrize("empty", ["skip", "brats"])
def test_small_structures_that_are_false_alarms(tmp_path: Path, empty: Empty) -> None:
    """In the odd cases there is no inner structure, and a little of it is found."""

    def without(label: np.ndarray) -> np.ndarray:
        return np.minimum(label, 1) if label[3, 6, 4] == 2 and label[3, 5, 4] != 2 else label

    def few(label: np.ndarray) -> np.ndarray:
        small = without(label)
        if not (small == 2).any():
            small[4, 6, 5:8] = 2
        return small

    found = postprocess(validated(tmp_path, few, without, empty=empty))
    # 36 mm³ where it is, three where it is not: components and total are as good; 10 % are 3.6 mm³.
    assert found.steps == [Step(kind="minimum_size", output="inner", mm3=3.6)]
    (alarm,) = (t for t in find(found, "minimum_size", "inner") if t.kept)
    assert alarm.before.outputs["inner"] == 0.5
    assert alarm.after.outputs["inner"] == 1.0
    assert (found.improved, found.worsened) == (2, 0)
    assert found.empty == empty


def test_absent_structures_count_as_the_plan_says(tmp_path: Path) -> None:
    """Also of folds that were measured before the plan asked for it, as in the cross-validated table."""

    def row(length: int) -> Change:
        """So many voxels; none in the odd cases."""

        def changed(label: np.ndarray) -> np.ndarray:
            found = np.zeros_like(label)
            found[4, 4, : length if label[3, 5, 4] == 2 else 0] = 1
            return found

        return changed

    target = Target(kind="labels", outputs=[Output(name="one", values=[1], paint=1)])
    run = validated(tmp_path, row(12), row(8), target)
    assert postprocess(run).before.mean == pytest.approx(0.8)  # 2 · 8 / (12 + 8), of two cases
    counted = run.plan.model_copy(update={"evaluation": EvaluationRules(empty="brats")})
    save_plan(counted, run.path / "plan.json")
    later = Evaluation.read(run.fold("small", 1).validation).counting_absent("brats")
    for _ in range(2):
        found = postprocess(run)
        assert found.empty == "brats"
        assert found.before.mean == pytest.approx(0.9)
        later.write(run.fold("small", 1).validation)


def test_two_small_parts_are_dropped_by_their_total(tmp_path: Path) -> None:
    """Each part is as small as a true one elsewhere, so that only the total tells."""

    def without(label: np.ndarray) -> np.ndarray:
        if label[3, 5, 4] != 2:
            return np.minimum(label, 1)
        label[label == 2] = 1
        for x in range(2, 9, 2):
            label[3, 5, x] = 2
        for x in range(2, 9, 2):
            label[5, 5, x] = 2
        for x in range(2, 9, 2):
            label[5, 7, x] = 2
        return label

    def few(label: np.ndarray) -> np.ndarray:
        found = without(label)
        if not (found == 2).any():
            found[4, 6, 5] = 2
        return found

    found = postprocess(validated(tmp_path, few, without))
    assert found.steps == [Step(kind="minimum_total", output="inner", mm3=1.2)]
    assert found.after.mean == 1.0


def test_some_folds_are_said(tmp_path: Path) -> None:
    found = postprocess(validated(tmp_path, speck, folds=(1,)))
    assert (found.folds, found.cases, found.all_cases) == ([1], 2, 4)
    assert list(found.weights) == ["small/fold_1/weights.safetensors"]
    assert found.grounds == "2 validation cases (fold 1 of 2)"
    assert "This rests on 2 of 4 cases; train the other folds" in verdict(found)
    assert "This rests on" not in verdict(postprocess(validated(tmp_path / "all", speck)))


def test_gone_references_are_taken_from_the_validation(tmp_path: Path) -> None:
    run = validated(tmp_path, speck)
    wanted = postprocess(run)
    for fold in (0, 1):
        for case in run.split(fold)["validation"]:
            path = run.dataset.case(case).label
            assert path is not None
            kept = run.fold("small", fold).validation / "references" / f"{case}.nii.gz"
            kept.parent.mkdir(exist_ok=True)
            path.rename(kept)
    assert postprocess(run) == wanted
    (run.fold("small", 1).validation / "references" / "case_3.nii.gz").unlink()
    with pytest.raises(AutosegError, match=r"the reference of case case_3 is gone .*; put the dataset back") as raised:
        postprocess(run)
    assert f"'autoseg plan NEW_PLACE --out {run.path}', with the same options as before" in str(raised.value)


def test_errors(tmp_path: Path) -> None:
    run = make_run(tmp_path / "bare")
    with pytest.raises(UsageError, match="has no trained and validated fold of small; train it with 'autoseg train"):
        postprocess(run)
    with pytest.raises(UsageError, match="--config huge is not in the plan"):
        postprocess(run, "huge")
    with pytest.raises(UsageError, match="--workers 0"):
        postprocess(run, workers=0)
    run = validated(tmp_path / "trained", speck)
    prediction = run.fold("small", 0).validation / "case_0.nii.gz"
    write(prediction, np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(AutosegError, match=r"case case_0: .* does not lie on the grid of .*; train the fold again"):
        postprocess(run)
    prediction.unlink()
    with pytest.raises(AutosegError, match=r"case_0\.nii\.gz does not exist"):
        postprocess(run)


def test_the_table_has_what_changes_something(tmp_path: Path) -> None:
    table = results_table(postprocess(validated(tmp_path, speck)))
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["output"] == ["outer", "", ""]
    assert columns["what stays"] == ["all", "components ≥ 21 mm³", "largest component"]
    assert columns["mean Dice"] == ["0.9729", "1.0000", "1.0000"]
    assert columns["its Dice"] == ["0.9457", "1.0000", "1.0000"]
    assert columns["cases"] == ["", "+4 −0", "+4 −0"]
    assert columns["chosen"] == ["", "yes", ""]


def test_the_verb_is_public(tmp_path: Path) -> None:
    run = validated(tmp_path, speck)
    assert autoseg.postprocess(run.path) == postprocess(run)
