from pathlib import Path

import numpy as np
import pytest

from autoseg.data.checks import check
from autoseg.data.dataset import Dataset, load_case
from autoseg.data.layouts.manifest import parse
from autoseg.data.layouts.propose import propose
from autoseg.utils.errors import AutosegError
from tests.builders import write

LABEL = '[label]\nfile = "seg*.nii.gz"\nvalues = { background = 0, core = 1, edema = 2 }\n'


def make(folder: Path, text: str, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "autoseg.toml").write_text(text, encoding="utf-8")
    return folder


def test_case_folders(tmp_path):
    text = (
        f'name = "Toy"\n[channels]\nflair = "fl*.nii.gz"\nt1 = "t1.nii.gz"\n{LABEL}'
        'regions = { whole = [1, 2] }\nignore = 9\n[mask]\nfile = "brain.nii.gz"\n'
    )
    make(tmp_path, text, "p1/flair.nii.gz", "p1/t1.nii.gz", "p1/seg_a.nii.gz", "p1/brain.nii.gz", "p2/t1.nii.gz")
    make(tmp_path, text, "p3/other.nii.gz", "scripts/run.py", ".cache/t1.nii.gz")
    dataset = Dataset.open(tmp_path)
    assert (dataset.name, dataset.layout, dataset.channels) == ("Toy", "manifest", ("flair", "t1"))
    assert dataset.labels == {"core": 1, "edema": 2}
    assert dataset.regions == {"whole": (1, 2)}
    assert dataset.ignore_label == 9
    (case,) = dataset.cases
    assert case.channels["flair"].path == tmp_path / "p1/flair.nii.gz"
    assert case.mask == tmp_path / "p1/brain.nii.gz"
    unlabelled = {case.id: set(case.channels) for case in dataset.unlabelled}
    assert unlabelled == {"p2": {"t1"}, "p3": set()}, "scans that no pattern finds show up; other folders do not"


def test_flat_files_with_placeholders(tmp_path):
    text = '[channels]\nimage = "{id}.png"\n[label]\nfile = "{id}_mask.png"\nvalues = { cell = 1 }\n'
    make(tmp_path, text, "a_1.png", "a_1_mask.png", "b.png")
    dataset = Dataset.open(tmp_path)
    assert [case.id for case in dataset.cases] == ["a_1"], "the mask is no case of its own"
    assert [case.id for case in dataset.unlabelled] == ["b"]
    assert dataset.file_ending == ".png"


def test_one_file_for_several_channels(tmp_path):
    colours = "\n".join(f'{name} = {{ file = "{{id}}.png", component = {i} }}' for i, name in enumerate("rgb"))
    make(tmp_path, f"[channels]\n{colours}\n", "x.png")
    (case,) = Dataset.open(tmp_path).unlabelled
    assert [(c.path.name, c.component) for c in case.channels.values()] == [("x.png", i) for i in range(3)]


def test_placeholder_repeated(tmp_path):
    make(tmp_path, '[channels]\nt1 = "site*/{id}/{id}_t1.nii.gz"\n', "site1/p/p_t1.nii.gz", "site2/q/r_t1.nii.gz")
    assert [case.id for case in Dataset.open(tmp_path).unlabelled] == ["p"]


def test_table(tmp_path):
    text = (
        'csv = "scans.csv"\nid = "exam"\ngroup = "patient"\n[channels]\nt1 = "T1 file"\n'
        '[label]\nfile = "seg"\nvalues = { tumour = 1 }\n'
    )
    (tmp_path / "scans.csv").write_text("exam,patient,T1 file,seg\ne1,p1,x/1.nii.gz,1.nii.gz\ne2,p1,/abs/2.nii.gz,\n")
    dataset = Dataset.open(make(tmp_path, text))
    assert dataset.case("e1").channels["t1"].path == tmp_path / "x/1.nii.gz"
    assert dataset.case("e2").channels["t1"].path == Path("/abs/2.nii.gz")
    assert dataset.case("e2").label is None
    assert {case.group for case in (*dataset.cases, *dataset.unlabelled)} == {"p1"}
    assert Dataset.open(tmp_path / "scans.csv").cases == dataset.cases


def test_table_without_a_column(tmp_path):
    (tmp_path / "scans.csv").write_text("id,t1\na,b.nii.gz\n")
    make(tmp_path, 'csv = "scans.csv"\n[channels]\nt1 = "T1"\nt2 = "T2"\n')
    with pytest.raises(AutosegError, match=r"no column T1, T2.*its columns are id, t1"):
        Dataset.open(tmp_path)


