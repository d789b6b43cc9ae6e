"""Preprocessing a run: finished cases are kept, and a changed plan or file redoes only what it touches."""

import json
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.plans.files import save_plan
from autoseg.plans.overrides import override
from autoseg.plans.plan import Plan
from autoseg.preprocessing import dataset as module
from autoseg.preprocessing.dataset import case_key, preprocess, preprocess_cases
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import write_json
from tests.builders import blob, forget_places, make_configuration, make_plan, make_run, picture_of, write
from tests.plans.test_plan import example


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path, cases=3)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


def redone(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name.split(".")[0] for name in after if after[name] != before.get(name)}


def change(run: Run, *assignments: str) -> Run:
    save_plan(override(run.plan, list(assignments)), run.path / "plan.json")
    return Run.open(run.path)


def test_a_case_that_the_plan_cannot_normalize_is_named(run: Run) -> None:
    colours = {"scheme": "ct", "lower": 0, "upper": 255, "mean": 0, "std": 255}
    planned = change(run, f"channels.*.normalization={json.dumps(colours)}")
    scan = sitk.ReadImage(str(path := run.dataset.cases[1].channels["mr"].path))
    sitk.WriteImage(scan * 0 + 300, str(path))
    with pytest.raises(AutosegError, match=r"case \w+: mr has values from 300 to 300"):
        preprocess(planned, workers=1)


def test_stores_what_was_read(run: Run) -> None:
    folder = preprocess(run, workers=1)
    assert folder == run.path / "preprocessed" / "fullres"
    for number in range(3):
        case = StoredCase(folder, f"case_{number}")
        assert np.array_equal(case.label(), blob(shift=number % 2))
        np.testing.assert_allclose(case.image()[0], picture_of(blob(shift=number % 2)), rtol=2**-11)


def test_the_key_of_a_case_stays_what_it_was(run: Run) -> None:
    """Where its part of the plan changes, all that older versions stored is made anew: a newer key must leave it."""
    plan = Plan.model_validate(example())
    assert case_key(run.dataset.cases[0], plan.stage("3d_fullres")).split("-")[0] == "7d40c8566363ab7e"


def test_nothing_is_done_twice(run: Run) -> None:
    first = stamps(preprocess(run, workers=1))
    assert stamps(preprocess(run, workers=1)) == first


def test_takes_up_where_it_stopped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.save

    def fail_at_last(folder: Path, case_id: str, *rest: object) -> None:
        if case_id == "case_2":
            raise KeyboardInterrupt
        real(folder, case_id, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "save", fail_at_last)
    with pytest.raises(KeyboardInterrupt):
        preprocess(run, workers=1)
    monkeypatch.undo()
    before = stamps(run.preprocessed("fullres"))
    assert redone(before, stamps(preprocess(run, workers=1))) == {"case_2"}


