"""Before the first training: whatever is wrong with any setting, and what is kept for the next time."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autoseg.data.dataset import Dataset
from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import Request, ResolvedRequest
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.families import DeepMedic, VNet
from autoseg.plans.plan import Plan
from autoseg.study import preparation
from autoseg.study.grid import Setting
from autoseg.study.options import StudyOptions
from autoseg.study.preparation import Study, plan_setting, prepare, scale_width
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import REGIONS, blob, make_configuration, make_network, make_plan, picture_of, write

Grid = Callable[[str], Path]

TWO = '[[setting]]\nname = "one"\n[[setting]]\nname = "two"\nset = { "recipe.optimizer.learning_rate" = 0.5 }\n'


#: What all studies here have in common.
ASKED = Request(device="cpu", workers=1)


def test_one_fingerprint_one_set_of_splits_one_plan_a_planner(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]
) -> None:
    study = prepare(dataset, grid(TWO), tmp_path / "out", ASKED)
    assert planned == ["unet"]
    rates = [study.plans[name].configurations["small"].recipe.optimizer.learning_rate for name in ("one", "two")]
    assert rates == [1e-3, 0.5]
    assert [structure.name for structure in study.structures] == ["outer", "inner"]
    assert len(study.folds) == len(study.splits) == 4
    again = prepare(dataset, grid(TWO), tmp_path / "out", Request(device="auto", workers=1))
    assert planned == ["unet"]  # kept
    assert again.splits == study.splits
    for setting in study.settings:
        assert again.identity(setting, 0) == study.identity(setting, 0) != study.identity(setting, 1)


def test_a_settings_plan_is_made_once(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    real = preparation.refresh
    monkeypatch.setattr(preparation, "refresh", lambda plan: computed.append(1) or real(plan))
    first = prepare(dataset, grid(TWO), tmp_path / "out", ASKED)
    again = prepare(dataset, grid(TWO), tmp_path / "out", ASKED)
    assert len(computed) == 1  # the setting "one" changes nothing
    plans = [{name: plan.model_dump(mode="json") for name, plan in study.plans.items()} for study in (first, again)]
    assert plans[0] == plans[1]
    changed = prepare(dataset, grid(TWO.replace("0.5", "0.25")), tmp_path / "out", ASKED)
    assert changed.plans["two"].configurations["small"].recipe.optimizer.learning_rate == 0.25
    assert len(computed) == 2


def test_an_identity_changes_with_what_decides_a_training_only(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]
) -> None:
    def identity(text: str, folder: str = "out") -> str:
        study = prepare(dataset, grid(text + TWO), tmp_path / folder, ASKED)
        return study.identity(study.settings[1], 0)

    usual = identity("")
    assert identity("folds = [1]\nseeds = [0, 4]\nbaseline = 'two'\n") == usual
    assert identity("", "elsewhere") == usual
    changed = [
        identity("epochs = 3\n"),
        identity("max_time = '3m'\n"),
        identity("split_seed = 1\n"),
        identity("width = 8\n"),
    ]
    assert len({usual, *changed}) == 5


def test_folds_of_plans_that_validate_a_share(
    dataset: Dataset, grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which folds there are is the file's matter; which of them are trained now, the command line's."""

    def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
        share = 0.25 if request.planner == "sharing" else 0.0
        return make_plan(planner=request.planner, evaluation=EvaluationRules(validation_share=share))

    monkeypatch.setattr(preparation, "make_plan", plan)

    def study(text: str, folder: str, options: StudyOptions = StudyOptions()) -> Study:
        return prepare(dataset, grid('planner = "sharing"\n' + text), tmp_path / folder, ASKED, options)

    several = study("folds = [0, 1]\n" + TWO, "several")
    assert len(several.splits) == 4
    for more in ("folds = [0, 1]\n", "folds = [0]\n", ""):
        now = study(more + TWO, "several", StudyOptions(folds=(0,)))
        assert (now.splits, now.folds) == (several.splits, (0,))
        assert now.identity(now.settings[0], 0) == several.identity(several.settings[0], 0)
    one = study("folds = [0]\n" + TWO, "one")
    assert len(one.splits) == 1
    assert one.rules.validation_share == 0.25
    # With a setting whose plan has another share, those that are trained stay as they are.
    other = study("folds = [0]\n" + TWO + '[[setting]]\nname = "three"\nplanner = "other"\n', "one")
    assert other.splits == one.splits
    assert other.identity(other.settings[0], 0) == one.identity(one.settings[0], 0)
    with pytest.raises(UsageError, match=r"folds: 1 does not exist; there is fold 0, .* folds = \[0, 1\] in the file"):
        study("folds = [0]\n" + TWO, "one", StudyOptions(folds=(1,)))
    assert study("folds = [0, 1]\n" + TWO, "one").splits == several.splits


