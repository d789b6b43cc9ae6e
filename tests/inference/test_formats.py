"""Results in the formats that a user asks for: read back by other libraries."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydantic import ValidationError

from autoseg.data.dataset import Case, ChannelFile
from autoseg.data.geometry import Geometry
from autoseg.data.segments import segment_names
from autoseg.inference.formats.format import RESULT_FORMATS, write_label
from autoseg.inference.label_schemes import brats_scheme
from autoseg.inference.segments import segments_of
from autoseg.plans.overrides import override
from autoseg.plans.plan import Plan
from autoseg.plans.target import Output, Target
from autoseg.utils.errors import UsageError
from tests.builders import REGIONS, Perfect, blob, make_plan
from tests.inference.test_predictor import case_of, member, predictor


@pytest.fixture
def regions() -> Plan:
    return make_plan(target=REGIONS)


def test_image_formats_hold_the_same_label_map(tmp_path: Path) -> None:
    case = case_of(tmp_path, "c", blob())
    for name, ending in (("nifti", ".nii.gz"), ("mha", ".mha"), ("nrrd", ".seg.nrrd")):
        form = RESULT_FORMATS.find(name)
        outcome = predictor().predict([case], tmp_path / name, ["probabilities"], form=form)
        assert outcome.written == {"c": tmp_path / name / f"c{ending}"}
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(outcome.written["c"]))), blob())
        numbers = {"nrrd": ".nrrd"}.get(name, ending)
        assert (tmp_path / name / f"c_probability_outer{numbers}").is_file()
    with pytest.raises(UsageError, match=r"--format tiff is unknown; choose one of"):
        RESULT_FORMATS.find("tiff")


@pytest.mark.parametrize("ending", [".png", ".tif", ".nii.gz"])
@pytest.mark.parametrize(("most", "kind"), [(255, np.int16), (1000, np.int16), (40000, np.int32)])
def test_pictures_of_large_label_values(tmp_path: Path, ending: str, most: int, kind: type) -> None:
    label = np.array([[[0, 3, most], [most, 0, 1]]], kind)
    geometry = Geometry((3, 2), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    write_label(tmp_path / f"x{ending}", label, geometry)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"x{ending}")))
    assert np.array_equal(written.reshape(label.shape), label)
    assert written.dtype == (np.uint8 if most == 255 else kind if ending == ".nii.gz" else np.uint16)


def test_slicer_gets_names_and_colours(tmp_path: Path) -> None:
    plan = make_plan()
    plan = override(plan, ["target.outputs.inner.colour=#102030"])
    form = RESULT_FORMATS.find("nrrd")
    predictor(member(plan=plan)).predict([case_of(tmp_path, "c", blob())], tmp_path / "out", form=form)
    path = tmp_path / "out" / "c.seg.nrrd"
    assert segment_names(path) == {1: "outer", 2: "inner"}
    header = sitk.ReadImage(str(path))
    colour = [float(v) for v in header.GetMetaData("Segment1_Color").split()]
    assert colour == pytest.approx([16 / 255, 32 / 255, 48 / 255], abs=1e-5)
    assert header.GetMetaData("Segment1_LabelValue") == "2"


def test_parts_of_regions_are_called_as_the_labels_of_the_training_data(tmp_path: Path, regions: Plan) -> None:
    form = RESULT_FORMATS.find("nrrd")
    trained = member(Perfect(REGIONS), regions)
    trained.label_names.update({1: "shell", 2: "kernel"})
    predictor(trained).predict([case_of(tmp_path, "c", blob())], tmp_path / "out", form=form)
    assert segment_names(tmp_path / "out" / "c.seg.nrrd") == {1: "shell", 2: "kernel"}


def test_looks_of_an_output_are_checked_and_written_only_where_given() -> None:
    plain = Output(name="a", values=[1], paint=1)
    assert set(plain.model_dump()) == {"reasons", "name", "values", "paint"}
    given = Output(name="a", values=[1], paint=1, colour="#00ff00", code="SCT:108369006:Neoplasm")
    assert Output.model_validate(given.model_dump()) == given
    for wrong in ({"colour": "green"}, {"code": "108369006"}):
        with pytest.raises(ValidationError):
            Output(name="a", values=[1], paint=1, **wrong)


GLIOMA = Target(
    kind="regions",
    outputs=[
        Output(name="whole_tumor", values=[1, 2, 3], paint=2),
        Output(name="tumor_core", values=[1, 3], paint=1),
        Output(name="enhancing_tumor", values=[3], paint=3),
    ],
)


def test_brats_labels_of_regions_and_of_labels() -> None:
    assert brats_scheme(GLIOMA, "2021").values == {1: 1, 2: 2, 3: 4}
    assert brats_scheme(GLIOMA, "2023").values == {1: 1, 2: 2, 3: 3}
    names = {"ET": 1, "edema": 2, "NCR": 3, "non-enhancing": 4}
    outputs = [Output(name=name, values=[value], paint=value) for name, value in names.items()]
    assert brats_scheme(Target(kind="labels", outputs=outputs), "2021").values == {1: 4, 2: 2, 3: 1, 4: 1}


def test_outputs_that_a_challenge_makes_the_same_are_one_segment() -> None:
    names = {"ET": 1, "edema": 2, "NCR": 3, "non-enhancing": 4}
    target = Target(kind="labels", outputs=[Output(name=n, values=[v], paint=v) for n, v in names.items()])
    found = segments_of(target, brats_scheme(target, "2021").values)
    assert {segment.name: segment.values for segment in found} == {"ET": (4,), "edema": (2,), "NCR": (1,)}
    assert [segment.name for segment in segments_of(target)] == list(names)


def test_brats_labels_need_the_structures_of_the_challenge() -> None:
    with pytest.raises(UsageError, match=r"choose 2021 .* or 2023"):
        brats_scheme(GLIOMA, "2020")
    with pytest.raises(UsageError, match="outer is no structure of the challenge"):
        brats_scheme(make_plan().target, "2023")
    with pytest.raises(UsageError, match="this one segments whole_tumor, tumor_core"):
        brats_scheme(Target(kind="regions", outputs=GLIOMA.outputs[:2]), "2023")


def test_values_of_a_challenge_are_written(tmp_path: Path) -> None:
    names = {"necrosis": 1, "edema": 2}
    outputs = [Output(name=name, values=[value], paint=value) for name, value in names.items()]
    plan = make_plan(target=Target(kind="labels", outputs=outputs))
    scheme = brats_scheme(GLIOMA, "2021")
    swapped = type(scheme)("swapped", {1: 4, 2: 1})
    found = predictor(member(plan=plan))
    found.predict([case_of(tmp_path, "c", blob())], tmp_path / "out", scheme=swapped)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "c.nii.gz")))
    assert np.array_equal(written, np.choose(blob(), [0, 4, 1]))
    assert '"necrosis": 4' in (tmp_path / "out" / "predictions.json").read_text()


def test_only_dicom_gets_a_dicom_seg(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    form = RESULT_FORMATS.find("dicom-seg")
    cases = [case_of(tmp_path, name, blob()) for name in ("a", "b")]
    with pytest.raises(UsageError, match=r"a\.nii\.gz is no DICOM series, which a DICOM-SEG has to refer to; give"):
        predictor().predict(cases, tmp_path / "out", form=form)


def series_case(folder: Path) -> Case:
    from tests.dicom_series import SmallSeries, write_series

    # The voxels of a millimetre that the plan is for: the truth comes out unchanged.
    like = SmallSeries(pixel=(1.0, 1.0), between_slices=1.0)
    write_series(folder, 100 * blob() + 1, like)
    return Case(id="exam", channels={"mr": ChannelFile(path=folder)})


def test_a_dicom_seg_has_the_frames_of_the_nifti(tmp_path: Path, regions: Plan) -> None:
    highdicom = pytest.importorskip("highdicom")
    from tests.dicom_series import OBLIQUE, PATIENT, PATIENT_ID, SmallSeries, pydicom

    case = series_case(tmp_path / "scan")
    trained = predictor(member(Perfect(REGIONS), regions))
    good = case_of(tmp_path, "plain", blob())
    trained.predict([case], tmp_path / "nifti")
    outcome = trained.predict([case, good], tmp_path / "seg", form=RESULT_FORMATS.find("dicom-seg"))
    assert set(outcome.written) == {"exam"}
    assert "plain.nii.gz is no DICOM series" in outcome.failed["plain"]

    nifti = sitk.ReadImage(str(tmp_path / "nifti" / "exam.nii.gz"))
    voxels = sitk.GetArrayFromImage(nifti)
    assert np.array_equal(voxels, blob())
    dataset = pydicom.dcmread(outcome.written["exam"])
    assert (dataset.PatientName, dataset.PatientID) == (PATIENT, PATIENT_ID)
    assert dataset.StudyInstanceUID == SmallSeries().study
    assert dataset.FrameOfReferenceUID == SmallSeries().frame
    for text in ((tmp_path / "seg" / "predictions.json").read_text(), *(str(p) for p in (tmp_path / "seg").iterdir())):
        assert PATIENT_ID not in text
        assert "Doe" not in text

    # Every frame by pydicom: the segment it is of, where it lies, and the slice of the scan that it is made from.
    scans = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path) for path in (tmp_path / "scan").iterdir()}
    seen = np.zeros((2, *voxels.shape), bool)
    for frame, plane in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        position = [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        seen[number - 1, nifti.TransformPhysicalPointToIndex(position)[2]] = plane
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert [float(v) for v in scans[source].ImagePositionPatient] == pytest.approx(position)
    assert np.array_equal(seen[0], voxels >= 1)
    assert np.array_equal(seen[1], voxels == 2)

    # And by highdicom, with its geometry.
    made = highdicom.seg.segread(outcome.written["exam"])
    volume = made.get_volume(segment_numbers=[2])
    assert volume.array.sum() == (voxels == 2).sum()
    assert np.allclose(volume.direction[:, 2], OBLIQUE[:3], atol=1e-6)
    first, second = made.SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == ("whole", "inner")
    assert first.SegmentAlgorithmType == "AUTOMATIC"


def test_a_faulty_header_is_told_without_its_values(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from tests.dicom_series import pydicom

    case = series_case(tmp_path / "scan")
    for path in (tmp_path / "scan").iterdir():
        data = path.read_bytes()
        # A date of birth as no standard has it; pydicom itself would refuse to write it.
        path.write_bytes(data.replace(b"19500102", b"1950-1-2"))
        assert pydicom.dcmread(path)["PatientBirthDate"].VR == "DA"
    outcome = predictor().predict([case], tmp_path / "seg", form=RESULT_FORMATS.find("dicom-seg"))
    reason = outcome.failed["exam"]
    assert "PatientBirthDate in its headers is missing or not as the standard wants" in reason
    assert "1950" not in reason


def test_results_do_not_go_among_the_slices(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    case = series_case(tmp_path / "scan")
    with pytest.raises(UsageError, match="the result would overwrite"):
        predictor().predict([case], tmp_path / "scan")


def test_an_empty_result_is_a_dicom_seg_too(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    from tests.dicom_series import write_series

    write_series(tmp_path / "scan", np.pad(np.ones((3, 4, 5)), 1) + 1)
    case = Case(id="exam", channels={"mr": ChannelFile(path=tmp_path / "scan")})
    outcome = predictor().predict([case], tmp_path / "seg", form=RESULT_FORMATS.find("dicom-seg"))
    made = highdicom.seg.segread(outcome.written["exam"])
    assert not made.pixel_array.any()


def test_frames_of_an_enhanced_file_are_kept_in_its_order(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from autoseg.data.dicom_series import stack_at
    from autoseg.inference.formats.dicom_seg import write_dicom_seg
    from tests.dicom_series import SmallSeries, pydicom, write_enhanced

    order = [3, 0, 6, 1, 5, 2, 4]
    stack = stack_at(write_enhanced(tmp_path / "scan.dcm", np.ones((7, 5, 6), np.int16), order))
    label = np.zeros((7, 5, 6), np.uint8)
    label[[1, 4], 1:3, 2:4] = 1
    write_dicom_seg(tmp_path / "seg.dcm", label, segments_of(make_plan().target), stack)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    found = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in dataset.PerFrameFunctionalGroupsSequence]
    expected = [SmallSeries().point(0, 0, n) for n in (1, 4)]
    assert np.allclose(sorted(map(tuple, np.array(found, float))), sorted(map(tuple, expected)), atol=1e-3)


def test_codes_are_those_of_dicom() -> None:
    pytest.importorskip("pydicom")
    from autoseg.inference.formats.codes import structure_codes

    # DICOM PS3.16: CID 7151 "Segmentation Property Types", CID 7150 categories, SNOMED CT and NCI Thesaurus.
    expected = {
        "edema": ("79654002", "SCT", "49755003"),
        "Necrosis": ("6574001", "SCT", "49755003"),
        "whole_tumor": ("108369006", "SCT", "49755003"),
        "GTV_Mass": ("108369006", "SCT", "49755003"),
        "enhancing": ("C113842", "NCIt", "49755003"),
        "liver": ("10200004", "SCT", "91723000"),
        "spinal cord": ("2748008", "SCT", "91723000"),
        "foo": ("85756007", "SCT", "85756007"),
    }
    for name, (value, scheme, category) in expected.items():
        found = structure_codes(name)
        assert (found.kind.value, found.kind.scheme_designator, found.category.value) == (value, scheme, category)
        assert found.side is None
    kidney = structure_codes("kidney_left")
    assert (kidney.kind.value, kidney.side.meaning) == ("64033007", "Left")
    assert structure_codes("LeftKidney") == structure_codes("kidneyLeft") == kidney
    given = structure_codes("foo", "SCT:12738006:Brain")
    assert (given.kind.value, given.kind.meaning) == ("12738006", "Brain")
