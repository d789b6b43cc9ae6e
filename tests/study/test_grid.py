"""Grid files: what they may say, what products are called, and what is said of wrong ones."""

from pathlib import Path

import pytest

from autoseg.study.grid import flatten, read_grid
from autoseg.utils.errors import UsageError


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_one_by_one_add_to_what_is_common(tmp_path: Path) -> None:
    grid, (first, second) = read_grid(
        write(
            tmp_path,
            """
            folds = "all"
            seeds = [3, 5]
            max_time = "1h30m"
            width = 8
            channels = ["t1", "t2"]
            set = { "recipe.epochs" = 10, "batch_size" = 2 }
            [[setting]]
            name = "plain"
            [[setting]]
            name = "other"
            planner = "resenc"
            width = 16
            channels = ["t2"]
            set = { "recipe.epochs" = 20, recipe.loss.ce_weight = 0 }
            """,
        )
    )
    assert (grid.name, grid.baseline, grid.folds, grid.seeds, grid.max_seconds) == (
        "study",
        "plain",
        None,
        [3, 5],
        5400,
    )
    assert (first.planner, first.width, first.channels) == ("", 8, ("t1", "t2"))
    assert first.values == {"recipe.epochs": 10, "batch_size": 2}
    assert (second.planner, second.width, second.channels) == ("resenc", 16, ("t2",))
    assert second.values == {"recipe.epochs": 20, "batch_size": 2, "recipe.loss.ce_weight": 0}


def test_axes_are_multiplied_and_named_after_their_values(tmp_path: Path) -> None:
    _, settings = read_grid(
        write(
            tmp_path,
            """
            [grid]
            "recipe.optimizer.name" = ["sgd", "adam"]
            recipe.optimizer.learning_rate = [1e-2, 1e-4]
            planner = ["unet"]
            """,
        )
    )
    assert [setting.name for setting in settings] == [
        "sgd_learning_rate=0.01_unet",
        "sgd_learning_rate=0.0001_unet",
        "adam_learning_rate=0.01_unet",
        "adam_learning_rate=0.0001_unet",
    ]
    assert settings[3].values == {"recipe.optimizer.name": "adam", "recipe.optimizer.learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("axis", "names"),
    [
        ('channels = [["t1", "t1c"], ["flair"]]', ["t1+t1c", "flair"]),
        ("width = [8, 16]", ["width=8", "width=16"]),
        ('"recipe.loss.batch_dice" = [true, false]', ["batch_dice=true", "batch_dice=false"]),
        ('"patch_size" = [[32, 32, 16]]', ["patch_size=32-32-16"]),
        ('"recipe.loss" = [{ dice_weight = 1, ce_weight = 0.5 }]', ["dice_weight=1_ce_weight=0.5"]),
        ('"channels.*.normalization.scheme" = ["none"]', ["none"]),
        ('"network.norm" = ["a b/c"]', ["norm=a-b-c"]),
    ],
)
def test_names_are_folder_names(tmp_path: Path, axis: str, names: list[str]) -> None:
    _, settings = read_grid(write(tmp_path, f"[grid]\n{axis}"))
    assert [setting.name for setting in settings] == names


def test_axes_that_end_alike_are_told_apart(tmp_path: Path) -> None:
    text = '[grid]\n"recipe.augmentation.rotation" = [1]\n"a.rotation" = [2]'
    assert read_grid(write(tmp_path, text))[1][0].name == "augmentation.rotation=1_a.rotation=2"


def test_a_table_as_a_value_sets_what_is_in_it(tmp_path: Path) -> None:
    _, settings = read_grid(write(tmp_path, '[grid]\n"recipe.loss" = [{ dice_weight = 1, ce_weight = 0.5 }]'))
    assert settings[0].values == {"recipe.loss.dice_weight": 1, "recipe.loss.ce_weight": 0.5}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('[[setting]]\nname = "v"\nset = { network = { family = "vnet", norm = "none" } }', "v"),
        ('[[setting]]\nname = "v"\n[setting.set.network]\nfamily = "vnet"\nnorm = "none"', "v"),
        ('[grid]\nnetwork = [{ family = "vnet", norm = "none" }]', "family=vnet_norm=none"),
    ],
)
def test_a_network_as_a_value_is_set_as_a_whole(tmp_path: Path, text: str, name: str) -> None:
    _, (setting,) = read_grid(write(tmp_path, text))
    assert setting.name == name
    assert setting.values == {"network": {"family": "vnet", "norm": "none"}}
    _, settings = read_grid(write(tmp_path, '[grid]\nnetwork.family = ["vnet", "unet"]'))
    assert [one.values for one in settings] == [{"network.family": "vnet"}, {"network.family": "unet"}]


