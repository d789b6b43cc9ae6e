import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.checks import check, examine, warnings_in
from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.data.fingerprint import fingerprint
from autoseg.data.problems import Problem

SHAPE = (4, 5, 6)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def build(tmp_path, write_volume, rng):
    """A dataset from arrays: ``build(case={"a": array, "b": array, "label": array})``; healthy parts by default."""

    def make(unlabelled=(), labels=None, ignore=None, ending=".nii.gz", **cases):
        found, test = [], []
        for name, parts in cases.items():
            channels, extra = {}, {}
            for role, content in parts.items():
                path = content
                if isinstance(content, np.ndarray):
                    path = write_volume(tmp_path / name / f"{role}{ending}", content)
                if role in ("a", "b"):
                    channels[role] = path if isinstance(path, ChannelFile) else ChannelFile(path=path)
                else:
                    extra[role] = path
            (test if name in unlabelled else found).append(Case(id=name, channels=channels, **extra))
        return Dataset(
            name="toy",
            root=tmp_path,
            layout="manifest",
            channels=("a", "b"),
            labels={"x": 1, "y": 2} if labels is None else labels,
            ignore_label=ignore,
            cases=tuple(found),
            unlabelled=tuple(test),
        )

    return make


@pytest.fixture
def image(rng):
    return lambda: rng.normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def label(rng):
    return lambda: rng.integers(0, 3, SHAPE).astype(np.uint8)


def found(dataset, severity=None):
    problems = check(dataset, workers=1)
    return [f"{p.case}: {p.what}" for p in problems if severity in (None, p.severity)]


def test_a_healthy_dataset_has_no_problems(build, image, label):
    dataset = build(p={"a": image(), "b": image(), "label": label()}, q={"a": image(), "b": image(), "label": label()})
    examination = examine(dataset, workers=1)
    assert examination.problems == []
    assert examination.fingerprint == fingerprint(dataset, workers=1), "one reading gives the same fingerprint"


def test_all_problems_are_found_at_once(build, image, label):
    broken = image()
    broken[0, 0, :3] = [np.nan, np.inf, -np.inf]
    dataset = build(
        ending=".nrrd",
        nan={"a": broken, "b": image(), "label": label()},
        empty={"a": np.zeros(SHAPE, np.float32), "b": np.full(SHAPE, 7, np.float32), "label": label()},
        values={"a": image(), "b": image(), "label": (label() * 5).astype(np.uint8)},
        nothing={"label": label()},
    )
    problems = found(dataset, "error")
    assert "nan: 3 voxels are NaN or infinite; they are read as 0" in found(dataset, "warning")
    assert any("empty: a is empty" in p for p in problems)
    assert any("empty: b is constant (all voxels are 7)" in p for p in problems)
    assert any("values: label values that the dataset does not name: 5 (" in p and "10 (" in p for p in problems)
    assert any("nothing: no image of any channel" in p for p in problems)


def test_the_colours_of_a_picture_are_judged_together(build, image, label, tmp_path):
    def colours(name, a, b):
        path = tmp_path / name / "colours.nrrd"
        path.parent.mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(np.stack([a, b], -1), isVector=True), str(path))
        return {role: ChannelFile(path=path, component=n) for n, role in enumerate("ab")} | {"label": label()}

    nothing, grey = np.zeros(SHAPE, np.float32), image()
    dataset = build(
        p=colours("p", image(), nothing),
        q=colours("q", nothing + 7, image()),
        r=colours("r", grey, grey),
        s=colours("s", nothing, nothing + 7),
    )
    assert set(found(dataset, "error")) == {
        "s: a is empty (all voxels are 0)",
        "s: b is constant (all voxels are 7)",
    }
    assert set(found(dataset, "warning")) == {
        "p: b is empty (all voxels are 0)",
        "q: a is constant (all voxels are 7)",
        "r: b has the same voxels as a",
    }
    assert examine(dataset, workers=1).fingerprint is not None


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_voxels_that_are_no_numbers_are_read_as_zero_and_reported(build, image, label, ending):
    broken = image()
    broken[1, 1, :4] = [np.nan, np.inf, -np.inf, np.nan]
    dataset = build(p={"a": broken, "b": image(), "label": label()}, ending=ending)
    assert found(dataset) == ["p: 4 voxels are NaN or infinite; they are read as 0"]


