from pathlib import Path

import pytest

from autoseg.data.dataset import Dataset
from autoseg.data.description import Case, ChannelFile, Description
from autoseg.data.layouts.layout import LAYOUTS, Layout, by_rank, recognise_layout
from autoseg.utils.errors import AutosegError


def _recognise(path: Path) -> bool:
    return (path / "cohort.txt").is_file()


def _read(path: Path) -> Description:
    names = (path / "cohort.txt").read_text().split()
    cases = tuple(Case(id=name, channels={"ct": ChannelFile(path=path / f"{name}.nii.gz")}) for name in names)
    return Description(
        name="cohort", root=path, layout="cohort", channels=("ct",), labels={}, cases=(), unlabelled=cases
    )


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS.names()
    monkeypatch.setattr(LAYOUTS, "_things", dict(LAYOUTS._things))


def test_what_a_user_described_comes_first() -> None:
    assert by_rank() == ["manifest", "nnunet", "msd", "brats", "bids", "structures", "dicom", "proposed"]


def test_a_registered_layout_is_recognised_and_read(tmp_path: Path) -> None:
    (tmp_path / "cohort.txt").write_text("b a")
    assert recognise_layout(tmp_path) is None
    LAYOUTS.register("cohort", Layout(_recognise, _read))
    assert recognise_layout(tmp_path) == "cohort"
    dataset = Dataset.open(tmp_path)
    assert type(dataset) is Dataset
    assert [case.id for case in dataset.unlabelled] == ["b", "a"]
    assert Dataset.model_validate_json(dataset.model_dump_json()) == dataset
    assert Dataset.open(tmp_path, layout="cohort") == dataset


@pytest.mark.parametrize("name", ["../evil", "sub-01/ses-01", ".hidden", "a\\b", "x" * 201])
def test_a_case_that_files_can_not_be_named_after_is_refused_by_every_layout(tmp_path, write_json, name) -> None:
    """Results would be written into other folders, or not found again."""
    write_json(
        tmp_path / "nnunet" / "dataset.json",
        {
            "channel_names": {"0": "mr"},
            "labels": {"background": 0, "one": 1},
            "file_ending": ".nii.gz",
            "dataset": {name: {"images": ["a.nii.gz"], "label": "l.nii.gz"}},
        },
    )
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "t.csv").write_text(f"id,mr\n{name},a.nii.gz\n")
    (tmp_path / "table" / "autoseg.toml").write_text('csv = "t.csv"\n[channels]\nmr = "mr"\n')
    for folder in ("nnunet", "table"):
        with pytest.raises(AutosegError, match=r"can't be a case's name, since results are named after it") as refused:
            Dataset.open(tmp_path / folder)
        assert str(refused.value).startswith(str(tmp_path / folder))
