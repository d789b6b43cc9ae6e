"""Each file is decoded once to be checked and measured, and once to be preprocessed."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import SimpleITK as sitk

from autoseg.data.checks import examine
from autoseg.data.dataset import Dataset, load_case
from autoseg.data.formats import nifti
from autoseg.data.phantom import Cohort, generate


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """Files that are decoded, by either reader."""
    counts: Counter[Path] = Counter()
    own, theirs = nifti.stored_voxels, sitk.ReadImage
    monkeypatch.setattr(nifti, "stored_voxels", lambda path: (counts.update([Path(path)]), own(path))[1])
    monkeypatch.setattr(sitk, "ReadImage", lambda path, *more: (counts.update([Path(path)]), theirs(path, *more))[1])
    return counts


def test_each_file_is_decoded_once_a_purpose(tmp_path: Path, decoded: Counter[Path]) -> None:
    generate(tmp_path / "dataset", Cohort(cases=1))
    decoded.clear()
    dataset = Dataset.open(tmp_path / "dataset")
    case = dataset.cases[0]
    examination = examine(dataset, workers=1)
    assert examination.fingerprint is not None
    assert {path: decoded[path] for path in case.files} == dict.fromkeys(case.files, 1)
    decoded.clear()
    load_case(case, dataset.channels)
    assert {path: decoded[path] for path in case.files} == dict.fromkeys(case.files, 1)


def test_what_workers_import_is_light() -> None:
    code = (
        "import sys, autoseg.data.checks, autoseg.preprocessing.dataset\n"
        "print([name for name in ('torch', 'skimage', 'SimpleITK') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