def test_grids(build, image, label, tmp_path, write_volume):
    moved = write_volume(tmp_path / "moved.nii.gz", image(), origin=(0.0, 3.0, 0.0))
    coarse = write_volume(tmp_path / "coarse.nii.gz", image(), spacing=(1.0, 1.0, 2.0))
    turned = write_volume(tmp_path / "turned.nii.gz", label(), direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1))
    dataset = build(
        origin={"a": image(), "b": moved, "label": label()},
        spacing={"a": image(), "b": coarse, "label": label()},
        direction={"a": image(), "b": image(), "label": turned},
        size={"a": image(), "b": image(), "label": label()[:3]},
    )
    problems = found(dataset, "error")
    assert len(problems) == 4
    assert any("origin: not on the grid of a.nii.gz: origin 3 mm away" in p for p in problems)
    assert any("spacing: not on the grid of a.nii.gz: spacing" in p for p in problems)
    assert any("direction: not on the grid of a.nii.gz: another orientation" in p for p in problems)
    assert any("size: not on the grid of a.nii.gz: size 6×5×3 instead of 6×5×4" in p for p in problems)


def test_missing_and_damaged_files(build, image, label, tmp_path):
    noise = tmp_path / "noise.nii.gz"
    noise.write_bytes(b"no image")
    dataset = build(
        gone={"a": image(), "b": image(), "label": tmp_path / "gone.nii.gz"},
        damaged={"a": image(), "b": noise, "label": label()},
        short={"a": np.random.default_rng(5).normal(size=(40, 40, 40)), "label": np.eye(40) * np.ones((40, 1, 1))},
    )
    path = dataset.case("short").channels["a"].path
    path.write_bytes(path.read_bytes()[:20000])  # SimpleITK reads it without a word
    problems = found(dataset, "error")
    assert "gone: the file does not exist" in problems
    assert "damaged: can't be read as an image" in problems
    assert "short: the file is incomplete or damaged" in problems


def test_a_file_that_the_user_may_not_read(build, image, label, tmp_path, forbid):
    dataset = build(p={"a": image(), "b": image(), "label": label()}, q={"a": image(), "b": image(), "label": label()})
    forbid(tmp_path / "q" / "a.nii.gz")
    (problem,) = check(dataset, workers=1)
    assert (problem.case, problem.file) == ("q", tmp_path / "q" / "a.nii.gz")
    assert (problem.severity, problem.what, problem.remedy) == ("error", "you may not read it", "Ask for the right to.")


def test_duplicates(build, image, label, tmp_path):
    same, shared = image(), image()
    dataset = build(
        unlabelled=("test",),
        p={"a": same, "b": shared, "label": label()},
        q={"a": image(), "b": same, "label": label()},
        r={"a": image(), "b": tmp_path / "p" / "b.nii.gz", "label": label()},
        test={"a": image(), "b": image().astype(np.float64)},
    )
    problems = found(dataset, "error")
    assert "q: b has the same voxels as a of p (a.nii.gz)" in problems
    assert "r: used as b, and as b of p, too" in problems
    assert len(problems) == 2


def test_labels(build, image, label, tmp_path):
    halves = label().astype(np.float32)
    halves[0, 0, :2] = 0.5
    ignored = np.zeros(SHAPE, np.uint8)
    ignored[0] = 9
    dataset = build(
        ignore=9,
        labels={"x": 1, "y": 2, "z": 3},
        p={"a": image(), "b": image(), "label": halves},
        q={"a": image(), "b": image(), "label": ignored},
        r={"a": image(), "b": image(), "label": label(), "raters": {"ann": tmp_path / "q" / "label.nii.gz"}},
    )
    assert "p: 2 voxels of the label are no whole numbers" in found(dataset, "error")
    warnings = found(dataset, "warning")
    assert "q: the label is empty" in warnings
    assert "r: the label is empty" in warnings, "raters' maps are checked, too"
    assert ": no case has the label z (3)" in warnings


