"""The plan file: validation, overrides, reasons, versions."""

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.plans.files import load_plan, save_plan
from autoseg.plans.inference import Inference
from autoseg.plans.loss import Loss
from autoseg.plans.overrides import assignment, override, refuse_unread
from autoseg.plans.plan import SCHEMA_VERSION, Plan
from autoseg.plans.reasons import explanations, values_since
from autoseg.plans.recipe import Optimizer
from autoseg.utils.errors import AutosegError, UsageError


def example() -> dict[str, Any]:
    return {
        "planner": "by hand",
        "dataset": "made",
        "channels": [{"name": "t1"}, {"name": "flair"}],
        "target": {"kind": "labels", "outputs": [{"name": "tumor", "values": [1], "paint": 1}]},
        "configurations": {
            name: {
                "spacing": [1, 1, 1],
                "data": "3d_fullres",
                "patch_size": [16] * axes,
                "batch_size": 2,
                "network": {
                    "features": [8, 16],
                    "strides": [[1] * axes, [2] * axes],
                    "kernel_sizes": [[3] * axes] * 2,
                    "encoder_blocks": [2, 2],
                    "decoder_convs": [2],
                },
                "recipe": {"augmentation": {"mirror_axes": list(range(axes))}},
                "inference": {"mirror_axes": list(range(axes))},
                "reasons": {"patch_size": "because"},
            }
            for name, axes in (("2d", 2), ("3d_fullres", 3))
        },
        "recommended": "3d_fullres",
    }


def plan() -> Plan:
    return Plan.model_validate(example())


def write(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_the_identity_of_weights_stays_what_it_was() -> None:
    """Where these digests change, the weights of older runs are no longer theirs: a newer key must leave them."""
    identities = {name: plan().stage(name).identity for name in ("2d", "3d_fullres")}
    assert identities == {"2d": "c7c26f9f666e24f6", "3d_fullres": "88164ffdd36e6f8c"}


def test_keys_that_are_added_leave_fingerprints_valid() -> None:
    """At their defaults; those that there were from the start are told at theirs, too."""

    class Later(Inference):
        newer: int = 3

    first, now = {"overlap", "step"}, Inference(overlap=0.5, average="probabilities", reasons={"overlap": "because"})
    assert values_since(now, first) == {"overlap": 0.5, "step": None, "average": "probabilities"}
    assert values_since(Later(average="probabilities"), first) == values_since(now, first)
    assert values_since(Later(newer=4), first) == {"overlap": 0.5, "step": None, "newer": 4}


def test_a_saved_plan_is_the_same_when_loaded(tmp_path: Path) -> None:
    save_plan(plan(), tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan()


def test_a_file_without_later_keys_loads(tmp_path: Path) -> None:
    loaded = load_plan(write(tmp_path / "plan.json", example()))
    assert loaded.schema_version == SCHEMA_VERSION
    assert loaded.configurations["2d"].recipe.loss.dice_weight == 1


@pytest.mark.parametrize(
    "unlabelled",
    [None, {"reasons": {"share": "of then"}, "file": "unlabelled_1.json", "share": 0.25, "confidence": 0.9}],
)
def test_a_file_with_a_key_that_is_gone_loads(tmp_path: Path, unlabelled: dict[str, Any] | None) -> None:
    data = plan().model_dump(mode="json")
    for configuration in data["configurations"].values():
        configuration["recipe"]["unlabelled"] = unlabelled
    assert load_plan(write(tmp_path / "plan.json", data)) == plan()


def test_a_key_that_is_gone_can_not_be_set() -> None:
    with pytest.raises(UsageError, match="there is no key unlabelled"):
        override(plan(), ["recipe.unlabelled=null"])


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AutosegError, match="update autoseg"):
        load_plan(write(tmp_path / "plan.json", {**example(), "schema_version": SCHEMA_VERSION + 1}))


def test_unknown_keys_wrong_types_and_contradictions_name_their_path(tmp_path: Path) -> None:
    data = example()
    data["configurations"]["2d"]["recipe"]["epoch"] = 5
    data["configurations"]["3d_fullres"]["batch_size"] = "two"
    data["configurations"]["3d_fullres"]["network"]["decoder_convs"] = [2, 2]
    with pytest.raises(AutosegError) as caught:
        load_plan(write(tmp_path / "plan.json", data))
    message = str(caught.value)
    assert "configurations.2d.recipe.epoch: this key is unknown" in message
    assert "configurations.3d_fullres.batch_size" in message
    assert "decoder_convs has 2 entries; 2 stages need 1" in message


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("recommended",), "4d", "recommended names 4d"),
        (("configurations", "2d", "patch_size"), [16, 15], "must be a multiple of 2"),
        (("configurations", "2d", "patch_size"), [16, 16, 16], "patch_size has 3 axes, the network 2"),
        (("preprocessing",), {"transpose": [0, 0, 1]}, "no permutation"),
        (("channels",), [{"name": "t1"}, {"name": "t1"}], "same name"),
        (("channels",), [{"name": "ct", "normalization": {"scheme": "ct"}}], "needs lower, upper, mean and std"),
        (("reasons",), {"nothing": "x"}, "reasons are given for fields that do not exist"),
    ],
)
def test_contradictions(tmp_path: Path, path: tuple[str, ...], value: object, message: str) -> None:
    data = example()
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(AutosegError, match=message):
        load_plan(write(tmp_path / "plan.json", data))


