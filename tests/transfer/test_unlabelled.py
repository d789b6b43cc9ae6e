"""Unlabelled scans in the batches of a fine-tuning, labelled by the source."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train
from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.planning.making import plan_dataset
from autoseg.planning.request import Request
from autoseg.plans.mixing import Mixed, PseudoLabelled
from autoseg.plans.recipe import Recipe
from autoseg.plans.target import Target
from autoseg.runs.run import Run
from autoseg.transfer import pseudo_labels
from autoseg.transfer.mixed_cases import mixed_cases, mixed_dataset
from autoseg.transfer.pseudo_labels import label_scans, pseudo_label
from autoseg.transfer.source import Source
from autoseg.transfer.unlabelled import UnlabelledScans
from autoseg.utils.device import Compute
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import (
    LABELS,
    REGIONS,
    Perfect,
    blob,
    done_by_another,
    forget_places,
    make_plan,
    make_run,
    picture_of,
    write,
)
from tests.transfer.test_source_cases import FAST, cohort_in

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("source"), make_plan(), cases=2)
    train(run, None, [0], Length(epochs=1), Compute("cpu", 0))
    return run


def scans_in(folder: Path) -> Path:
    for number in range(2):
        write(folder / f"scan_{number}.nii.gz", picture_of(blob(shift=number), seed=50 + number))
    return folder


def planned(
    source: Run, root: Path, scans: Path, *overrides: str, cohort: Dataset | None = None, patients: str | None = None
) -> Run:
    carried = (Source(source.path), UnlabelledScans(scans, patients))
    request = Request(
        device="cuda", gpu_memory_gb=2, overrides=(*FAST, *overrides), folds=2, workers=1, carried=carried
    )
    return plan_dataset(cohort or cohort_in(root / "cohort"), root / "run", request)


def voxels(*columns: tuple[float, ...]) -> torch.Tensor:
    """Scores ``(heads, 1, 1, voxels)``, a tuple a voxel."""
    return torch.tensor(columns).T[:, None, None, :]


def test_what_the_source_is_sure_of() -> None:
    """Softmax of (4, 0, 0) is 0.96 and of (1, 0, 0) 0.58; the sigmoid of 3 is 0.95 and of 1 0.73."""
    labels = LABELS.model_copy(update={"ignore": 3})
    scores = voxels((4.0, 0, 0), (0, 4.0, 0), (0, 0, 4.0), (0, 1.0, 0))
    assert pseudo_label(scores, labels, 0.9).ravel().tolist() == [0, 1, 2, 3]
    assert pseudo_label(scores, labels, 0.5).ravel().tolist() == [0, 1, 2, 1]
    regions: Target = REGIONS.model_copy(update={"ignore": 3})
    # Nothing; whole alone; both; not sure of the inner one; inner without whole, which no label is.
    scores = voxels((-3.0, -3.0), (3.0, -3.0), (3.0, 3.0), (3.0, 1.0), (-3.0, 3.0))
    assert pseudo_label(scores, regions, 0.9).ravel().tolist() == [0, 1, 2, 3, 3]


def test_numbered_channels_are_the_cohorts(tmp_path: Path) -> None:
    """A plan of some of its channels takes scans by the numbers that its own files have."""
    channels = {
        name: ChannelFile(path=Path(f"x_000{number}.nii.gz")) for number, name in enumerate(("t1", "t1c", "t2"))
    }
    cohort = Dataset(
        name="cohort",
        root=Path(),
        layout="nnunet",
        channels=tuple(channels),
        labels={"one": 1},
        cases=(Case(id="x", channels=channels, label=Path("x.nii.gz")),),
    )
    for number in range(3):
        write(tmp_path / f"p_000{number}.nii.gz", picture_of(blob()))
    unlabelled = UnlabelledScans(tmp_path)
    unlabelled.cohort[:] = [cohort]
    (case,) = unlabelled.described(make_plan(channels=("t2", "t1c"))).dataset.cases
    assert {name: file.path.name for name, file in case.channels.items()} == {
        "t2": "p_0002.nii.gz",
        "t1c": "p_0001.nii.gz",
    }


def test_the_ignore_label_is_none_of_the_cohorts(source: Run, tmp_path: Path) -> None:
    """Where the plan segments some of the dataset's labels, the others are background, and not left out."""
    only = make_run(tmp_path / "only", make_plan(target=LABELS.model_copy(update={"outputs": [LABELS.outputs[0]]})), 2)
    train(only, None, [0], Length(epochs=1), Compute("cpu", 0))
    carried = (Source(only.path), UnlabelledScans(scans_in(tmp_path / "scans")))
    request = Request(
        device="cuda", gpu_memory_gb=2, overrides=FAST, folds=2, workers=1, carried=carried, regions=("outer",)
    )
    cohort = cohort_in(tmp_path / "cohort")
    run = plan_dataset(cohort, tmp_path / "run", request)
    assert sorted(value for output in run.plan.target.outputs for value in output.values) == [1]
    assert sorted(cohort.labels.values()) == [1, 2]
    assert run.plan.target.ignore == 3