def test_another_network(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]) -> None:
    text = 'set = { network = { family = "vnet", features = [4, 8], convolutions = [1, 1] } }\n' + TWO
    network = prepare(dataset, grid(text), tmp_path / "out", ASKED).plans["one"].configurations["small"].network
    assert isinstance(network, VNet)
    assert network.features == [4, 8]


def test_every_setting_is_checked(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]) -> None:
    text = TWO + '[[setting]]\nname = "three"\nset = { recipe.los.ce_weight = 1 }\n'
    text += '[[setting]]\nname = "four"\nset = { recipe.epochs = 0 }\n'
    with pytest.raises(UsageError) as raised:
        prepare(dataset, grid(text), tmp_path / "out", ASKED)
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    assert "setting three: recipe.los.ce_weight=1: there is no key los in configurations.small.recipe" in lines[1]
    assert "setting four: recipe.epochs=0 makes the plan invalid: configurations.small.recipe.epochs" in lines[2]
    assert not (tmp_path / "out" / "one").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folds = [4]\n", r"study\.toml: folds: 4 does not exist; there are the folds 0 to 3"),
        ("structures = ['core']\n", r"structures: core is not in blobs \(outer, inner\)"),
        ("regions = ['core']\n", r"regions: core is not in blobs \(outer, inner\)"),
        ("channels = ['ct']\n", r"setting one: channels: ct is not in blobs \(mr\)"),
    ],
)
def test_what_the_dataset_does_not_have(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str], text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(dataset, grid(text + TWO), tmp_path / "out", ASKED)


def test_an_unknown_planner_is_named_with_its_setting(dataset: Dataset, grid: Grid, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"setting a: planner nix is unknown; installed planners: .*unet"):
        prepare(
            dataset,
            grid('[[setting]]\nname = "a"\nplanner = "nix"\n'),
            tmp_path / "out",
            ASKED,
        )


def test_structures_are_the_datasets_regions_whatever_a_plan_trains(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]
) -> None:
    dataset = dataset.model_copy(update={"regions": {"whole": (1, 2), "core": (2,)}})
    study = prepare(dataset, grid(TWO), tmp_path / "out", ASKED)
    assert study.plans["one"].target.kind == "labels"
    assert [(s.name, s.values) for s in study.structures] == [("whole", (1, 2)), ("core", (2,))]
    named = prepare(dataset, grid("structures = ['outer', 'core']\n" + TWO), tmp_path / "out", ASKED)
    assert [(s.name, s.values) for s in named.structures] == [("outer", (1,)), ("core", (2,))]