def test_every_setting_is_crossed_with_the_axes(tmp_path: Path) -> None:
    text = 'baseline = "b_width=4"\n[[setting]]\nname = "a"\n[[setting]]\nname = "b"\n[grid]\nwidth = [4, 8]'
    grid, settings = read_grid(write(tmp_path, text))
    assert [(s.name, s.width) for s in settings] == [
        ("a_width=4", 4),
        ("a_width=8", 8),
        ("b_width=4", 4),
        ("b_width=8", 8),
    ]
    assert grid.baseline == "b_width=4"


def test_flatten() -> None:
    assert dict(flatten({"a": {"b": 1, "c.d": {"e": [2]}}, "f": {}})) == {"a.b": 1, "a.c.d.e": [2], "f": {}}


ONE = '[[setting]]\nname = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"study.toml: there is nothing to compare: give \[\[setting\]\] tables, or axes under \[grid\]"),
        ("folds = [0\n", "is not valid TOML"),
        ("seed = [1]\n" + ONE, r"seed: this key is unknown \(did you mean seeds\?\)"),
        (ONE + "sets = {}", r"setting\.0\.sets: this key is unknown \(did you mean set\?\)"),
        ("[[setting]]\nwidth = 3", r"setting\.0\.name: this key is missing"),
        ("epochs = 3\nmax_time = '3m'\n" + ONE, "epochs and max_time can't both"),
        ("epochs = 0\n" + ONE, "epochs: "),
        ("empty = 'brats2023'\n" + ONE, "empty: Input should be 'skip' or 'brats'"),
        ("max_time = 'soon'\n" + ONE, "max_time soon is no duration"),
        ("max_time = '0s'\n" + ONE, "max_time must be more than 0"),
        ("seeds = []\n" + ONE, "seeds: "),
        ("seeds = [1, 1]\n" + ONE, "seeds must name at least one number, and none twice"),
        ("folds = []\n" + ONE, "folds must name at least one number"),
        ("folds = 'some'\n" + ONE, "folds: "),
        ("baseline = 'aa'\n" + ONE, r"baseline: aa is no setting \(did you mean a\?\); there are a\."),
        (ONE + ONE, "two settings are called a"),
        (ONE + '[[setting]]\nname = "A"', "two settings are called A"),
        ('[[setting]]\nname = "a/b"', r"setting\.0\.name: 'a/b' can't name a folder"),
        ('[[setting]]\nname = "plans"', "'plans' can't name a folder"),
        ("[grid]\nwidth = [1, 1]", "two settings are called width=1"),
        ("[grid]\nwidth = 3", r"grid\.width: an axis is a list of values"),
        ("[grid]\nwidth = []", r"grid\.width: an axis is a list of values"),
        ("[grid]\nwidth = [0]", r"grid\.width: Input should be greater than 0"),
        ("[grid]\nplaner = ['unet']", r"grid\.planer: did you mean planner\?"),
        ("[grid]\nchannels = ['t1']", r"grid\.channels: Input should be a valid list"),
        (ONE + "width = 3\n[grid]\nwidth = [1]", r"setting a sets width, which is an axis under \[grid\], too"),
        (ONE + "set = {recipe.epochs = 3}\n[grid]\nrecipe.epochs = [1]", r"setting a sets recipe\.epochs, which is"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        read_grid(write(tmp_path, text))
    assert "\n" not in str(raised.value)
    assert "study.toml" in str(raised.value)


def test_a_file_that_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As Windows' editors write it."""
    _, settings = read_grid(write(tmp_path, "\ufeff[grid]\nwidth = [1, 2]"))
    assert [setting.name for setting in settings] == ["width=1", "width=2"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--grid .*none.toml does not exist"):
        read_grid(tmp_path / "none.toml")