def test_overrides_of_one_configuration_of_all_and_of_a_named_entry() -> None:
    changed = override(
        plan(),
        ["configurations.2d.batch_size=8", "recipe.epochs=3", "channels.flair.normalization.scheme=minmax"],
    )
    assert [c.batch_size for c in changed.configurations.values()] == [8, 2]
    assert [c.recipe.epochs for c in changed.configurations.values()] == [3, 3]
    assert changed.channels[1].normalization.scheme == "minmax"
    assert plan().configurations["2d"].batch_size == 2


def test_a_star_stands_for_every_entry_of_a_list_or_table() -> None:
    changed = override(plan(), ["channels.*.normalization.scheme=minmax", "configurations.*.batch_size=4"])
    assert len(changed.channels) > 1
    assert {channel.normalization.scheme for channel in changed.channels} == {"minmax"}
    assert [c.batch_size for c in changed.configurations.values()] == [4, 4]


FAMILIES = [
    ({"family": "vnet"}, [32, 32, 32]),  # of 16³ one voxel would be left, which has no deviation to normalize by
    ({"family": "vnet", "features": [4, 8, 16], "convolutions": [1, 1, 1]}, [20, 20, 20]),
    ({"family": "deepmedic"}, [22, 22, 22]),  # 16 taken off by the convolutions, and 6, a multiple of 3
    ({"family": "deepmedic", "features": [4] * 12}, [27, 27, 27]),  # 24 taken off: no smaller patch leaves 3
    ({"family": "fullimage_unet"}, [22, 22, 22]),
    ({"family": "inflated"}, [22, 32, 32]),
    ({"family": "multiview"}, [20, 20, 20]),
]


@pytest.mark.parametrize(("network", "patch"), FAMILIES)
def test_a_network_of_another_family_and_a_patch_that_suits_it(network: dict[str, Any], patch: list[int]) -> None:
    """It has three axes: the slices' U-Net stays. Of a patch that fits nothing changes."""
    base = override(plan(), ["configurations.3d_fullres.patch_size=[22,22,22]", "batch_size=3"])
    changed = override(base, [assignment("network", network)])
    slices, volumes = changed.configurations["2d"], changed.configurations["3d_fullres"]
    assert (slices.network.family, slices.patch_size) == ("unet", [16, 16])
    assert (volumes.network.family, volumes.patch_size, volumes.batch_size) == (network["family"], patch, 3)
    assert volumes.reasons["network"] == "set by the user"
    if patch != [22, 22, 22]:
        assert volumes.reasons["patch_size"] == "22×22×22, made to suit the network that the user set"


