"""Raw exams in, native results back: prepare, plan, train, predict on DICOM, and on the prepared dataset."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.phantom import Cohort, generate
from autoseg.plans.files import load_plan
from tests.integration.conftest import Call

pydicom = pytest.importorskip("pydicom")

from tests.dicom_series import PATIENT_ID, SmallSeries, write_series  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_core")

#: Acquisition of each sequence, as at 1.5 T.
TIMES = {"t1": (500, 9, None), "t1c": (500, 9, None), "t2": (4000, 90, None), "flair": (9000, 90, 2500)}


def write_exam(folder: Path, case: Path) -> None:
    """A phantom as DICOM series without descriptions, on an oblique grid."""
    for number, (name, (tr, te, ti)) in enumerate(TIMES.items(), start=1):
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(case / f"{name}.nii.gz")))
        like = SmallSeries(
            pixel=(8.0, 8.0), between_slices=8.0, series=f"1.2.826.0.1.3680043.10.999.2.{number}", description=""
        )
        for path in write_series(folder / name, np.clip(voxels, 0, 3e4), like):
            found = pydicom.dcmread(path)
            found.SeriesNumber, found.RepetitionTime, found.EchoTime, found.BodyPartExamined = number, tr, te, "BRAIN"
            if ti:
                found.InversionTime = ti
            if name == "t1c":
                found.ContrastBolusAgent = "agent"
            found.save_as(path)


def test_from_raw_exams_to_native_results(tmp_path: Path, call: Call) -> None:
    phantoms = generate(tmp_path / "phantoms", Cohort(cases=2, shape=(20, 22, 18), spacing=(8.0, 8.0, 8.0)))
    for path in phantoms.glob("phantom_*"):
        (tmp_path / "exams" / path.name).mkdir(parents=True)
        for file in path.iterdir():
            (tmp_path / "exams" / path.name / file.name).write_bytes(file.read_bytes())
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "out"
    steps = ["--skull-strip", "none", "--no-coregister", "--spacing", 8, 8, 8]
    code, _, err = call("prepare", tmp_path / "exams", "--out", data, *steps, "--workers", 1)
    assert code == 0, err
    plan = ["plan", data, "--out", run, "--device", "cuda", "--gpu-memory", 4, "--workers", 1, "--folds", 2]
    assert call(*plan)[0] == 0
    name = load_plan(run / "plan.json").recommended
    stages = len(load_plan(run / "plan.json").configurations[name].network.features)
    settings = {"recipe.epochs": 1, "recipe.iterations_per_epoch": 2, "recipe.validate_cases": 1, "batch_size": 2}
    settings |= {"recipe.precision": "fp32", "network.features": [4] * stages}
    assert call(*plan, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")))[0] == 0
    code, _, err = call("train", run, "--fold", "0", "--device", "cpu", "--workers", 1)
    assert code == 0, err

    write_exam(tmp_path / "Doe Jane", phantoms / "phantom_001")
    predict = ["predict", run, tmp_path / "Doe Jane", "--out", out, "--device", "cpu", "--no-tta", "--json"]
    code, printed, err = call(*predict)
    assert code == 0, err
    assert "no contrast agent" in err
    assert "Doe" not in printed.replace(str(tmp_path), "") + err.replace(str(tmp_path), "")
    (case,) = json.loads(printed)["written"]
    result = sitk.ReadImage(str(out / f"{case}.nii.gz"))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "Doe Jane" / "t1c")))
    scan = reader.Execute()
    assert result.GetSize() == scan.GetSize()
    assert result.GetOrigin() == pytest.approx(scan.GetOrigin(), abs=1e-3)
    assert result.GetDirection() == pytest.approx(scan.GetDirection(), abs=1e-4)
    assert PATIENT_ID in (tmp_path / "out_pseudonyms.csv").read_text()
    told = json.loads((out / "predictions.json").read_text())
    assert (told["files"], list(told["cases"])) == ([f"{case}.nii.gz"], [case])

    # Prepared cases go back to any of their series, and a series that is not there is refused before anything is done.
    code, printed, err = call("predict", run, data, "--out", tmp_path / "b", "--to-native", "flair", "--device", "cpu",
                              "--no-tta", "--json")  # fmt: skip
    assert code == 0, err
    native = sitk.ReadImage(next(iter(json.loads(printed)["written"].values())))
    assert native.GetSize() == sitk.ReadImage(str(phantoms / "phantom_001" / "flair.nii.gz")).GetSize()
    code, _, err = call("predict", run, data, "--out", tmp_path / "c", "--to-native", "dwi", "--device", "cpu")
    assert code == 2
    assert "has no such series" in err

    pytest.importorskip("highdicom")
    code, printed, err = call(*predict, "--format", "dicom-seg")
    assert code == 0, err
    found = pydicom.dcmread(out / f"{case}.dcm")
    assert (found.Modality, found.PatientID) == ("SEG", PATIENT_ID)
    # From the prepared dataset, too: the table of pseudonyms leads to the files. A user prepares it likewise.
    prepared = out / "prepared_exams"
    code, _, err = call("prepare", tmp_path / "Doe Jane", "--out", tmp_path / "like", "--like", run, "--workers", 1)
    assert code == 0, err
    stored = [json.loads((folder / "preparation.json").read_text()) for folder in (prepared, tmp_path / "like")]
    assert stored[0] == stored[1]
    again = ["predict", run, prepared, "--out", tmp_path / "d", "--to-native", "t2", "--format", "dicom-seg", "--all"]
    code, _, err = call(*again, "--device", "cpu", "--no-tta")
    assert code == 0, err
    assert pydicom.dcmread(tmp_path / "d" / f"{case}.dcm").PatientID == PATIENT_ID