def test_raters(tmp_path):
    text = (
        '[channels]\nt1 = "t1.nii.gz"\n[label]\nraters = { ann = "a.nii.gz", bob = "b.nii.gz" }\nvalues = { x = 1 }\n'
    )
    make(tmp_path, text, "p1/t1.nii.gz", "p1/a.nii.gz", "p1/b.nii.gz", "p2/t1.nii.gz", "p2/b.nii.gz")
    dataset = Dataset.open(tmp_path)
    assert dataset.case("p1").label == tmp_path / "p1/a.nii.gz"
    assert dataset.case("p2").label == tmp_path / "p2/b.nii.gz"
    assert list(dataset.case("p1").raters) == ["ann", "bob"]


def test_group_by_expression_and_nested_folders(tmp_path):
    text = 'folders = "*/*"\ngroup = "^(pat[0-9]+)_"\n[channels]\nt1 = "t1.nii.gz"\n'
    make(tmp_path, text, "a/pat1_x/t1.nii.gz", "b/pat1_y/t1.nii.gz", "b/other/t1.nii.gz")
    groups = {case.id: case.group for case in Dataset.open(tmp_path).unlabelled}
    assert groups == {"pat1_x": "pat1", "pat1_y": "pat1", "other": ""}


def test_the_folder_itself_as_one_exam(tmp_path):
    make(tmp_path / "exam7", 'folders = "."\n[channels]\nt1 = "t1.nii.gz"\n', "t1.nii.gz")
    (case,) = Dataset.open(tmp_path / "exam7").unlabelled
    assert case.id == "exam7"


