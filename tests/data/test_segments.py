"""Names of segments in the headers of label maps, as 3D Slicer writes them."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autoseg.data.checks import check
from autoseg.data.dataset import Case, ChannelFile, Dataset
from tests.builders import blob, picture_of, write


def segmentation(path: Path, names: dict[int, str]) -> Path:
    image = sitk.GetImageFromArray(blob().astype(np.uint8))
    for number, (value, name) in enumerate(names.items()):
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
        image.SetMetaData(f"Segment{number}_Name", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def errors(root: Path, labels: dict[str, int], *names: dict[int, str]) -> list[str]:
    cases = [
        Case(
            id=f"c{n}",
            channels={"mr": ChannelFile(path=write(root / f"c{n}.nrrd", picture_of(blob(), seed=n)))},
            label=segmentation(root / f"c{n}.seg.nrrd", said),
        )
        for n, said in enumerate(names)
    ]
    dataset = Dataset(
        name="d", root=root, layout="manifest", channels=("mr",), labels=labels, cases=tuple(cases), file_ending=".nrrd"
    )
    return [f"{problem.case}: {problem.what}" for problem in check(dataset, workers=1) if problem.severity == "error"]


def test_the_same_names_in_every_case(tmp_path: Path) -> None:
    assert errors(tmp_path, {"Tumor": 1, "core": 2}, {1: "tumor", 2: "Core"}, {2: "core", 1: "Tumor"}, {}) == []
    assert errors(tmp_path / "b", {"a": 1, "b": 2}, {1: "x", 2: "y"}, {1: "x", 2: "y"}) == []


def test_a_value_with_another_name_in_another_case(tmp_path: Path) -> None:
    found = errors(tmp_path, {"tumor": 1, "core": 2}, {1: "tumor", 2: "core"}, {1: "core", 2: "tumor"})
    assert found == ["c1: its header calls 1 core, and that of c0 calls it tumor"]


def test_names_that_are_the_datasets_for_other_values(tmp_path: Path) -> None:
    found = errors(tmp_path, {"tumor": 1, "core": 2}, {1: "core", 2: "tumor"})
    assert found == ["c0: its header calls 1 core, and for the dataset 2 is that"]