def test_a_patch_that_is_set_with_the_network_is_left_alone() -> None:
    vnet = assignment("configurations.*.network", {"family": "vnet"})
    with pytest.raises(UsageError, match="patch_size has 2 axes, the network 3"):
        override(plan(), [vnet])
    with pytest.raises(UsageError, match="must be a multiple of 16"):
        override(plan(), [assignment("network", {"family": "vnet"}), "configurations.3d_fullres.patch_size=[20,32,32]"])
    with pytest.raises(UsageError, match="network family wnet is unknown; choose one of unet"):
        override(plan(), [assignment("network", {"family": "wnet"})])


def test_a_value_of_one_number_an_axis_goes_to_the_configurations_of_as_many() -> None:
    changed = override(plan(), [assignment("network", {"family": "vnet"}), "patch_size=[48,32,32]"])
    assert [c.patch_size for c in changed.configurations.values()] == [[16, 16], [48, 32, 32]]
    changed = override(plan(), ["patch_size=[32,24]", "inference.patch_size=[64,64]", "inference.step=[8,8,8]"])
    assert [c.patch_size for c in changed.configurations.values()] == [[32, 24], [16, 16, 16]]
    assert [c.inference.patch_size for c in changed.configurations.values()] == [[64, 64], None]
    assert [c.inference.step for c in changed.configurations.values()] == [None, [8, 8, 8]]
    changed = override(plan(), ["recipe.augmentation.mirror_axes=[0,2]", "inference.mirror_axes=[2]"])
    assert [c.recipe.augmentation.mirror_axes for c in changed.configurations.values()] == [[0, 1], [0, 2]]
    assert [c.inference.mirror_axes for c in changed.configurations.values()] == [[0, 1], [2]]
    with pytest.raises(UsageError, match="patch_size"):
        override(plan(), ["patch_size=[16]"])


@pytest.mark.parametrize(
    ("assigned", "kept"),
    [
        (["recipe.augmentation.mirror_axes=[0]"], [[0], [0]]),
        (["configurations.3d_fullres.recipe.augmentation.mirror_axes=[2]"], [[0, 1], [2]]),
        (["configurations.*.recipe.augmentation.mirror_axes=[]"], [[], []]),
        (["recipe.augmentation.mirror_probability=0"], [[], []]),
        ([assignment("recipe.augmentation", {"mirror_axes": [1]})], [[1], [1]]),
        ([assignment("recipe", {"augmentation": {"mirror_axes": [1]}})], [[1], [1]]),
        (["recipe.augmentation.mirror_axes=[0]", "inference.mirror_axes=[0,1]"], [[0, 1], [0, 1]]),
        (["recipe.augmentation.noise_probability=0"], [[0, 1], [0, 1, 2]]),
    ],
)
def test_predictions_are_mirrored_along_no_axis_that_training_was_told_to_leave(
    assigned: list[str], kept: list[list[int]]
) -> None:
    configurations = override(plan(), assigned).configurations
    assert [c.inference.mirror_axes for c in configurations.values()] == kept
    for one, before in zip(configurations.values(), plan().configurations.values(), strict=True):
        if "inference" not in "".join(assigned) and one.inference.mirror_axes != before.inference.mirror_axes:
            assert "which the user set" in one.inference.reasons["mirror_axes"]