def test_labelled_by_the_source(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that reads labels off images gives 1 a probability of 0.58, 0 and 2 one of 0.72."""
    run = planned(source, tmp_path, scans_in(tmp_path / "scans"), "recipe.unlabelled.confidence=0.65")
    stage = run.plan.stage()
    assert run.plan.target.ignore == 3
    with monkeypatch.context() as patched:
        patched.setattr(pseudo_labels, "load_network", lambda *_: Perfect())
        label_scans(run, stage, torch.device("cpu"))
    fold = run.fold(stage, 0)
    (group,) = mixed_cases(fold)
    for number, case in enumerate(group.cases):
        expected = blob(shift=number)
        expected[expected == 1] = 3
        assert np.array_equal(case.label(), expected)
    # Known by now: the training does not predict them again, whether the scans are there or not.
    shutil.rmtree(tmp_path / "scans")
    monkeypatch.setattr(pseudo_labels, "load_network", None)
    evaluation = train(run, None, [0], Length(epochs=1), Compute("cpu", 0))
    assert sorted(evaluation.cases) == sorted(fold.validation_cases)
    assert "25% of the samples come from 2 cases from elsewhere" in fold.log.read_text(encoding="utf-8")


def test_scans_that_another_process_labels_are_waited_for(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(source, tmp_path, scans_in(tmp_path / "scans"))
    labelled, save = [], pseudo_labels.save
    monkeypatch.setattr(pseudo_labels, "save", lambda *given: (labelled.append(given[1]), save(*given)))
    arguments = (run, run.plan.stage(), torch.device("cpu"))
    done_by_another(monkeypatch, lambda: label_scans(*arguments))
    label_scans(*arguments)
    assert sorted(labelled) == ["scan_0", "scan_1"]


def test_where_patches_are_centred(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions in the mask and in healthy tissue are stored; scans that have none are labelled again."""
    scans = scans_in(tmp_path / "scans")
    run = planned(source, tmp_path, scans, "recipe.sampling.background=healthy", "recipe.unlabelled.confidence=0.65")
    monkeypatch.setattr(pseudo_labels, "load_network", lambda *_: Perfect())
    label_scans(run, run.plan.stage(), torch.device("cpu"))
    (group,) = mixed_cases(run.fold(run.plan.stage(), 0))
    for number, case in enumerate(group.cases):
        expected = blob(shift=number)
        assert len(case.places["inside"]) == expected.size  # the picture is zero nowhere
        assert len(case.places["healthy"]) == (expected == 0).sum()
    forget_places(group.cases[0].folder / "scan_0.foreground.npz")
    labelled, save = [], pseudo_labels.save
    monkeypatch.setattr(pseudo_labels, "save", lambda *given: (labelled.append(given[1]), save(*given)))
    label_scans(run, run.plan.stage(), torch.device("cpu"))
    assert labelled == ["scan_0"]


def test_another_mapping_labels_anew(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans that were labelled with the outputs the wrong way round are labelled again with the right ones."""
    scans, cohort = scans_in(tmp_path / "scans"), cohort_in(tmp_path / "cohort")
    monkeypatch.setattr(pseudo_labels, "load_network", lambda *_: Perfect())
    labelled, save = [], pseudo_labels.save
    monkeypatch.setattr(pseudo_labels, "save", lambda *given: (labelled.append(given[1]), save(*given)))
    for outputs in ({"outer": "inner", "inner": "outer"}, {}, {}):
        carried = (Source(source.path, outputs=outputs), UnlabelledScans(scans))
        request = Request(device="cuda", gpu_memory_gb=2, overrides=FAST, folds=2, workers=1, carried=carried)
        run = plan_dataset(cohort, tmp_path / "run", request)
        label_scans(run, run.plan.stage(), torch.device("cpu"))
    assert labelled == ["scan_0", "scan_1"] * 2


def test_a_scan_that_is_gone(source: Run, tmp_path: Path) -> None:
    run = planned(source, tmp_path, scans_in(tmp_path / "scans"))
    shutil.rmtree(tmp_path / "scans")
    with pytest.raises(AutosegError, match="the unlabelled scan scan_0 is gone"):
        label_scans(run, run.plan.stage(), torch.device("cpu"))


def test_cases_that_are_scored(source: Run, tmp_path: Path) -> None:
    """By their name, and by what is in the file."""
    cohort = cohort_in(tmp_path / "cohort")
    for number, name in enumerate(("case_3", "other")):
        folder = tmp_path / name
        scan = cohort.cases[0].channels["mr"].path
        if number == 0:
            write(folder / f"{name}.nii.gz", picture_of(blob(), seed=77))
        else:
            folder.mkdir()
            shutil.copyfile(scan, folder / f"{name}.nii.gz")
        with pytest.raises(UsageError, match=f"has {name}, a case or patient of the dataset"):
            planned(source, tmp_path, folder)


@pytest.mark.parametrize(
    ("ids", "groups", "scan", "patients"),
    [
        (("sub-1_ses-1", "sub-2_ses-1", "sub-3_ses-1"), ("sub-1", "sub-2", "sub-3"), "sub-3_ses-2", None),
        (("sub-1_ses-1", "sub-2_ses-1", "sub-3_ses-1"), ("", "", ""), "sub-3_ses-2", None),
        (("a1", "b1", "c1"), ("a", "b", "c"), "c2", r"^[a-z]"),
    ],
)
def test_other_exams_of_patients_that_are_scored(
    ids: Sequence[str], groups: Sequence[str], scan: str, patients: str | None, source: Run, tmp_path: Path
) -> None:
    """Of a folder of images nothing is known but their names, which tell the patient as the cohort's do."""
    cohort = cohort_in(tmp_path / "cohort")
    cases = [
        case.model_copy(update={"id": name, "group": group})
        for case, name, group in zip(cohort.cases[:3], ids, groups, strict=True)
    ]
    cohort = cohort.model_copy(update={"cases": tuple(cases)})
    scans = scans_in(tmp_path / "scans")
    assert planned(source, tmp_path, scans, cohort=cohort, patients=patients).plan.stage().recipe.unlabelled
    write(scans / f"{scan}.nii.gz", picture_of(blob(), seed=77))
    with pytest.raises(UsageError, match=f"has {scan}, a case or patient of the dataset"):
        planned(source, tmp_path, scans, cohort=cohort, patients=patients)


def test_scans_laid_out_like_the_cohort(source: Run, tmp_path: Path) -> None:
    """As ``autoseg predict`` finds them: by the files that the cohort's channels have, beside others."""
    cohort = cohort_in(tmp_path / "cohort")
    cases = []
    for case in cohort.cases:
        moved = tmp_path / "cohort" / case.id / "series_a.nii.gz"
        moved.parent.mkdir()
        shutil.move(case.channels["mr"].path, moved)
        cases.append(case.model_copy(update={"channels": {"mr": ChannelFile(path=moved)}}))
    cohort = cohort.model_copy(update={"cases": tuple(cases)})
    for number in range(2):
        for name in ("series_a", "localizer"):
            write(tmp_path / "scans" / f"new_{number}" / f"{name}.nii.gz", picture_of(blob(), seed=60 + number))
    run = planned(source, tmp_path, tmp_path / "scans", cohort=cohort)
    given = run.plan.stage().recipe.unlabelled
    assert given is not None
    found = mixed_dataset(run, given.file).dataset.cases
    assert [(case.id, case.channels["mr"].path.name) for case in found] == [
        ("new_0", "series_a.nii.gz"),
        ("new_1", "series_a.nii.gz"),
    ]


def test_what_can_not_be_labelled(source: Run, tmp_path: Path) -> None:
    scans = scans_in(tmp_path / "scans")
    with pytest.raises(UsageError, match="does not exist"):
        planned(source, tmp_path, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="--unlabelled goes with --source"):
        plan_dataset(cohort_in(tmp_path / "cohort"), tmp_path / "run", Request(carried=(UnlabelledScans(scans),)))
    request = Request(
        device="cuda",
        gpu_memory_gb=2,
        overrides=FAST,
        workers=1,
        regions=("inner",),
        carried=(Source(source.path), UnlabelledScans(scans)),
    )
    with pytest.raises(UsageError, match="not just those of the dataset, so that it can't label scans"):
        plan_dataset(cohort_in(tmp_path / "cohort"), tmp_path / "run", request)


def test_own_cases_keep_a_share() -> None:
    with pytest.raises(ValueError, match=r"shares of 1 together"):
        Recipe(source_cases=Mixed(file="a", share=0.5), unlabelled=PseudoLabelled(file="b", share=0.5))