def test_two_trainings_that_begin_at_once(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The second waits until the first has preprocessed the cases, and makes none of them again."""
    made: list[str] = []
    real, begun, free = module.save, threading.Event(), threading.Event()

    def slow(folder: Path, case_id: str, *rest: Any) -> None:
        made.append(case_id)
        begun.set()
        assert free.wait(30)
        real(folder, case_id, *rest)

    monkeypatch.setattr(module, "save", slow)
    first = threading.Thread(target=preprocess, args=(run, None, 1))
    second = threading.Thread(target=preprocess, args=(Run.open(run.path), None, 1))
    first.start()
    assert begun.wait(30)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    free.set()
    for thread in (first, second):
        thread.join(30)
    assert sorted(made) == ["case_0", "case_1", "case_2"]
    assert "Another process preprocesses" in capsys.readouterr().err


def test_a_scan_that_is_another_channels(tmp_path: Path) -> None:
    """The same file under another name is another case; where no channel is missing, keys are those of before."""
    stage = make_plan(channels=("t1", "t2"), allow_missing_channels=True).stage("small")
    case = make_run(tmp_path).dataset.cases[0]
    file = case.channels["mr"]
    t1, t2, both = (
        case.model_copy(update={"channels": dict.fromkeys(names, file)}) for names in (("t1",), ("t2",), ("t1", "t2"))
    )
    assert len({case_key(one, stage).split("-")[0] for one in (t1, t2, both)}) == 3


def test_changed_file_redoes_its_case(run: Run) -> None:
    before = stamps(preprocess(run, workers=1))
    path = run.dataset.case("case_1").channels["mr"].path
    write(path, picture_of(blob(shift=1), seed=9))
    assert redone(before, stamps(preprocess(run, workers=1))) == {"case_1"}


def test_a_label_map_that_was_changed_is_checked(run: Run) -> None:
    """A value that no label has would be learned as background; what planning did not look at either is not learned."""
    before = stamps(preprocess(run, workers=1))
    path = run.dataset.case("case_1").label
    assert isinstance(path, Path)
    write(path, np.where(blob(shift=1) == 2, 255, blob(shift=1)).astype(np.int16))
    told = rf"case_1 has the label value 255, which its dataset does not name; correct {re.escape(str(path))}"
    for _ in range(2):
        with pytest.raises(AutosegError, match=told):
            preprocess(run, workers=1)
    assert stamps(run.preprocessed("fullres")) == before
    dataset = run.dataset.model_copy(update={"ignore_label": 255})
    write_json(run.path / "dataset.json", dataset.model_dump(mode="json"))
    folder = preprocess(Run.open(run.path), workers=1)
    assert StoredCase(folder, "case_1").foreground_values == {1, 255}
    learned, test = dataset.cases[:1], dataset.cases[1:]
    of_test = dataset.model_copy(update={"ignore_label": None, "cases": learned, "unlabelled": test})
    write_json(run.path / "dataset.json", of_test.model_dump(mode="json"))
    shutil.rmtree(folder)
    assert StoredCase(preprocess(Run.open(run.path), workers=1), "case_1").foreground_values == {1, 255}


def test_an_annotators_label_map_is_checked(run: Run) -> None:
    case = run.dataset.cases[0]
    assert isinstance(case.label, Path)
    drawn = write(case.label.with_name("second.nii.gz"), 3 * (blob() > 1).astype(np.int16))
    case = case.model_copy(update={"raters": {"first": case.label, "second": drawn}})
    stage = replace(run.plan.stage(), annotators=("first", "second"))
    dataset = run.dataset.model_copy(update={"cases": (case,)})
    with pytest.raises(AutosegError, match=r"label value 3, which its dataset does not name; correct .*second\.nii"):
        preprocess_cases([case], stage, run.path / "cases", 1, learned=dataset)


def test_what_is_wrong_with_a_changed_scan_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Of those that were checked in planning it was said there."""
    broken = picture_of(blob())
    broken[0, 0, 0] = np.nan
    write(run.dataset.case("case_0").channels["mr"].path, broken)
    preprocess(run, workers=1)
    assert "NaN" not in capsys.readouterr().err
    broken[0, 0, 1] = np.nan
    write(run.dataset.case("case_0").channels["mr"].path, broken)
    write(run.dataset.case("case_2").channels["mr"].path, np.full((10, 12, 14), 7, np.float32))
    preprocess(run, workers=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "case_0: 2 voxels of" in said
    assert "case_2: mr is constant (all voxels are 7)." in said


@pytest.mark.parametrize(
    ("assignment", "all_again"),
    [
        ("recipe.epochs=7", False),
        ("batch_size=5", False),
        ("patch_size=[4,4,4]", False),
        ("inference.overlap=0.5", False),
        ("target.outputs.inner.paint=2", False),
        ("configurations.small.spacing=[2.0,1.0,1.0]", True),
        ("channels.mr.normalization.scheme=zscore", True),
        ("preprocessing.transpose=[1,0,2]", True),
        ("resampling.image_order=1", True),
        ("preprocessing.box=[6,6,6]", True),
        ("preprocessing.bias_correction=n4", True),
        ("recipe.sampling.background=healthy", False),
    ],
)
def test_changed_plan_redoes_what_it_touches(run: Run, assignment: str, all_again: bool) -> None:
    before = stamps(preprocess(run, workers=1))
    run = change(run, assignment)
    again = redone(before, stamps(preprocess(run, workers=1)))
    assert again == ({"case_0", "case_1", "case_2"} if all_again else set())


def test_swapped_components_are_another_case(tmp_path: Path) -> None:
    """One file can hold several channels; which is which is part of what was preprocessed."""
    run = make_run(tmp_path, cases=2)
    case = run.dataset.cases[0]
    plan = run.plan
    stage = plan.stage("small")
    first = case.model_copy(update={"channels": {"mr": case.channels["mr"].model_copy(update={"component": 0})}})
    second = case.model_copy(update={"channels": {"mr": case.channels["mr"].model_copy(update={"component": 1})}})
    assert module.case_key(first, stage) != module.case_key(second, stage)


def test_moved_run_keeps_its_cases(run: Run, tmp_path: Path) -> None:
    """A run folder on a machine that never saw the data."""
    preprocess(run, workers=1)
    moved = Run.open(shutil.move(run.path, tmp_path / "elsewhere"))
    shutil.rmtree(tmp_path / "data")
    before = stamps(moved.preprocessed("fullres"))
    assert stamps(preprocess(moved, workers=1)) == before


def test_cases_of_an_earlier_version(run: Run, tmp_path: Path) -> None:
    """They lack the positions that some recipes centre patches on, and are redone for such a recipe only."""
    folder = preprocess(run, workers=1)
    forget_places(folder / "case_1.foreground.npz")
    before = stamps(folder)
    assert stamps(preprocess(run, workers=1)) == before
    content = StoredCase(folder, "case_1").content
    run = change(run, "recipe.sampling.background=mask")
    after = stamps(preprocess(run, workers=1))
    assert redone(before, after) == {"case_1"}
    assert sorted(StoredCase(folder, "case_1").places) == ["healthy", "inside"]
    assert StoredCase(folder, "case_1").content == content
    assert stamps(preprocess(run, workers=1)) == after
    forget_places(folder / "case_1.foreground.npz")
    shutil.rmtree(tmp_path / "data")
    again = re.escape(f"plan it again into this run: 'autoseg plan NEW_PLACE --out {run.path}'")
    with pytest.raises(AutosegError, match=rf"case_1 has to be preprocessed, .* gone .*put back the plan .*{again}"):
        preprocess(run, workers=1)
    shutil.rmtree(folder)
    with pytest.raises(AutosegError, match=again) as raised:
        preprocess(run, workers=1)
    assert "put back the plan" not in str(raised.value)  # nothing is left of what it preprocessed


def test_unreadable_case_is_named(run: Run) -> None:
    path = run.dataset.case("case_1").channels["mr"].path
    path.write_bytes(b"no image")
    with pytest.raises(AutosegError, match=r"images/1\.nii\.gz"):
        preprocess(run, workers=1)
    assert (run.preprocessed("fullres") / "case_0.json").exists()


def test_missing_channel_is_refused_or_allowed(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan(channels=("mr", "ct")), cases=2)
    with pytest.raises(AutosegError, match="case_0 lacks the channel ct"):
        preprocess(run, workers=1)
    assert not list(run.preprocessed("fullres").glob("case_*"))
    run = change(run, "recipe.channel_dropout=0.3")
    assert (preprocess(run, workers=1) / "case_0.json").exists()
    run = change(run, "recipe.channel_dropout=0")
    run = change(run, "allow_missing_channels=true")
    case = StoredCase(preprocess(run, workers=1), "case_0")
    assert case.image().shape[0] == 2
    assert not case.image()[1].any()
    assert case.trace.present == case.present == (True, False)


def test_flat_configuration(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan(make_configuration((8, 8))), cases=2)
    assert np.array_equal(StoredCase(preprocess(run, workers=1), "case_0").label(), blob())


def test_anisotropic_target(tmp_path: Path) -> None:
    """Spacing 4 × 1 × 1 from 1 mm: slices are picked, not mixed."""
    run = make_run(tmp_path, make_plan(make_configuration(spacing=(4.0, 1.0, 1.0))), cases=2)
    case = StoredCase(preprocess(run, workers=1), "case_0")
    original = sitk.GetArrayFromImage(sitk.ReadImage(str(run.dataset.cases[0].label)))
    picked = [int((i + 0.5) * 10 / case.shape[0]) for i in range(case.shape[0])]
    assert case.trace.separate_axis == 0
    assert np.array_equal(case.label(), original[picked])


def test_memory_that_lacks_names_the_case(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object) -> None:
        raise MemoryError("Unable to allocate 235 GiB")

    monkeypatch.setattr(module, "preprocess_case", lacks)
    with pytest.raises(AutosegError, match=r"memory to preprocess case case_0 at the plan's spacing of 1×1×1 mm"):
        preprocess(run, workers=1)