def test_labels_outside_the_mask(build, image):
    label, mask = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    label[0, 0, :4] = 1
    label[2, 2, 2] = 2
    mask[1:, 1:, 1:] = 1
    dataset = build(p={"a": image(), "b": image(), "label": label, "mask": mask})
    assert found(dataset) == ["p: 4 labelled voxels lie outside the box around the mask and will be cut off"]
    empty = build(q={"a": image(), "b": image(), "label": label, "mask": np.zeros(SHAPE, np.uint8)})
    assert found(empty) == ["q: the mask is empty; the case is cropped to non-zero voxels"]


def test_what_differs_between_cases(build, image, label, tmp_path, write_volume):
    turned = {
        role: write_volume(tmp_path / f"{role}_t.nii.gz", array, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
        for role, array in (("a", image()), ("b", (image() * 100).astype(np.int16)), ("label", label()))
    }
    dataset = build(p={"a": image(), "b": image(), "label": label()}, q=turned, r={"a": image(), "label": label()})
    warnings = found(dataset)
    assert ": different orientations: LPS in 2 case(s), RAS in 1 case(s)" in warnings
    assert ": different voxel types of b: 32-bit float in 1 case(s), 16-bit signed integer in 1 case(s)" in warnings
    assert ": 1 of 3 cases lack b: r" in warnings
    assert len(warnings) == 3


def test_a_channel_that_no_labelled_case_has(build, image, label):
    """As after a typing error in its pattern; scans without a label may have it, and change nothing."""
    labelled = {"a": image(), "label": label()}
    dataset = build(p=labelled, q={"a": image(), "label": label()})
    assert found(dataset) == [": no labelled case has b"]
    dataset = build(unlabelled=("test",), p=labelled, test={"a": image(), "b": image()})
    assert found(dataset) == [": no labelled case has b"]
    nothing_learned = build(unlabelled=("test",), test={"a": image()})
    assert ": 1 of 1 cases lack b: test" in found(nothing_learned, "warning")
    assert found(nothing_learned, "error") == []


def test_flat_images_among_volumes(build, image, label, tmp_path, write_volume):
    flat = {
        "a": write_volume(tmp_path / "a.png", (image()[0] * 50 + 100).astype(np.uint8)),
        "label": write_volume(tmp_path / "l.png", label()[0]),
    }
    dataset = build(p={"a": image(), "b": image(), "label": label()}, q=flat)
    assert ": flat images and volumes together: 3D in 1 case(s), 2D in 1 case(s)" in found(dataset, "error")


def test_channels_of_a_file(build, image, label, tmp_path, write_volume):
    four = write_volume(tmp_path / "four.nii.gz", np.stack([image() for _ in range(2)]))
    dataset = build(
        p={"a": ChannelFile(path=four, component=0), "b": ChannelFile(path=four, component=2), "label": label()},
        q={"a": four, "b": image(), "label": label()},
    )
    assert "p: holds 2 channel(s); b should be number 2" in found(dataset, "error")
    assert "q: holds 2 channels where a alone is expected" in found(dataset, "error")


def test_unlabelled_cases_are_checked_and_not_in_the_fingerprint(build, image, label):
    dataset = build(unlabelled=("t",), p={"a": image(), "b": image(), "label": label()}, t={"a": image() * 0})
    examination = examine(dataset, workers=1)
    assert any(p.case == "t" and "empty" in p.what for p in examination.problems)
    assert examination.fingerprint is not None
    assert [case.id for case in examination.fingerprint.cases] == ["p"]


def test_workers_change_nothing(build, image, label):
    cases = {name: {"a": image(), "b": image(), "label": (label() * 3).astype(np.uint8)} for name in "pqr"}
    dataset = build(**cases)
    assert examine(dataset, workers=2) == examine(dataset, workers=1)


@pytest.mark.data
def test_unregistered_exam(real_data):
    folder = real_data("clinical/TCGA-FG-6692/raw")
    channels = {name: ChannelFile(path=folder / f"{name}.nii.gz") for name in ("t1", "t1c", "t2", "flair")}
    case = Case(id="raw", channels=channels)
    dataset = Dataset(
        name="raw", root=folder, layout="manifest", channels=tuple(channels), labels={}, cases=(), unlabelled=(case,)
    )
    errors = [p for p in check(dataset, workers=1) if p.severity == "error"]
    assert {p.file.name for p in errors if p.file} == {"t2.nii.gz", "flair.nii.gz"}, "T1 and T1c share a grid"


@pytest.mark.data
def test_hippocampus_has_two_voxel_types(real_data):
    dataset = Dataset.open(real_data("hippocampus"))
    problems = check(dataset.model_copy(update={"cases": dataset.cases[:40]}), workers=1)
    assert [p.severity for p in problems] == ["warning"]
    assert "different voxel types of MRI" in problems[0].what


def test_a_label_of_several_channels_is_an_error(build, tmp_path, write_volume, image, label):
    colour = write_volume(tmp_path / "colour.nii.gz", np.stack([label(), label()]))
    dataset = build(p={"a": image(), "b": image(), "label": colour}, q={"a": image(), "b": image(), "label": label()})
    assert "p: the label holds 2 channels instead of one" in found(dataset, "error")


def test_every_label_map_empty(build, image, label):
    nothing = np.zeros(SHAPE, np.uint8)
    dataset = build(p={"a": image(), "b": image(), "label": nothing}, q={"a": image(), "b": image(), "label": nothing})
    assert found(dataset, "error") == [": every label map is empty: no case has any of x, y"]


def test_contradictions_of_the_labels(build, image, label):
    dataset = build(p={"a": image(), "b": image(), "label": label()}, q={"a": image(), "b": image(), "label": label()})

    def said(**changes):
        return found(Dataset.of(dataset.model_copy(update=changes)), "error")

    assert said() == []
    assert said(labels={"x": 1, "y": 2, "z": 2}) == [": y and z have one value, 2"]
    assert said(labels={"x": 1, "y": 2, "z": 2}, regions={"all": (1, 2)}) == []
    assert ": the label z has the value -1" in said(labels={"x": 1, "y": 2, "z": -1})
    assert said(ignore_label=2) == [": the label y and the ignore label have one value, 2"]
    assert said(ignore_label=-1) == []
    assert said(regions={"all": (1, 2), "none": ()}) == [": the region none unites no label values"]


def test_label_maps_of_background_alone(build, image):
    nothing = np.zeros(SHAPE, np.uint8)
    dataset = build(labels={}, p={"a": image(), "b": image(), "label": nothing})
    assert ": the labels have no value but that of the background" in found(dataset, "error")


def test_cases_without_the_mask_of_others(build, image, label):
    parts = {name: {"a": image(), "b": image(), "label": label()} for name in "pq"}
    parts["p"]["mask"] = np.ones(SHAPE, np.uint8)
    assert ": 1 of 2 cases lack the mask: q" in found(build(**parts), "warning")


def test_no_case_at_all(build):
    assert found(build()) == [": there is no case"]


def test_warnings_as_lines():
    problems = [Problem("warning", name, None, "the label is empty", "Look.") for name in "abcde"]
    problems += [Problem("error", "x", None, "bad", ""), Problem("warning", "", None, "odd", "Mend it.")]
    assert warnings_in(problems) == [
        "Warning: a, b, c and 2 more cases: the label is empty. Look.",
        "Warning: odd. Mend it.",
    ]
