"""Which cases of a cohort a source was trained on."""

import shutil
from pathlib import Path

import pytest

from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.planning.request import Request
from autoseg.plans.mixing import Mixed
from autoseg.plans.recipe import Initialization
from autoseg.runs.run import Run
from autoseg.transfer.learned_cases import learned_by, learned_cases, told_of_learned
from autoseg.transfer.mixed_cases import MixedDataset, same_cases
from autoseg.transfer.source import Source
from autoseg.utils.files import write_json
from tests.builders import blob, make_configuration, make_plan, make_recipe, make_run, picture_of, write
from tests.cli.test_plan_source import pretend_trained


def with_own_noise(dataset: Dataset, first: int = 0) -> Dataset:
    """No two scans alike."""
    for number, case in enumerate(dataset.cases):
        write(case.channels["mr"].path, picture_of(blob(shift=number % 2), seed=first + number))
    return dataset


def model_in(root: Path, **initialization: object) -> Run:
    start = Initialization.model_validate(initialization)
    run = make_run(root, make_plan(make_configuration(recipe=make_recipe(initialization=start))))
    with_own_noise(run.dataset)
    return run


def names(cases: list[Case]) -> list[str]:
    return [case.id for case in cases]


def test_what_the_folds_of_a_model_were_trained_on(tmp_path: Path) -> None:
    """One fold has seen its training cases, two all of them; and what its own source has seen, it has, too."""
    run = model_in(tmp_path / "model")
    stage = run.plan.stage()
    assert names(learned_by(run, stage, [0])) == ["case_1", "case_3"]
    assert names(learned_by(run, stage, [0, 1])) == ["case_0", "case_1", "case_2", "case_3"]
    assert names(learned_by(run, stage, [7])) == []
    tuned = model_in(tmp_path / "tuned", source="model", file="f", learned={"case_2": "file"})
    assert names(learned_by(tuned, tuned.plan.stage(), [0])) == ["case_1", "case_2", "case_3"]


def test_what_was_mixed_in(tmp_path: Path) -> None:
    given = make_recipe(source_cases=Mixed(file="source_cases_1.json"))
    run = make_run(tmp_path, make_plan(make_configuration(recipe=given)))
    elsewhere = Case(id="far", channels={"mr": ChannelFile(path=tmp_path / "far.nii.gz")})
    mixed = MixedDataset(dataset=run.dataset.model_copy(update={"cases": (elsewhere,)}), values={})
    write_json(run.path / "source_cases_1.json", mixed.model_dump(mode="json"))
    assert names(learned_by(run, run.plan.stage(), [0])) == ["case_1", "case_3", "far"]


def test_the_same_scans(tmp_path: Path) -> None:
    """By the file, or by what is in it, whatever the names; another scan of the same name is another case."""
    learned = list(with_own_noise(make_run(tmp_path / "model").dataset).cases)
    other = with_own_noise(make_run(tmp_path / "other").dataset, first=50)
    copy = write(tmp_path / "copy.nii.gz", picture_of(blob(), seed=70))
    shutil.copyfile(learned[1].channels["mr"].path, copy)
    cohort = [
        other.cases[0],
        learned[2].model_copy(update={"id": "renamed"}),
        Case(id="copied", channels={"mr": ChannelFile(path=copy)}),
    ]
    assert learned_cases(cohort, learned, {}) == {"renamed": "file", "copied": "file"}


def test_a_series_in_a_folder(tmp_path: Path) -> None:
    """Its slices lie in it one by one."""
    cases = []
    for name in ("here", "there", "elsewhere"):
        for number in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            content = f"{'another' if name == 'elsewhere' else 'slice'} {number}"
            (tmp_path / name / f"{number}.dcm").write_text(content, encoding="utf-8")
        cases.append(Case(id=name, channels={"mr": ChannelFile(path=tmp_path / name)}))
    assert [(one.id, other.id) for one, other in same_cases(cases, cases[:1])] == [("here", "here"), ("there", "here")]


@pytest.mark.parametrize(("size", "found"), [((10, 12, 14), {"case_1": "name"}), ((10, 12, 16), {})])
def test_by_name_where_files_are_gone(size: tuple[int, ...], found: dict[str, str], tmp_path: Path) -> None:
    """A case of the same name on another grid is another case."""
    model = make_run(tmp_path / "model")
    shutil.rmtree(model.dataset.root)
    cohort = [
        Case(id=name, channels={"mr": ChannelFile(path=write(tmp_path / f"{name}.nii.gz", picture_of(blob(size))))})
        for name in ("case_1", "case_9")
    ]
    grids = {case.id: case for case in model.fingerprint.cases}
    assert learned_cases(cohort, model.dataset.cases, grids) == found


def test_the_plan_has_them(tmp_path: Path) -> None:
    """Of a cohort that grows: those that the source had; planned for another cohort, none."""
    model = pretend_trained(make_run(tmp_path / "model"))
    with_own_noise(model.dataset)
    grown = with_own_noise(make_run(tmp_path / "grown").dataset, first=50)
    cases = (*model.dataset.cases, *(case.model_copy(update={"id": f"new_{case.id}"}) for case in grown.cases))
    source = Source(model.path)
    for dataset, learned in (
        (grown.model_copy(update={"cases": cases}), {"case_1": "file", "case_3": "file"}),
        (grown, {}),
    ):
        checked = source.check(Request(), dataset, tmp_path / "out")
        start = make_recipe(initialization=Initialization(source="model", file="f"))
        plan = checked.apply(make_plan(make_configuration(recipe=start)))
        assert plan.stage().recipe.initialization.learned == learned


def test_in_words() -> None:
    start = Initialization(source="model", file="f", learned={"a": "file", "b": "name"})
    assert told_of_learned(start, ["c"]) == ""
    assert told_of_learned(start, ["a", "c"]).startswith("The source was trained on 1 of these 2 cases, and its score")
    assert told_of_learned(start, ["a", "b", "c"]).startswith(
        "The source was trained on 2 of these 3 cases (1 by name: its files are gone), and its score"
    )
