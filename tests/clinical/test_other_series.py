"""Series that became no channel lie as the channel does whose grid or frame of reference they share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.clinical import other_series
from autoseg.clinical.choice import choose_series
from autoseg.clinical.exams import Exam
from autoseg.clinical.other_series import OtherSeries, Registered, doubts_of_frames, place_others
from autoseg.clinical.registration import Alignment
from autoseg.clinical.series import Identity, SequenceFacts, Series
from autoseg.data.geometry import Geometry

GRID = Geometry((12, 12, 6), (2.0, 2.0, 4.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def series(number: int, description: str, grid: Geometry = GRID, frame: str = "f") -> Series:
    facts = SequenceFacts(modality="MR", description=description, number=number)
    return Series(f"series {number}", (), grid, facts, Identity(frame=frame), dicom=True)


def moved(x: float) -> sitk.Euler3DTransform:
    found = sitk.Euler3DTransform()
    found.SetTranslation((x, 0, 0))
    return found


def placed(*found: Series, aligned: bool = True) -> OtherSeries:
    choice = choose_series(Exam(Path("/e"), "p", found), {}, None)
    motions = {"t1c": moved(0), "t2": moved(7), "flair": moved(3)}
    image = sitk.Image([12, 12, 6], sitk.sitkFloat32)
    transforms = {channel: motions[channel] for channel in choice.channels}
    return place_others(Registered(choice, "t1c", image, transforms, image > 0, aligned), 1.02, 4.0)


def shifts(found: OtherSeries) -> dict[str, float]:
    return {one.name: transform.TransformPoint((0, 0, 0))[0] for one, transform in found.placed}


OTHER = Geometry((10, 10, 5), (2.0, 2.0, 5.0), (1.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def test_one_grid_then_one_frame_and_the_closest_number() -> None:
    t2 = Geometry((12, 12, 6), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    found = placed(
        series(1, "T1 post"),
        series(9, "T2", t2),
        series(2, "T2 DWI", t2),  # on the grid of the T2
        series(8, "SWI", OTHER),  # next to the T2 in time
        series(3, "localizer", OTHER),  # next to the T1
    )
    assert shifts(found) == {"series 2": 7, "series 8": 7, "series 3": 0}
    assert found.unplaced == {}
    assert len(found.log) == 3


def test_what_shares_nothing_is_aligned_if_it_could_have_been_a_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Alignment(moved(4), 1.05, 1.2, 0.0, 0.0, moved=4.0)
    monkeypatch.setattr(other_series, "read_series", lambda one: sitk.Image([2, 2, 2], sitk.sitkFloat32))
    monkeypatch.setattr(other_series, "align_rigidly", lambda *_: result)
    monkeypatch.setattr(other_series, "refine", lambda *_: result)
    exam = (series(1, "T1 post"), series(2, "T1 post", OTHER, "else"), series(3, "localizer", OTHER, "else"))
    found = placed(*exam)
    assert shifts(found) == {"series 2": 4}
    assert list(found.unplaced) == ["series 3"]
    assert "shares no frame of reference" in found.unplaced["series 3"]
    result = replace(result, after=1.01)
    assert "could not be aligned for sure" in placed(*exam).unplaced["series 2"]


def test_where_nothing_is_aligned_positions_are_the_headers() -> None:
    found = placed(series(1, "T1 post"), series(2, "dwi", OTHER, "else"), aligned=False)
    assert shifts(found) == {"series 2": 0}
    assert found.log == ["series 2 has another frame of reference than t1c, and is not aligned"]


def test_channels_of_several_frames_of_reference_that_nothing_aligns_are_flagged() -> None:
    def doubts(aligned: bool, *frames: str) -> list[str]:
        named = zip(("T1 post", "T2", "FLAIR"), frames, strict=True)
        exam = [series(number, name, frame=frame) for number, (name, frame) in enumerate(named, start=1)]
        choice = choose_series(Exam(Path("/e"), "p", tuple(exam)), {}, None)
        image = sitk.Image([12, 12, 6], sitk.sitkFloat32)
        return doubts_of_frames(Registered(choice, "t1c", image, {}, image > 0, aligned))

    (flag,) = doubts(False, "f", "f", "else")
    assert flag.startswith("flair and the reference have different frames of reference")
    assert doubts(True, "f", "f", "else") == doubts(False, "f", "f", "f") == doubts(False, "f", "", "f") == []
    assert doubts(False, "", "f", "else") == []  # the reference does not say


def test_results_go_back_to_a_series_that_is_no_channel_or_it_is_said_why(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from autoseg.clinical.cohort import PreparationRequest, prepare_exams
    from autoseg.clinical.settings import ExamPreparation
    from autoseg.clinical.transforms import PreparedCase, to_native
    from autoseg.utils.errors import UsageError
    from tests.dicom_series import SmallSeries, write_series

    voxels = np.random.default_rng(0).integers(0, 500, (8, 24, 20))
    like = SmallSeries(pixel=(2.0, 2.0))
    write_series(tmp_path / "e" / "t1c", voxels, like)
    other = replace(like, series="1.2.5", description="localizer", pixel=(3.0, 3.0), between_slices=7.0)
    write_series(tmp_path / "e" / "loc", voxels[:4], other)
    settings = ExamPreparation(coregister=False, skull_strip="none", spacing=(2.0, 2.0, 2.0))
    outcome = prepare_exams(tmp_path / "e", tmp_path / "d", PreparationRequest(settings, workers=1))
    (folder,) = outcome.prepared.values()
    case = PreparedCase.read(folder)
    names = {stored.channel: name for name, stored in case.series.items()}
    label = sitk.ReadImage(str(folder / "t1c.nii.gz")) > -1
    back = to_native(sitk.Cast(label, sitk.sitkUInt8), case, names[None])
    assert back.GetSize() == (20, 24, 4)
    assert sitk.GetArrayViewFromImage(back)[:, :10, :10].all()
    lost = case.model_copy(update={"series": {}, "unplaced": {"series 3": "it shares nothing"}})
    with pytest.raises(UsageError, match="no way to series 3: it shares nothing"):
        lost.find("3")
