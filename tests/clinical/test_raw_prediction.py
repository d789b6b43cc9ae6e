"""What a run knows of its data's preparation, and the way from a prediction back to the files it was made of."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.clinical.raw_prediction import NativeResults, preparation_of, prepare_like_training, raw_exams_in
from autoseg.clinical.settings import ExamPreparation
from autoseg.clinical.transforms import PreparedCase
from autoseg.clinical.volumes import volumes
from autoseg.data.dataset import Dataset
from autoseg.inference.predictor import Outcome
from autoseg.runs.run import Run
from autoseg.utils.errors import UsageError
from autoseg.utils.files import write_json
from tests.builders import make_plan, make_run
from tests.dicom_series import write_series

PLAIN = ExamPreparation(coregister=False, skull_strip="none", spacing=(2.0, 2.0, 2.0))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch) -> None:
    for name in ("alignment_png", "mask_png"):
        monkeypatch.setattr(f"autoseg.clinical.quality_page.{name}", lambda *_: b"")


def write(path: Path, shape: tuple[int, int, int] = (6, 8, 8)) -> Path:
    image = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def run_of(folder: Path, settings: ExamPreparation | None) -> Run:
    """A run whose dataset was prepared so."""
    run = make_run(folder)
    stored = None if settings is None else settings.model_dump(mode="json")
    dataset = run.dataset.model_copy(update={"preparation": stored})
    return Run.create(run.path, run.plan, run.fingerprint, dataset, run.splits)


def test_runs_of_data_prepared_differently_predict_what_is_no_raw_exam(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", PLAIN), run_of(tmp_path / "b", None)]
    exam = write(tmp_path / "exam" / "t1.nii.gz").parent
    assert raw_exams_in(exam, runs, tmp_path / "out") is None
    write(exam / "t2.nii.gz", (3, 8, 8))  # on another grid: raw
    with pytest.raises(UsageError, match="prepared otherwise"):
        raw_exams_in(exam, runs, tmp_path / "out")


def test_a_template_of_the_user_s_own_travels_in_the_run(tmp_path: Path) -> None:
    atlas = write(tmp_path / "SRI24.nii.gz")
    run = run_of(tmp_path / "a", PLAIN.model_copy(update={"atlas": atlas}))
    atlas.unlink()
    settings = preparation_of([Run.open(run.path)])
    assert settings is not None
    assert settings.atlas is not None
    assert (settings.atlas.parent, settings.atlas.name) == (run.path, "template.nii.gz")
    assert sitk.ReadImage(str(settings.atlas)).GetSize() == (8, 8, 6)
    # Planned again for other data, it is gone; without the copy, as runs of before have none, the file counts.
    again = run_of(tmp_path / "a", PLAIN)
    assert again.template is None
    assert preparation_of([again]) == PLAIN


def test_native_results_say_what_they_are_and_lie_where_they_were_drawn(tmp_path: Path) -> None:
    """A cube of the prepared space, back on the scan's grid, with its structures' names."""
    write(tmp_path / "exam" / "t1.nii.gz", (12, 16, 16))
    outcome = prepare_like_training(tmp_path / "exam", tmp_path / "out", PLAIN)
    (case,) = Dataset.open(outcome.dataset).unlabelled
    label = sitk.ReadImage(str(case.channels["t1"].path)) > 1e9
    label[2:5, 3:5, 1:4] = 1
    there = tmp_path / "out" / "prepared_space" / f"{case.id}.nii.gz"
    there.parent.mkdir()
    sitk.WriteImage(label, str(there))
    told = {"cases": [case.id], "structures": {"outer": [1]}, "files": [there.name]}
    write_json(there.parent / "predictions.json", told)
    predictor = SimpleNamespace(target=make_plan().target, members=[SimpleNamespace(label_names={1: "outer"})])
    results = NativeResults(tmp_path / "out", exams=outcome)
    found = results.write(Outcome({case.id: there}), [case], predictor)  # type: ignore[arg-type]
    native = sitk.GetArrayFromImage(sitk.ReadImage(str(found.written[case.id])))
    drawn = np.zeros((12, 16, 16), np.uint8)
    drawn[2:8, 6:10, 4:10] = 1
    drawn[np.ix_((2, 7), (6, 9), (4, 9))] = 0  # ¾ to the third power is less than a half
    assert np.array_equal(native, drawn)
    (row,) = volumes(tmp_path / "out").exams
    assert row.ml == {"outer": pytest.approx((6 * 4 * 6 - 8) / 1000)}


def test_prepared_exams_of_a_prediction_find_their_files(tmp_path: Path) -> None:
    write(tmp_path / "exam" / "t1.nii.gz")
    outcome = prepare_like_training(tmp_path / "exam", tmp_path / "out", PLAIN)
    (case,) = Dataset.open(outcome.dataset).unlabelled
    stored = PreparedCase.read(outcome.dataset / case.id)
    with NativeResults(tmp_path / "native")._original(case, stored) as original:
        (channel,) = original.channels.values()
        assert channel.path == tmp_path / "exam" / "t1.nii.gz"


@pytest.mark.parametrize("links", [True, False])
def test_the_files_of_a_dicom_series_lie_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Where the system allows no links, as Windows by default, they are copied."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    written = write_series(tmp_path / "exam", np.arange(6 * 8 * 8).reshape(6, 8, 8))
    outcome = prepare_like_training(tmp_path / "exam", tmp_path / "out", PLAIN)
    (case,) = Dataset.open(outcome.dataset).unlabelled
    stored = PreparedCase.read(outcome.dataset / case.id)
    if not links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    with NativeResults(tmp_path / "native", exams=outcome)._original(case, stored) as original:
        (channel,) = original.channels.values()
        found = list(channel.path.iterdir())
        assert {path.is_symlink() for path in found} == {links}
        assert sorted(path.read_bytes() for path in found) == sorted(path.read_bytes() for path in written)


def test_a_series_that_no_case_has_is_refused_and_one_that_some_have_is_not(tmp_path: Path) -> None:
    write(tmp_path / "exams" / "a" / "t1.nii.gz")
    write(tmp_path / "exams" / "b" / "t1.nii.gz")
    write(tmp_path / "exams" / "b" / "t2.nii.gz")
    outcome = prepare_like_training(tmp_path / "exams", tmp_path / "out", PLAIN)
    cases = Dataset.open(outcome.dataset).unlabelled
    first, second = (PreparedCase.read(outcome.dataset / case.id) for case in cases)
    assert ("t2" in first.series, "t2" in second.series) == (False, True)
    NativeResults(tmp_path / "native", "t2").check(cases)
    with pytest.raises(UsageError, match=rf"--to-native t2: {cases[0].id} has no such series; it has t1"):
        NativeResults(tmp_path / "native", "t2").check(cases[:1])
    with pytest.raises(UsageError, match=rf"--to-native flair: {cases[0].id} has no such series"):
        NativeResults(tmp_path / "native", "flair").check(cases)