def test_several_matches_are_all_named(tmp_path):
    make(tmp_path, '[channels]\nt1 = "t1*.nii.gz"\n', "p/t1.nii.gz", "p/t1c.nii.gz", "q/t1_a.nii.gz", "q/t1_b.nii.gz")
    with pytest.raises(AutosegError) as error:
        Dataset.open(tmp_path)
    assert all(name in str(error.value) for name in ("t1c.nii.gz", "t1_a.nii.gz", "t1_b.nii.gz"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[channels", "not valid TOML"),
        ("", "channels: this key is missing"),
        ('[channels]\nt1 = "a"\n[labels]\n', "labels: this key is unknown"),
        ('[channels]\nt1 = { file = "a", part = 1 }\n', "part: this key is unknown"),
        ('[channels]\nt1 = "a"\n[label]\nvalues = { x = 1 }\n', "label needs a file pattern"),
        ('[channels]\nt1 = "a"\n[label]\nfile = "b"\nvalues = { ignore = 3 }\n', "ignore = 3 under"),
        ('modalities = { t2 = "MRI" }\n[channels]\nt1 = "a"\n', "t2, which do not exist"),
    ],
)
def test_a_wrong_description_names_the_key(text, message):
    with pytest.raises(AutosegError, match=message):
        parse(text, Path("autoseg.toml"))


def test_a_region_of_unknown_values_is_refused(tmp_path):
    make(tmp_path, f'[channels]\nt1 = "t1.nii.gz"\n{LABEL}regions = {{ whole = [1, 7] }}\n', "p/t1.nii.gz")
    with pytest.raises(AutosegError, match=r"region whole has the values \[7\]"):
        Dataset.open(tmp_path)


@pytest.mark.data
def test_brats13(real_data):
    dataset = Dataset.open(real_data("brats13"))
    assert dataset.channels == ("flair", "t1c")
    assert len(dataset.cases) == 4
    assert dataset.regions["tumor_core"] == (1, 3, 4)
    assert all(len(case.files) == 4 for case in dataset.cases)


def test_latin_1_is_explained(tmp_path):
    (tmp_path / "scans.csv").write_bytes("id,größe\n".encode("latin-1"))
    with pytest.raises(AutosegError, match=r"scans\.csv is no CSV in UTF-8"):
        propose(tmp_path / "scans.csv")
    (tmp_path / "autoseg.toml").write_bytes('name = "Köln"\n'.encode("latin-1"))
    with pytest.raises(AutosegError, match=r"autoseg\.toml is no text in UTF-8 .*; save it again"):
        Dataset.open(tmp_path)


def test_a_description_comes_before_what_file_names_say(tmp_path, write_volume):
    name = "BraTS20_Training_001"
    write_volume(tmp_path / name / f"{name}_t1ce.nii.gz", np.ones((2, 3, 4), np.float32))
    assert Dataset.open(tmp_path).layout == "brats"
    (tmp_path / "autoseg.toml").write_text('[channels]\ncontrast = "*_t1ce.nii.gz"\n')
    assert Dataset.open(tmp_path).channels == ("contrast",)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_as_excel_saves_them(tmp_path, separator):
    """A byte order mark, backslashes, a column and a row without anything."""
    write(tmp_path / "scans" / "e1.nii.gz", np.ones((2, 3, 4), np.uint8))
    rows = [["exam", " scan", "label", ""], ["e1", "scans\\e1.nii.gz", "", ""], ["", "", "", ""]]
    text = "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    about = 'csv = "t.csv"\nid = "exam"\n[channels]\nct = "scan"\n[label]\nfile = "label"\nvalues = { x = 1 }\n'
    (tmp_path / "autoseg.toml").write_text("\ufeff" + about, encoding="utf-8")
    (case,) = Dataset.open(tmp_path).unlabelled
    assert case.channels["ct"].path == tmp_path / "scans" / "e1.nii.gz"


def test_a_mask_a_structure(tmp_path):
    left, right = np.zeros((2, 2, 3, 4), np.uint8)
    left[0], right[1] = 1, 1
    for name, array in (("ct", left + right), ("left", left), ("right", right)):
        write(tmp_path / "p1" / f"{name}.nii.gz", array)
    about = '[channels]\nct = "ct.nii.gz"\n[label]\nstructures = { left = "left.nii.gz", right = "right.nii.gz" }\n'
    (tmp_path / "autoseg.toml").write_text(about)
    dataset = Dataset.open(tmp_path)
    assert dataset.labels == {"left": 1, "right": 2}
    assert load_case(dataset.cases[0], ["ct"]).label[:, 0, 0].tolist() == [1, 2]
    (tmp_path / "autoseg.toml").write_text(about + "values = { x = 1 }\n")
    with pytest.raises(AutosegError, match="structures says all about the labels"):
        Dataset.open(tmp_path)


def test_files_left_out(tmp_path):
    for name in ("a", "b"):
        for kind in ("", "_ptv", "_seg"):
            write(tmp_path / f"{name}{kind}.nii.gz", np.ones((2, 3, 4), np.uint8))
    about = '[channels]\nct = "{id}.nii.gz"\n[label]\nfile = "{id}_seg.nii.gz"\nvalues = { x = 1 }\n'
    (tmp_path / "autoseg.toml").write_text('leave_out = ["{id}_ptv.nii.gz"]\n' + about)
    dataset = Dataset.open(tmp_path)
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.unlabelled == ()


def test_what_is_left_out_takes_nothing_of_a_pattern_that_says_more(tmp_path):
    label = LABEL.replace("seg*", "*_tumor_seg")
    text = f'leave_out = ["*_seg.nii.gz", "*old*"]\n[channels]\nt1 = "t1*.nii.gz"\n{label}'
    make(tmp_path, text, *(f"p1/{name}.nii.gz" for name in ("t1", "t1_old", "p1_seg", "p1_tumor_seg")))
    (case,) = Dataset.open(tmp_path).cases
    assert case.label.name == "p1_tumor_seg.nii.gz"
    assert case.channels["t1"].path.name == "t1.nii.gz"


@pytest.mark.parametrize("pattern", ["", "/x.nii.gz", "**.nii.gz"])
def test_what_is_no_pattern(tmp_path, pattern):
    (tmp_path / "p1").mkdir()
    (tmp_path / "autoseg.toml").write_text(f'[channels]\nct = "{pattern}"\n')
    with pytest.raises(AutosegError, match=r"is no pattern|find no case"):
        Dataset.open(tmp_path)


def test_one_of_several_words(tmp_path):
    """In patterns of files, in those of case folders, and of files in one place, whose cases may be called alike."""
    text = f'folders = "{{train,val}}/*"\n[channels]\nt1 = "{{t1,T1w}}.nii.gz"\n{LABEL}'
    files = ("train/a/t1.nii.gz", "train/a/seg.nii.gz", "val/b/T1w.nii.gz", "val/b/seg.nii.gz", "test/c/t1.nii.gz")
    dataset = Dataset.open(make(tmp_path / "folders", text, *files))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.unlabelled == ()
    text = (
        '[channels]\nt1 = "{train,val}/{id}.nii.gz"\n[label]\nfile = "{train,val}/{id}_seg.nii.gz"\n'
        "values = { core = 1 }\n"
    )
    names = ("train/a", "train/b", "val/b", "val/c", "test/d")
    files = [f"{name}{kind}.nii.gz" for name in names for kind in ("", "_seg")]
    dataset = Dataset.open(make(tmp_path / "files", text, *files))
    found = {case.id: case.channels["t1"].path.relative_to(tmp_path / "files").as_posix() for case in dataset.cases}
    assert found == {
        "a": "train/a.nii.gz",
        "c": "val/c.nii.gz",
        "train_b": "train/b.nii.gz",
        "val_b": "val/b.nii.gz",
    }
    assert {case.id: case.label.parent.name for case in dataset.cases}["val_b"] == "val"
    spelled = '[channels]\nt1 = "{id}/{t1,T1w}.nii.gz"\nflair = "{id}/{flair,FLAIR}.nii.gz"\n'
    (case,) = Dataset.open(make(tmp_path / "words", spelled, "a/T1w.nii.gz", "a/flair.nii.gz")).unlabelled
    assert (case.id, set(case.channels)) == ("a", {"t1", "flair"})


def test_linked_case_folders_keep_the_names_of_the_links(tmp_path):
    """Pseudonyms that lead to folders of the patients' names, two of which may be called alike."""
    make(tmp_path / "data", f'[channels]\nt1 = "t1.nii.gz"\n{LABEL}', "README")
    for number, name in enumerate(("Mueller_Hans", "site/Mueller_Hans", "Roe"), start=1):
        make(tmp_path / "archive" / name, "", "t1.nii.gz", "seg.nii.gz")
        (tmp_path / "data" / f"case_{number}").symlink_to(tmp_path / "archive" / name)
        dataset = Dataset.open(tmp_path / "data")
        assert [case.id for case in dataset.cases] == [f"case_{one}" for one in range(1, number + 1)]
    assert "Mueller" not in dataset.model_dump_json()


@pytest.mark.parametrize("locked", ["p1", "p1/b", "p1/b/masks"])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_folder_that_may_not_be_entered_is_named(tmp_path, lock, locked, by_name):
    """Its case, or its case's label, would be left out without a word."""
    inside, folders = ("{id}/b/", "") if by_name else ("", 'folders = "*/*"\n')
    label = LABEL.replace("seg*.nii.gz", f"{inside}masks/seg.nii.gz")
    text = f'{folders}[channels]\nt1 = "{inside}t1.nii.gz"\n{label}'
    make(tmp_path, text, *(f"{case}/b/{name}" for case in ("p1", "p2") for name in ("t1.nii.gz", "masks/seg.nii.gz")))
    assert len(Dataset.open(tmp_path).cases) == 2
    lock(tmp_path / locked)
    with pytest.raises(AutosegError, match=f"{tmp_path / locked}: you may not enter this folder; ask for the right to"):
        Dataset.open(tmp_path)


def test_linked_folders_hold_cases(tmp_path):
    make(tmp_path / "elsewhere", "", "c/t1.nii.gz", "images/a_t1.nii.gz")
    make(tmp_path / "cases", '[channels]\nt1 = "{id}/t1.nii.gz"\n', "b/t1.nii.gz")
    (tmp_path / "cases" / "c").symlink_to(tmp_path / "elsewhere" / "c")
    assert [case.id for case in Dataset.open(tmp_path / "cases").unlabelled] == ["b", "c"]
    (tmp_path / "flat").mkdir()
    make(tmp_path / "flat", '[channels]\nt1 = "images/{id}_t1.nii.gz"\n')
    (tmp_path / "flat" / "images").symlink_to(tmp_path / "elsewhere" / "images")
    assert [case.id for case in Dataset.open(tmp_path / "flat").unlabelled] == ["a"]


@pytest.mark.parametrize("pattern", ["{id}/t1.nii.gz", "t1.nii.gz", "t1*"])
def test_files_that_were_not_fetched_are_named(tmp_path, pattern):
    make(tmp_path, f'[channels]\nt1 = "{pattern}"\n')
    write(tmp_path / "a" / "t1.nii.gz", np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "t1.nii.gz").symlink_to(tmp_path / "annex" / "content")
    dataset = Dataset.open(tmp_path)
    assert [case.id for case in dataset.unlabelled] == ["a", "b"]
    assert [(p.case, p.what) for p in check(dataset, workers=1) if p.severity == "error"] == [
        ("b", "the file that it links to does not exist")
    ]


def test_a_pattern_of_the_mask_that_finds_nothing(tmp_path):
    text = '[channels]\nt1 = "t1.nii.gz"\n[mask]\nfile = "brain.nii.gz"\n'
    make(tmp_path, text, "p1/t1.nii.gz", "p2/t1.nii.gz")
    with pytest.raises(AutosegError, match=r"mask.file = brain.nii.gz finds no file"):
        Dataset.open(tmp_path)
    make(tmp_path, text, "p1/brain.nii.gz")
    assert [case.mask is None for case in Dataset.open(tmp_path).unlabelled] == [False, True]
