"""What a run knows of its data's preparation, and the way from a prediction back to the files it was made of."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.clinical.cohort import PreparationOutcome
from autoseg.clinical.raw_prediction import NativeResults, preparation_of, prepare_like_training, raw_exams_in
from autoseg.clinical.settings import ExamPreparation
from autoseg.clinical.transforms import PreparedCase
from autoseg.clinical.volumes import volumes
from autoseg.data.dataset import Case, Dataset
from autoseg.data.result_files import cases_told_in
from autoseg.inference.formats.format import RESULT_FORMATS
from autoseg.inference.predictor import Outcome
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, write_json
from tests.builders import make_plan, make_run
from tests.dicom_series import SmallSeries, pydicom, write_enhanced, write_series

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
    told = {"cases": {case.id: {}}, "structures": {"outer": [1]}, "files": [there.name]}
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


def test_a_native_result_takes_no_place_of_a_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own results, also those of a command that was killed, are replaced."""
    write(tmp_path / "exam" / "t1.nii.gz", (12, 16, 16))
    out = tmp_path / "out"
    outcome = prepare_like_training(tmp_path / "exam", out, PLAIN)
    cases, result = predicted(outcome, out)
    results, name = NativeResults(out, exams=outcome), f"{cases[0].id}.nii.gz"
    (out / name).write_bytes(b"drawn by hand")
    with pytest.raises(UsageError, match=rf"--out .*: {name} lies there already and is no result of autoseg"):
        results.check(cases)
    NativeResults(out, form=RESULT_FORMATS.find("nrrd"), exams=outcome).check(cases)
    (out / name).unlink()

    def killed(results: NativeResults, case: Case, *_: object) -> Path:
        results._path(case).write_bytes(b"written before the end")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(NativeResults, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            results.write(result, cases, PREDICTOR)  # type: ignore[arg-type]
    results.check(cases)
    assert results.write(result, cases, PREDICTOR).failed == {}  # type: ignore[arg-type]
    results.check(cases)


@pytest.mark.parametrize("earlier", [True, False])
def test_a_killed_command_claims_no_native_result_that_it_did_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    """Nor does it say of those of the weights before that they are of now."""
    for exam in "ab":
        write(tmp_path / "exams" / exam / "t1.nii.gz", (12, 16, 16))
    out = tmp_path / "out"
    outcome = prepare_like_training(tmp_path / "exams", out, PLAIN)
    cases, result = predicted(outcome, out)
    names = [f"{case.id}.nii.gz" for case in cases]
    told = {"cases": {case.id: {} for case in cases}, "kept_from_before": [], "files": names}
    write_json(out / "prepared_space" / "predictions.json", told)
    results = NativeResults(out, exams=outcome)
    first, second = (results._path(case) for case in cases)
    if earlier:
        for path in (first, second):
            path.write_bytes(b"of the weights before")
        runs = [{"run": "RUN", "weights": {"3d/fold_0": "of before"}}]
        write_json(out / "predictions.json", {**told, "runs": runs, "files": [first.name, second.name]})

    def killed(*_: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(NativeResults, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            results.write(result, cases, PREDICTOR)  # type: ignore[arg-type]
    assert not first.exists()
    assert cases_told_in(out) == {cases[0].id}
    assert read_json(out / "predictions.json")["files"] == [first.name, *([second.name] if earlier else [])]
    assert list(results.write(result, cases, PREDICTOR).written.values()) == [first, second]  # type: ignore[arg-type]
    assert cases_told_in(out) == {case.id for case in cases}


@pytest.mark.parametrize(
    ("otherwise", "stays"),
    [
        ({}, True),
        ({"runs": [{"run": "RUN", "weights": {"3d/fold_0": "of before"}}]}, False),
        ({"test_time_augmentation": False}, False),
        ({"scans": ["of before"]}, False),
    ],
)
def test_a_native_result_that_can_t_be_replaced_stays_where_it_is_of_the_same_model_and_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, otherwise: dict[str, object], stays: bool
) -> None:
    write(tmp_path / "exam" / "t1.nii.gz", (12, 16, 16))
    out = tmp_path / "out"
    outcome = prepare_like_training(tmp_path / "exam", out, PLAIN)
    (case,), result = predicted(outcome, out)
    results = NativeResults(out, exams=outcome)
    path = results._path(case)
    now = {
        "runs": [{"run": "RUN", "weights": {"3d/fold_0": "of now"}}],
        "test_time_augmentation": True,
        "cases": {case.id: {"seconds": 2, "scans": ["of now"]}},
        "files": [path.name],
    }
    write_json(out / "prepared_space" / "predictions.json", now)
    scans = otherwise.get("scans", ["of now"])
    write_json(out / "predictions.json", {**now, **otherwise, "cases": {case.id: {"seconds": 1, "scans": scans}}})
    path.write_bytes(b"of before")

    def gone(*_: object) -> Path:
        raise AutosegError("its series is gone")

    monkeypatch.setattr(NativeResults, "_write", gone)
    assert results.write(result, [case], PREDICTOR).failed == {case.id: "its series is gone"}  # type: ignore[arg-type]
    assert path.exists() == stays


def test_prepared_exams_of_a_prediction_find_their_files(tmp_path: Path) -> None:
    write(tmp_path / "exam" / "t1.nii.gz")
    outcome = prepare_like_training(tmp_path / "exam", tmp_path / "out", PLAIN)
    (case,) = Dataset.open(outcome.dataset).unlabelled
    stored = PreparedCase.read(outcome.dataset / case.id)
    with NativeResults(tmp_path / "native")._original(case, stored) as (original, _):
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
    with NativeResults(tmp_path / "native", exams=outcome)._original(case, stored) as (original, _):
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


def predicted(outcome: PreparationOutcome, out: Path) -> tuple[list[Case], Outcome]:
    """The prepared cases, and results of 1 everywhere, as a prediction leaves them in the prepared space."""
    cases = Dataset.open(outcome.dataset).unlabelled
    written = {}
    for case in cases:
        stored = PreparedCase.read(outcome.dataset / case.id)
        written[case.id] = out / "prepared_space" / f"{case.id}.nii.gz"
        written[case.id].parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(stored.output.empty() + 1, str(written[case.id]))
    write_json(out / "prepared_space" / "predictions.json", {"files": [path.name for path in written.values()]})
    return list(cases), Outcome(written)


PREDICTOR = SimpleNamespace(target=make_plan().target, members=[SimpleNamespace(label_names={1: "outer"})])


def dicom_series(folder: Path, number: int, description: str, like: SmallSeries, shape: tuple[int, ...]) -> None:
    for path in write_series(folder, np.arange(np.prod(shape)).reshape(shape), like):
        found = pydicom.dcmread(path)
        found.SeriesNumber, found.SeriesDescription = number, description
        found.save_as(path)


def test_an_exam_that_was_prepared_anew_is_predicted_anew(tmp_path: Path) -> None:
    """A finer scan comes later and defines another output space; the result of the first one is not drawn into it."""
    exam, out = tmp_path / "exam", tmp_path / "out"
    dicom_series(exam / "t1", 1, "T1", SmallSeries(series="1.2.5.1", description="T1"), (6, 8, 8))
    outcome = prepare_like_training(exam, out, PLAIN)
    cases, first = predicted(outcome, out)
    result = first.written[cases[0].id]
    further = result.with_name(f"{cases[0].id}_probability_outer.nii.gz")
    result.unlink()
    NativeResults(out, exams=outcome).renew(cases)
    predicted(outcome, out)
    for path in (further, result.with_name(f"{cases[0].id}1.nii.gz"), result.with_name("predictions.json")):
        path.write_bytes(b"{}")
    NativeResults(out, exams=prepare_like_training(exam, out, PLAIN)).renew(cases)
    assert result.is_file()  # of the same files

    finer = SmallSeries(series="1.2.5.2", between_slices=2.0, corner=(-20.0, 3.0, 11.0))
    dicom_series(exam / "t1c", 2, "T1 post", finer, (15, 9, 9))
    again = prepare_like_training(exam, out, PLAIN)
    assert PreparedCase.read(again.dataset / cases[0].id).reference == "series 2"
    results = NativeResults(out, exams=again)
    # Were it kept: it is refused.
    kept = results.write(first, cases, PREDICTOR)  # type: ignore[arg-type]
    assert "does not lie on the grid of its prepared exam" in kept.failed[cases[0].id]
    assert not list(out.glob("*.nii.gz"))
    results.renew(cases)
    left = [path.name for path in result.parent.iterdir()]
    assert sorted(left) == sorted([f"{cases[0].id}1.nii.gz", "predictions.json", "prepared_from.json"])
    assert results.write(predicted(again, out)[1], cases, PREDICTOR).failed == {}  # type: ignore[arg-type]


def test_a_dicom_seg_refers_to_the_series_that_is_named_and_not_to_one_like_it(tmp_path: Path) -> None:
    """Magnitude and phase lie on one grid; neither is a channel."""
    pytest.importorskip("highdicom")
    dicom_series(tmp_path / "exam" / "t1", 1, "T1", SmallSeries(series="1.2.5.1"), (6, 8, 8))
    for number, name in ((5, "SWI magnitude"), (7, "SWI phase")):
        like = SmallSeries(series=f"1.2.5.{number}", corner=(-10.0, 5.0, 28.0))
        dicom_series(tmp_path / "exam" / name, number, name, like, (7, 8, 8))
    out = tmp_path / "out"
    outcome = prepare_like_training(tmp_path / "exam", out, PLAIN)
    cases, result = predicted(outcome, out)
    for number in (5, 7):
        results = NativeResults(out, str(number), RESULT_FORMATS.find("dicom-seg"), exams=outcome)
        results.check(cases)
        found = results.write(result, cases, PREDICTOR)  # type: ignore[arg-type]
        (referenced,) = pydicom.dcmread(found.written[cases[0].id]).ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == f"1.2.5.{number}"


@pytest.mark.parametrize("shared", [True, False])
def test_a_dicom_seg_lies_on_the_frames_of_one_echo(tmp_path: Path, shared: bool) -> None:
    """An enhanced file of two echoes, frame by frame; the second one's are the even ones, counted from 1."""
    pytest.importorskip("highdicom")
    path = write_enhanced(tmp_path / "exam" / "one.dcm", np.arange(12 * 64).reshape(12, 8, 8), range(12))
    dataset = pydicom.dcmread(path)
    dataset.SeriesDescription = "T1"
    common = dataset.SharedFunctionalGroupsSequence[0]
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        echo = pydicom.Dataset()
        echo.EffectiveEchoTime = 90.0 if number % 2 else 9.0
        group.MREchoSequence = [echo]
        place = SmallSeries().point(0, 0, 5 - number // 2)  # the last slice comes first
        group.PlanePositionSequence[0].ImagePositionPatient = [f"{v:.8g}" for v in place]
        if not shared:
            group.PlaneOrientationSequence = list(common.PlaneOrientationSequence)
            group.PixelMeasuresSequence = list(common.PixelMeasuresSequence)
    if not shared:
        del common.PlaneOrientationSequence, common.PixelMeasuresSequence
    dataset.save_as(path)
    out = tmp_path / "out"
    outcome = prepare_like_training(tmp_path / "exam", out, PLAIN)
    assert {series.name: series.facts.echo_time for series in next(iter(outcome.exams.values())).series} == {
        "series 1.1": 9.0,
        "series 1.2": 90.0,
    }
    cases, result = predicted(outcome, out)
    results = NativeResults(out, "1.2", RESULT_FORMATS.find("dicom-seg"), exams=outcome)
    results.check(cases)
    found = results.write(result, cases, PREDICTOR)  # type: ignore[arg-type]
    assert found.failed == {}
    made = pydicom.dcmread(found.written[cases[0].id])
    numbers = []
    for frame in made.PerFrameFunctionalGroupsSequence:
        numbers.append(int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber))
        own = dataset.PerFrameFunctionalGroupsSequence[numbers[-1] - 1].PlanePositionSequence[0]
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(np.array(place, float), np.array(own.ImagePositionPatient, float))
    assert sorted(set(numbers)) == [2, 4, 6, 8, 10, 12]