def test_a_whole_part_is_replaced_and_what_is_left_out_is_at_its_default() -> None:
    changed = override(
        plan(),
        [
            "recipe.loss.smooth=1",
            'recipe.loss={"dice_weight": 0, "topk_weight": 1}',
            'recipe.optimizer={"name": "ranger21"}',
            'channels.*.normalization={"scheme": "percentile", "masked": true}',
        ],
    )
    for configuration in changed.configurations.values():
        assert configuration.recipe.loss.model_dump(exclude={"reasons"}) == {
            **Loss().model_dump(exclude={"reasons"}),
            "dice_weight": 0,
            "topk_weight": 1,
        }
        assert configuration.recipe.optimizer.name == "ranger21"
        assert configuration.recipe.reasons["loss"] == "set by the user"
    assert {(c.normalization.scheme, c.normalization.masked) for c in changed.channels} == {("percentile", True)}


@pytest.mark.parametrize("value", [0.5, "minmax", [1, 2], True, "a=b", {"deep": [1.5]}, "1"])
def test_an_assignment_is_read_back_as_it_was(value: object) -> None:
    path, _, text = assignment("path.to.key", value).partition("=")
    assert path == "path.to.key"
    assert json.loads(text) == value


def test_an_override_replaces_the_reason() -> None:
    changed = override(plan(), ["configurations.2d.patch_size=[32,32]"])
    assert changed.configurations["2d"].reasons["patch_size"] == "set by the user"
    assert changed.configurations["3d_fullres"].reasons["patch_size"] == "because"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("recipe.epochs", "not of the form"),
        ("recipe.epoch=3", r"there is no key epoch in configurations\.2d\.recipe \(epochs"),
        ("channels.t2.name=x", "channels has no entry t2"),
        ("channels.*.nam=x", r"there is no key nam in channels\.0"),
        ("recipe.epochs=0", r"makes the plan invalid: configurations\.2d\.recipe\.epochs"),
        ("configurations.2d.patch_size=[15,16]", "must be a multiple of 2"),
        ("nothing=1", r"there is no key nothing in the plan \(schema_version, autoseg_version, planner"),
        ("schema_version=2", "it can't be set"),
        ("target.ignore=1", "target: tumor has the value 1, whose voxels are left out"),
        ("target.outputs.tumor.values=[0, 2]", "target: tumor has the value 0, which is the background's"),
        ("target.outputs.tumor.paint=0", "target: tumor is painted with 0, which is the background's"),
    ],
)
def test_wrong_overrides(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        override(plan(), [assignment])


@pytest.mark.parametrize("value", ["5", "null", "x", "[]", '{"2d": 5}', '{"new": {}}'])
@pytest.mark.parametrize("more", [[], ["recipe.epochs=3"], ["recipe.augmentation.mirror_axes=[0]"], ["network=5"]])
@pytest.mark.parametrize("path", ["configurations", "configurations.2d", "configurations.*", "inference", "recipe"])
def test_parts_that_are_none_are_refused(path: str, value: str, more: list[str]) -> None:
    with pytest.raises(UsageError, match="--set "):
        override(plan(), [f"{path}={value}", *more])


@pytest.mark.parametrize(
    ("assigned", "message"),
    [
        (["recipe.optimizer.momentum=0.9"], "momentum is read by sgd, and the optimizer is adamw; set recipe"),
        (["recipe.optimizer.eps=1e-7", "recipe.optimizer.name=sgd"], "eps is read by adam, adamw, ranger21, and the"),
        (["configurations.2d.recipe.schedule.power=2"], "power is read by poly, and the schedule is cosine"),
        (["configurations.*.recipe.schedule.patience=3"], "patience is read by plateau"),
        (['recipe.optimizer={"momentum": 0.5}'], "momentum is read by sgd"),
        (['recipe.schedule={"name": "one_cycle", "warmup": 0.1}'], "warmup is read by cosine, poly, constant, explore"),
    ],
)
def test_a_key_that_the_chosen_one_does_not_read_is_refused(assigned: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=f"would change nothing: {message}"):
        refuse_unread(override(plan(), assigned), assigned)


@pytest.mark.parametrize(
    "assigned",
    [
        ["recipe.optimizer.momentum=0.9", "recipe.optimizer.name=sgd"],
        ["configurations.2d.recipe.optimizer.name=sgd", "recipe.optimizer.momentum=0.9"],  # one of the two reads it
        ['recipe.schedule={"name": "plateau", "patience": 3}', "recipe.schedule.name=cosine"],
        [assignment("recipe.optimizer", Optimizer().model_dump())],  # as it stands in a plan.json
        ["recipe.optimizer.layer_decay=0.5", "recipe.schedule.floor=0.1", "recipe.epochs=3", "batch_size=1"],
    ],
)
def test_a_key_that_is_read_may_be_set(assigned: list[str]) -> None:
    refuse_unread(override(plan(), assigned), assigned)


def test_an_extensions_optimizer_may_read_any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assigned = ["recipe.optimizer.momentum=0.9"]
    monkeypatch.delitem(Optimizer.READS, "adamw")
    refuse_unread(override(plan(), assigned), assigned)


#: A network for which patches of 16 voxels are no longer right.
OF_SIX = {**example()["configurations"]["3d_fullres"]["network"], "strides": [[1] * 3, [6] * 3]}


@pytest.mark.parametrize("wrong", ["reasons=5", "patch_size.0=null"])
def test_patches_that_are_none_are_refused_beside_a_network(wrong: str) -> None:
    with pytest.raises(UsageError, match=f"makes the plan invalid: .*{wrong.partition('=')[0]}"):
        override(plan(), [f"configurations.3d_fullres.{wrong}", assignment("network", OF_SIX)])


def test_a_network_and_a_whole_part_are_set_together() -> None:
    """Keys that are left out have their defaults, and patches are still made to suit the network."""
    changed = override(plan(), ['inference={"mirror_axes": []}', assignment("network", OF_SIX)])
    full = changed.configurations["3d_fullres"]
    assert full.inference.mirror_axes == []
    assert all(size % 6 == 0 for size in full.patch_size)


def test_configurations_of_other_names_are_checked_alike() -> None:
    one = plan().model_dump(mode="json")["configurations"]["3d_fullres"]
    both = {"a": one, "b": {**one, "spacing": [2, 1, 1]}}
    with pytest.raises(UsageError, match="a and b share their preprocessed cases"):
        override(plan(), [assignment("configurations", both), "recommended=a", "recipe.epochs=3"])
    both["b"]["data"] = "b"
    changed = override(plan(), [assignment("configurations", both), "recommended=a", "recipe.epochs=3"])
    assert [configuration.recipe.epochs for configuration in changed.configurations.values()] == [3, 3]


def test_configurations_that_share_cases_preprocess_them_alike() -> None:
    """Else each would make those of the other anew, or read them at the wrong spacing."""
    data = plan().configurations["2d"].data
    shared = override(plan(), [f"configurations.3d_fullres.data={data}", "spacing=[3,1,1]"])
    for changed in ("spacing=[1,1,1]", "resampling.image_order=1"):
        with pytest.raises(UsageError, match=r"2d and 3d_fullres share .*configurations.2d.data=NAME"):
            override(shared, [f"configurations.3d_fullres.{changed}"])
        assert override(shared, [changed]).configurations["2d"].data == data
        override(shared, [f"configurations.3d_fullres.{changed}", "configurations.3d_fullres.data=own"])


def test_explanations_give_path_value_and_reason() -> None:
    assert ("configurations.2d.patch_size", [16, 16], "because") in explanations(plan())


def test_an_unknown_configuration_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="it has 2d, 3d_fullres"):
        plan().stage("3d")
    assert plan().stage().name == "3d_fullres"


