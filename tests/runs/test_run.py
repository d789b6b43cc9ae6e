"""The run folder, and how cases are dealt to folds."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.plans.evaluation import EvaluationRules
from autoseg.runs.run import Run, refuse_dataset_folder
from autoseg.runs.splits import check_splits, keep_or_make_splits, make_splits
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import REGIONS, make_configuration, make_plan, make_run


def dataset_of(groups: Sequence[str]) -> Dataset:
    """A case for each entry, which names its patient (empty: a patient of its own)."""
    cases = [
        Case(id=f"c{n}", channels={"mr": ChannelFile(path=Path("x"))}, label=Path("y"), group=group)
        for n, group in enumerate(groups)
    ]
    return Dataset(name="d", root=Path("d"), layout="manifest", channels=("mr",), labels={"one": 1}, cases=tuple(cases))


class Counted(str):
    """A name that counts how often names are looked up or compared."""

    looked_up = 0

    def __hash__(self) -> int:
        Counted.looked_up += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Counted.looked_up += 1
        return super().__eq__(other)


@pytest.mark.parametrize("rules", [EvaluationRules(), EvaluationRules(test_share=0.3, validation_share=0.2)])
def test_looking_at_splits_takes_a_time_in_proportion_to_the_cases(rules: EvaluationRules) -> None:
    def looked_up(count: int) -> int:
        cases = tuple(
            case.model_copy(update={"id": Counted(case.id), "group": Counted(f"p{n % 50}")})
            for n, case in enumerate(dataset_of([""] * count).cases)
        )
        dataset = dataset_of([""]).model_copy(update={"cases": cases})
        Counted.looked_up = 0
        splits = make_splits(dataset, rules=rules)
        check_splits(splits, dataset, Path("splits.json"))
        return Counted.looked_up

    assert looked_up(2000) < 5 * looked_up(500)


@given(groups=st.lists(st.sampled_from(["", "", "p1", "p2", "p3"]), min_size=2, max_size=40), seed=st.integers(0, 99))
def test_splits(groups: list[str], seed: int) -> None:
    dataset = dataset_of(groups)
    patients = {case.patient for case in dataset.cases}
    if len(patients) < 2:
        with pytest.raises(AutosegError, match="needs at least 2"):
            make_splits(dataset, seed=seed)
        return
    splits = make_splits(dataset, seed=seed)
    names = [case.id for case in dataset.cases]
    patient = {case.id: case.patient for case in dataset.cases}
    assert len(splits) == min(5, len(patients))
    # Each case is validated once, and trained on in every other fold.
    assert sorted(name for split in splits for name in split["validation"]) == sorted(names)
    largest = max(list(patient.values()).count(p) for p in patients)
    sizes = []
    for split in splits:
        assert sorted(split["train"] + split["validation"]) == sorted(names)
        assert not {patient[c] for c in split["train"]} & {patient[c] for c in split["validation"]}
        sizes.append(len(split["validation"]))
    assert max(sizes) - min(sizes) <= largest


def test_splits_are_even_shuffled_and_repeatable() -> None:
    dataset = dataset_of([""] * 23)
    splits = make_splits(dataset)
    assert sorted(len(split["validation"]) for split in splits) == [4, 4, 5, 5, 5]
    assert splits == make_splits(dataset)
    assert splits != make_splits(dataset, seed=1)
    assert splits[0]["validation"] != [f"c{n}" for n in range(len(splits[0]["validation"]))]


def test_order_of_reading_does_not_matter() -> None:
    dataset = dataset_of([""] * 12)
    backwards = dataset.model_copy(update={"cases": dataset.cases[::-1]})
    for split, other in zip(make_splits(dataset), make_splits(backwards), strict=True):
        assert set(split["validation"]) == set(other["validation"])


def test_fewer_folds() -> None:
    assert len(make_splits(dataset_of(["a", "a", "b", "c"]))) == 3
    with pytest.raises(AutosegError, match="1 labelled patient"):
        make_splits(dataset_of(["a", "a", "a"]))


@given(
    groups=st.lists(st.sampled_from(["", "", "", "p1", "p2"]), min_size=10, max_size=40),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.1, 0.2, 0.4]),
)
def test_a_test_set_is_in_no_fold(groups: list[str], seed: int, share: float) -> None:
    groups = [*groups, *[""] * 20]
    dataset = dataset_of(groups)
    patient = {case.id: case.patient for case in dataset.cases}
    splits = make_splits(dataset, seed=seed, rules=EvaluationRules(test_share=share))
    test = splits[0]["test"]
    # By patient, as many cases as the share says, where patients have one each.
    largest = max(list(patient.values()).count(p) for p in set(patient.values()))
    assert abs(len(test) - round(share * len(groups))) <= largest
    for split in splits:
        assert split["test"] == test
        seen = {*split["train"], *split["validation"]}
        assert seen | set(test) == set(patient)
        assert not {patient[c] for c in seen} & {patient[c] for c in test}
    validated = [name for split in splits for name in split["validation"]]
    assert sorted([*validated, *test]) == sorted(patient)


@pytest.mark.parametrize(
    ("cases", "rules", "expected"),
    [
        (285, {"test_share": 0.2}, (5, 57)),  # Rahimpour: 20 % of BraTS 2018
        (369, {"test_share": 0.2}, (5, 74)),  # Tweedy: "20 %, i.e. 74 samples"
        (1250, {"test_share": 150 / 1250, "validation_share": 250 / 1250}, (1, 150)),  # Yildiz: 850, 250, 150
    ],
)
def test_shares_of_the_papers(cases: int, rules: dict[str, float], expected: tuple[int, int]) -> None:
    splits = make_splits(dataset_of([""] * cases), rules=EvaluationRules(**rules))
    assert (len(splits), len(splits[0]["test"])) == expected
    if "validation_share" in rules:
        assert (len(splits[0]["train"]), len(splits[0]["validation"])) == (850, 250)
        five = make_splits(dataset_of([""] * cases), 5, rules=EvaluationRules(**rules))
        assert (len(five), len(five[0]["validation"])) == (5, 220)


def test_without_a_test_set_splits_are_as_they_were() -> None:
    assert all(set(split) == {"train", "validation"} for split in make_splits(dataset_of([""] * 10)))


def test_a_datasets_own_test_cases_are_held_out() -> None:
    dataset = dataset_of([""] * 6)
    own = [case.model_copy(update={"id": f"t{n}"}) for n, case in enumerate(dataset.cases[:3])]
    own[2] = own[2].model_copy(update={"label": None})
    dataset = dataset.model_copy(update={"unlabelled": tuple(own)})
    for folds in (None, 1):
        for split in make_splits(dataset, folds, rules=EvaluationRules(test_share=0.5)):
            assert split["test"] == ["t0", "t1"]
            assert {*split["train"], *split["validation"]} == {f"c{n}" for n in range(6)}
            check_splits([split], dataset, Path("splits.json"))


def test_stored_test_sets_are_kept_where_they_have_the_share(tmp_path: Path) -> None:
    dataset = dataset_of([""] * 10)
    rules = EvaluationRules(test_share=0.2)
    chosen = [
        {"train": ["c0", "c1", "c2", "c3"], "validation": ["c4", "c5", "c6", "c7"], "test": ["c8", "c9"]},
        {"train": ["c4", "c5", "c6", "c7"], "validation": ["c0", "c1", "c2", "c3"], "test": ["c8", "c9"]},
    ]
    (tmp_path / "splits.json").write_text(json.dumps(chosen))
    assert keep_or_make_splits(tmp_path, dataset, rules=rules) == chosen
    assert keep_or_make_splits(tmp_path, dataset, folds=5, rules=rules) == make_splits(dataset, 5, rules=rules)
    assert keep_or_make_splits(tmp_path, dataset) == make_splits(dataset)
    assert keep_or_make_splits(tmp_path, dataset, rules=EvaluationRules(test_share=0.5)) != chosen


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": ["c3", "c0"]}, 'fold 1 has c0 in "test" and elsewhere'),
        ({"test": ["c3", "x"]}, "fold 1 names x, which is no labelled case"),
        ({"test": []}, 'folds 0 and 1 have different cases in "test"'),
        ({"test": ["c3", "c3"]}, 'folds 0 and 1 have different cases in "test"'),
    ],
)
def test_wrong_test_sets_are_refused(change: dict[str, list[str]], said: str) -> None:
    dataset = dataset_of([""] * 4)
    first = {"train": ["c0"], "validation": ["c1", "c2"], "test": ["c3"]}
    second = {"train": ["c1", "c2"], "validation": ["c0"], "test": ["c3"]}
    check_splits([first, second], dataset, Path("splits.json"))
    splits = [{**first, "test": sorted(set(change["test"]) - {"c0"}) if "else" in said else first["test"]}]
    if "labelled" in said:
        splits = [{**first, **change}]
        said = said.replace("fold 1", "fold 0")
    elif "else" in said:
        splits = [{**first, "train": ["c2"], "validation": ["c1"], **change}, {**second, **change}]
    else:
        splits.append({**second, **change})
    with pytest.raises(AutosegError, match=said):
        check_splits(splits, dataset, Path("splits.json"))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    again = Run.open(str(run.path))
    assert again.plan == run.plan
    assert [case.id for case in again.dataset.cases] == ["case_0", "case_1", "case_2", "case_3"]
    assert again.dataset.case("case_1").label == tmp_path / "data" / "labels" / "1.nii.gz"
    assert again.fingerprint.cases[0].shape == (10, 12, 14)
    assert again.split(1) == {"train": ["case_0", "case_2"], "validation": ["case_1", "case_3"]}


def test_no_run_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AutosegError, match=f"{path} is no run folder .* 'autoseg plan"):
            Run.open(path)


@pytest.mark.parametrize("fold", [2, -1])
def test_no_such_fold(tmp_path: Path, fold: int) -> None:
    with pytest.raises(UsageError, match=rf"^fold {fold} does not exist; .*splits\.json has folds 0 to 1"):
        make_run(tmp_path).split(fold)


@pytest.mark.parametrize("name", ["fingerprint", "dataset"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"cases": 3}'])
def test_damaged_files(tmp_path: Path, name: str, content: str) -> None:
    run = make_run(tmp_path)
    (run.path / f"{name}.json").write_text(content)
    with pytest.raises(AutosegError, match=rf"{name}\.json is (damaged|not valid JSON)") as caught:
        getattr(run, name)
    assert "\n" not in str(caught.value)


def test_how_to_validate(tmp_path: Path) -> None:
    """Training again would validate nothing where all cases are trained on."""
    run = make_run(tmp_path, make_plan())
    everyone = [case for split in run.splits for case in split["validation"]]
    assert f"'autoseg train {run.path}'" in run.how_to_validate("small")
    (run.path / "splits.json").write_text(json.dumps([{"train": everyone, "validation": []}]))
    run = Run.open(run.path)
    assert "--folds 2 or more" in run.how_to_validate("small")
    assert "autoseg train" not in run.how_to_validate("small")
    imported = run.dataset.model_dump(mode="json") | {"cases": []}
    (run.path / "dataset.json").write_text(json.dumps(imported))
    (run.path / "splits.json").write_text(json.dumps([{"train": [], "validation": []}]))
    run = Run.open(run.path)
    assert "its model was imported" in run.how_to_validate("small")
    assert f"'autoseg plan DATASET --source {run.path} --out RUN'" in run.how_to_validate("small")


def test_commands_name_the_configuration_where_it_is_not_the_usual_one(tmp_path: Path) -> None:
    plan = make_plan(configurations={"small": make_configuration(), "other": make_configuration()})
    run = make_run(tmp_path, plan)
    assert plan.recommended == "small"
    assert run.how_to_train("small") == f"train it with 'autoseg train {run.path}'"
    assert run.how_to_validate("other") == f"train it with 'autoseg train {run.path} --config other'"
    assert run.how_to_postprocess("small") == f"'autoseg postprocess {run.path}'"
    assert run.how_to_postprocess("other") == f"'autoseg postprocess {run.path} --config other'"
    (weights := run.fold("other", 0).weights).parent.mkdir(parents=True)
    weights.touch()
    assert run.how_to_postprocess("other") == f"'autoseg postprocess {run.path}'", "the only one that is trained"
    (tuned := run.fold("small", 0).checkpoint("tuned")).parent.mkdir(parents=True)
    tuned.touch()
    assert run.how_to_train("small").endswith(f"yet: let 'autoseg train {run.path}' end, or give it again")


def test_trained_folds(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.trained_folds("small") == []
    for name in ("fold_10", "fold_2", "fold_0_copy", "fold_all"):
        (run.path / "small" / name).mkdir(parents=True)
        (run.path / "small" / name / "weights.safetensors").touch()
    (run.path / "small" / "fold_3").mkdir()
    assert run.trained_folds("small") == [2, 10]
    assert run.trained_folds("other") == []


def test_the_usual_configuration_segments_all(tmp_path: Path) -> None:
    whole, inner = (REGIONS.model_copy(update={"outputs": [output]}) for output in REGIONS.outputs)
    last = make_configuration(target=inner, previous={"configuration": "first", "use": "box", "output": "whole"})
    stages = {"first": make_configuration(target=whole), "small": last, "other": make_configuration()}
    run = make_run(tmp_path, make_plan(target=REGIONS, configurations=stages))
    found = []
    for name in ("", "first", "other", "small"):
        if name:
            run.fold(name, 0).folder.mkdir(parents=True)
            (run.fold(name, 0).weights).touch()
        found.append(run.usual_configuration())
    assert found == ["small", "small", "other", "small"]


def test_a_run_holds_plain_json(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    names = {path.name for path in run.path.iterdir()}
    assert names == {"plan.json", "fingerprint.json", "dataset.json", "splits.json"}
    assert all(json.loads((run.path / name).read_text()) for name in names)


MALFORMED = [
    "{}",
    "[]",
    "[1]",
    '[{"train": ["a"]}]',
    '[{"train": "a", "validation": []}]',
    '[{"train": [1], "validation": []}]',
]


@pytest.mark.parametrize("content", MALFORMED)
def test_malformed_splits(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path)
    (run.path / "splits.json").write_text(content)
    for read in (lambda: run.splits, lambda: keep_or_make_splits(run.path, run.dataset)):
        with pytest.raises(AutosegError, match=r"splits\.json must be a list of .*; correct it, or delete it"):
            read()


def test_stored_splits_are_kept_where_they_fit(tmp_path: Path) -> None:
    dataset = dataset_of(["p", "p", "", ""])
    apart = [{"train": ["c0", "c1", "c2"], "validation": ["c3"]}, {"train": ["c3", "c2"], "validation": ["c1", "c0"]}]
    straddling = [{"train": ["c0", "c2"], "validation": ["c1", "c3"]}]
    twice = [{"train": ["c0", "c1", "c2", "c3"], "validation": ["c3"]}]
    fewer = [{"train": ["c0", "c1"], "validation": ["c3"]}]
    nothing = [{"train": [], "validation": ["c0", "c1", "c2", "c3"]}]
    for splits, kept in ((apart, True), (straddling, False), (twice, False), (fewer, False), (nothing, False)):
        (tmp_path / "splits.json").write_text(json.dumps(splits))
        assert keep_or_make_splits(tmp_path, dataset) == (splits if kept else make_splits(dataset))


def test_a_folder_of_a_dataset_is_no_run_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    dataset, other = run.dataset, tmp_path / "other"
    table = dataset.model_copy(update={"root": dataset.root / "scans.csv"})
    for described in (dataset, table):
        with pytest.raises(UsageError, match=r"--out .* is the dataset's own folder"):
            Run.create(dataset.root, run.plan, run.fingerprint, described, run.splits)
    other.mkdir()
    (other / "dataset.json").write_text('{"channel_names": {}}')
    with pytest.raises(UsageError, match=r"--out .*other holds a dataset\.json of something else"):
        Run.create(other, run.plan, run.fingerprint, dataset, run.splits)
    assert [path.name for path in other.iterdir()] == ["dataset.json"]
    assert (other / "dataset.json").read_text() == '{"channel_names": {}}'
    (run.path / "plan.json").unlink()
    refuse_dataset_folder(run.path, dataset)


@pytest.mark.parametrize(
    ("fold", "sentence"),
    [
        ({"train": ["case_0", "case_1"], "validation": ["case_1"]}, 'fold 1 has case_1 in "train" and in "validation"'),
        ({"train": [], "validation": ["case_1"]}, 'fold 1 has no case in "train"'),
        ({"train": ["case_9"], "validation": []}, "fold 1 names case_9, which is no labelled case of blobs"),
        ({"train": ["case_0", "case_0"], "validation": []}, "fold 1 names case_0 twice"),
    ],
)
def test_edited_splits_that_leak_or_name_what_is_not_there(tmp_path: Path, fold: object, sentence: str) -> None:
    run = make_run(tmp_path, cases=2)
    (run.path / "splits.json").write_text(json.dumps([run.splits[0], fold]))
    with pytest.raises(AutosegError, match=sentence) as refused:
        Run(run.path).split(0)
    assert "splits.json" in str(refused.value)


def test_splits_may_leave_cases_out_and_a_parted_patient_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, cases=4)
    cases = [
        case.model_copy(update={"group": "p" if case.id in ("case_0", "case_1") else ""}) for case in run.dataset.cases
    ]
    (run.path / "dataset.json").write_text(run.dataset.model_copy(update={"cases": tuple(cases)}).model_dump_json())
    (run.path / "splits.json").write_text(json.dumps([{"train": ["case_0"], "validation": ["case_2"]}]))
    assert Run(run.path).split(0) == {"train": ["case_0"], "validation": ["case_2"]}
    assert capsys.readouterr().err == ""
    (run.path / "splits.json").write_text(json.dumps([{"train": ["case_0"], "validation": ["case_1"]}]))
    assert Run(run.path).split(0)["train"] == ["case_0"]
    assert "fold 0 validates case_1, of whose patient (p) it trains on another exam" in capsys.readouterr().err


def test_commands_in_messages_can_be_copied(tmp_path: Path) -> None:
    """Whatever the folder is called."""
    run = make_run(tmp_path / "Läufe mit Leer")
    with pytest.raises(AutosegError) as none:
        Run.open(tmp_path / "keine Läufe")
    for advice, ends in (
        (run.how_to_train("small"), ["train", str(run.path)]),
        (run.how_to_postprocess("small"), ["postprocess", str(run.path)]),
        (run.how_to_fine_tune, ["--source", str(run.path), "--out", "RUN"]),
        (str(none.value), ["--out", str(tmp_path / "keine Läufe")]),
    ):
        command = advice[advice.index("'autoseg") + 1 : advice.rindex("'")]
        assert shlex.split(command)[-len(ends) :] == ends


def test_what_is_replaced_stays_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Splits always, as users may have written them; a plan where folds were trained by it."""
    run = make_run(tmp_path)
    (plan, fingerprint, dataset, splits), text = (
        (run.plan, run.fingerprint, run.dataset, run.splits),
        run.path / "plan.json",
    )
    before = text.read_text()
    other = plan.model_copy(update={"planner": "other"})
    Run.create(run.path, other, fingerprint, dataset, splits)
    assert [path.name for path in run.path.glob("*_*.json")] == []
    folder = run.fold("small", 0).folder
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").touch()
    Run.create(run.path, other, fingerprint, dataset, splits)  # the same
    assert not list(run.path.glob("plan_*.json"))
    changed = text.read_text()
    Run.create(run.path, plan, fingerprint, dataset, list(reversed(splits)))
    (kept,) = run.path.glob("plan_*.json")
    assert kept.read_text() == changed
    assert text.read_text() == before
    (of_before,) = run.path.glob("splits_*.json")
    assert json.loads(of_before.read_text()) == splits
    said = capsys.readouterr().err
    assert f"1 fold(s) were trained by the previous version, which is kept as {kept.name}: put it back" in said
    assert f"the previous version is kept as {of_before.name}" in said


def test_a_single_fold_validates_as_asked(tmp_path: Path) -> None:
    """Stored splits of as many folds are others all the same where one validates and the other does not."""
    dataset, rules = dataset_of([""] * 10), EvaluationRules(validation_share=0.2)
    stored = tmp_path / "splits.json"
    for begun, asked, rest in (((None, rules), (1, rules), 0), ((1, EvaluationRules()), (None, rules), 2)):
        stored.write_text(json.dumps(make_splits(dataset, begun[0], 0, begun[1])))
        found = keep_or_make_splits(tmp_path, dataset, 0, *asked)
        assert [len(split["validation"]) for split in found] == [rest]


def test_edited_splits_of_few_patients_are_kept(tmp_path: Path) -> None:
    """Five folds were asked for, and four patients give four."""
    dataset = dataset_of([""] * 4)
    edited = list(reversed(make_splits(dataset, 5)))
    (tmp_path / "splits.json").write_text(json.dumps(edited))
    assert keep_or_make_splits(tmp_path, dataset, 0, 5) == edited != make_splits(dataset, 5)