def test_a_setting_that_cannot_speak_of_a_structure_is_refused(
    dataset: Dataset, grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = REGIONS.model_copy(update={"outputs": REGIONS.outputs[:1]})
    monkeypatch.setattr("autoseg.study.preparation.make_plan", lambda *_: make_plan(target=whole))
    with pytest.raises(UsageError, match=r"setting one does not segment outer, inner; give structures ="):
        prepare(dataset, grid(TWO), tmp_path / "out", ASKED)


def test_planners_may_segment_different_things(
    dataset: Dataset, grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that tells one region from the rest is compared by that region."""
    both = REGIONS.model_copy(update={"outputs": REGIONS.outputs})
    whole = REGIONS.model_copy(update={"outputs": REGIONS.outputs[:1]})
    monkeypatch.setattr(
        "autoseg.study.preparation.make_plan",
        lambda _, asked: make_plan(target=whole if asked.planner == "vnet" else both, planner=asked.planner),
    )
    two = "[grid]\nplanner = ['unet', 'vnet']\n"
    study = prepare(
        dataset.model_copy(update={"regions": {"whole": (1, 2), "inner": (2,)}}), grid(two), tmp_path, ASKED
    )
    found = {setting.planner: [one.name for one in study.structures_of(setting)] for setting in study.settings}
    assert found == {"unet": ["whole", "inner"], "vnet": ["whole"]}


def test_shares_that_leave_nothing_are_refused(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]
) -> None:
    """The file's and the plans', which are only known together."""
    text = 'test_share = 0.6\nset = { "evaluation.validation_share" = 0.5 }\n[[setting]]\nname = "one"\n'
    with pytest.raises(UsageError, match=r"study.toml: test_share 0.6 and validation_share 0.5 leave nothing"):
        prepare(dataset, grid(text), tmp_path / "out", ASKED)


def test_a_test_set_of_other_label_values_is_refused(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]
) -> None:
    """By numbers, each structure would be scored as another one."""
    other = dataset.model_copy(update={"labels": {"outer": 2, "inner": 1, "rim": 3}})
    with pytest.raises(AutosegError, match=r"has the labels inner 1, outer 2 and .*blobs inner 2, outer 1"):
        prepare(dataset, grid(TWO), tmp_path / "out", ASKED, StudyOptions(test=other))
    more = dataset.model_copy(update={"labels": {**dataset.labels, "rim": 3}})
    assert prepare(dataset, grid(TWO), tmp_path / "out", ASKED, StudyOptions(test=more)).test == more


def test_a_run_folder_is_no_study(dataset: Dataset, grid: Grid, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.json").write_text("{}")
    with pytest.raises(UsageError, match="is a run folder"):
        prepare(dataset, grid(TWO), tmp_path / "out")


def test_a_changed_file_of_the_dataset_is_read_again(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    real = preparation.checked_fingerprint
    monkeypatch.setattr(preparation, "checked_fingerprint", lambda *a: read.append(1) or real(*a))
    with pytest.raises(UsageError, match="there is no key nothing"):
        prepare(dataset, grid(TWO + "[grid]\nrecipe.nothing = [1]\n"), tmp_path / "out", ASKED)
    for _ in range(2):
        prepare(dataset, grid(TWO), tmp_path / "out", ASKED)
    assert len(read) == 1
    write(dataset.cases[0].channels["mr"].path, picture_of(blob(), seed=9))
    prepare(dataset, grid(TWO), tmp_path / "out", Request(device="cpu", workers=0))
    assert len(read) == 2


def test_the_device_is_the_one_that_the_study_was_begun_for(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]
) -> None:
    prepare(dataset, grid("gpu_memory = 5\n" + TWO), tmp_path / "out", Request(device="cuda", workers=1))
    study = prepare(dataset, grid("gpu_memory = 5\n" + TWO), tmp_path / "out", Request(device="auto", workers=1))
    assert study.plans["one"].device == "cuda"
    assert json.loads((tmp_path / "out" / "study.json").read_text())["gpu_memory"] == 5


def test_width_scales_all_stages_and_what_follows_from_them() -> None:
    plan = make_plan(make_configuration(network=make_network(stages=3, width=4)))  # 4 8 16
    wide = plan_setting(plan, Setting("s", "unet", (), 6, {})).configurations["small"]
    assert wide.network.features == [6, 12, 24]
    assert (wide.patch_size, wide.batch_size) == ([8, 8, 8], 2)
    same = plan_setting(plan, Setting("s", "unet", (), 4, {})).configurations["small"]
    assert same.network.features == [4, 8, 16]
    assert 2.1 < wide.parameters / same.parameters < 2.3  # about (6 / 4)²
    assert wide.memory is not None
    assert same.memory is not None
    assert wide.memory.total > same.memory.total
    assert wide.reasons["memory"].endswith("GB")


def test_width_of_other_families() -> None:
    vnet = make_plan(make_configuration(patch=(16, 16, 32), network=VNet()))
    assert scale_width(vnet, 8) == ["configurations.small.network.features=[8, 16, 32, 64, 128]"]
    deepmedic = make_plan(make_configuration(patch=(25, 25, 25), network=DeepMedic()))
    with pytest.raises(UsageError, match=r"width scales the stages of U-Nets .* is a deepmedic"):
        scale_width(deepmedic, 8)