WRONG = [
    ("network.strides", [[1, 1, 1], [0, 2, 2]], "network.strides.1.0"),
    ("network.kernel_sizes", [[3, 3, 3], [3, 2, 3]], "network.kernel_sizes.1.1: a kernel needs an odd size"),
    ("network.kernel_sizes", [[3, 3, 3], [3, -1, 3]], "network.kernel_sizes.1.1"),
    ("network.features", [8, 0], "network.features.1"),
    ("network.encoder_blocks", [2, 0], "network.encoder_blocks.1"),
    ("network.decoder_convs", [0], "network.decoder_convs.0"),
    ("spacing", [1, 0, 1], "spacing.1"),
    ("spacing", [1, float("inf"), 1], "spacing.1"),
    ("data", "../elsewhere", "data: '../elsewhere' can't name a folder"),
    ("data", "a/b", "data"),
    ("data", ".hidden", "data"),
    ("recipe.augmentation.rotation_axes", [0, 3], "recipe.augmentation.rotation_axes.1"),
    ("recipe.augmentation.mirror_axes", [-1], "recipe.augmentation.mirror_axes.0"),
    ("inference.mirror_axes", [-1], "inference.mirror_axes.0"),
    ("recipe.optimizer.learning_rate", float("inf"), "recipe.optimizer.learning_rate"),
    ("recipe.augmentation.gamma", [0.7, float("nan")], "recipe.augmentation.gamma.1"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_impossible_values_name_their_path(tmp_path: Path, key: str, value: object, message: str) -> None:
    data = example()
    *parents, last = key.split(".")
    node = data["configurations"]["3d_fullres"]
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    with pytest.raises(AutosegError) as caught:
        load_plan(write(tmp_path / "plan.json", data))
    assert f"configurations.3d_fullres.{message}" in str(caught.value)


@pytest.mark.parametrize("name", ["a/b", "..", "a\\b", ""])
def test_a_configuration_names_a_folder(tmp_path: Path, name: str) -> None:
    data = example()
    data["configurations"][name] = data["configurations"]["2d"]
    with pytest.raises(AutosegError, match=r"configurations\..*can't name a folder"):
        load_plan(write(tmp_path / "plan.json", data))


def test_a_patch_of_which_one_voxel_is_left_is_refused() -> None:
    with pytest.raises(UsageError, match="patch_size 2×2×2 leaves the network one voxel"):
        override(plan(), ["configurations.3d_fullres.patch_size=[2,2,2]"])
    assert override(plan(), ["configurations.3d_fullres.patch_size=[2,2,4]"])


# --- missing channels ---


def test_the_only_channel_is_never_dropped() -> None:
    one = {**example(), "channels": [{"name": "t1"}]}
    with pytest.raises(UsageError, match=r"recipe\.channel_dropout is 0\.2, but t1 is the only channel"):
        override(Plan.model_validate(one), ["recipe.channel_dropout=0.2"])
    with pytest.raises(UsageError, match="channel_dropout"):
        override(plan(), ["recipe.channel_dropout=1"])


def test_missing_channels_are_for_what_was_trained_for_them() -> None:
    def takes(of: Plan, name: str) -> bool:
        return of.stage(name).takes_missing_channels

    assert not takes(plan(), "3d_fullres")
    assert takes(override(plan(), ["allow_missing_channels=true"]), "3d_fullres")
    one = override(plan(), ["configurations.3d_fullres.recipe.channel_dropout=0.1"])
    assert takes(one, "3d_fullres")
    assert not takes(one, "2d")


def test_every_stage_must_be_trained_for_missing_channels() -> None:
    stages = {**example(), "configurations": {name: example()["configurations"]["3d_fullres"] for name in ("a", "b")}}
    stages["configurations"]["b"] = {**stages["configurations"]["b"], "previous": {"configuration": "a"}}
    chain = Plan.model_validate({**stages, "recommended": "b"})
    for dropping, expected in ((["a"], False), (["b"], False), (["a", "b"], True)):
        some = override(chain, [f"configurations.{name}.recipe.channel_dropout=0.1" for name in dropping])
        assert some.stage("b").takes_missing_channels == expected
