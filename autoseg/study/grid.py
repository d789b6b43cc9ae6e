"""The grid file: the settings that a study compares (see ``docs/sweep.md``)."""

import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from autoseg.evaluation.metric import METRICS
from autoseg.study.table_layout import CASE, MEASURE, SETTING, TableLayout
from autoseg.utils.durations import parse_duration
from autoseg.utils.errors import UsageError
from autoseg.utils.text import listed

if TYPE_CHECKING:
    from typing import Self

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Folders of a study beside those of its settings.
RESERVED = ("plans", "preprocessed", "replaced")

#: Axes that are no path in a plan, but options of planning.
SPECIAL: dict[str, TypeAdapter[Any]] = {
    "planner": TypeAdapter(str),
    "channels": TypeAdapter(Annotated[list[str], Field(min_length=1)]),
    "regions": TypeAdapter(Annotated[list[str], Field(min_length=1)]),
    "width": TypeAdapter(Annotated[PositiveInt, Field(strict=True)]),
}

#: Last keys of a path that are left out of a setting's name: ``optimizer.name = "sgd"`` is called ``sgd``.
_PLAIN = ("planner", "channels", "regions", "name", "scheme", "family")


def _check_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+=-]*", name) or name in RESERVED:
        raise ValueError(
            f"{name!r} can't name a folder: use letters, digits and _ . + = -, and none of {', '.join(RESERVED)}"
        )
    return name


#: Name of a setting and of its folder.
Name = Annotated[str, AfterValidator(_check_name)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SettingEntry(_Model):
    """A ``[[setting]]`` of the file; keys left out have the common value.

    Attributes:
        name: of the setting and of its folder.
        planner: instead of the common one.
        channels: instead of the common ones.
        regions: instead of the common ones.
        width: instead of the common one.
        set: further values of the plan, path → value.
        grid: axes of its own, which are crossed with the common ones.
    """

    name: Name
    planner: str | None = None
    channels: list[str] | None = None
    regions: list[str] | None = None
    width: PositiveInt | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Any] = Field(default_factory=dict)


class Grid(_Model):
    """The content of a grid file.

    Attributes:
        name: of the study; default: the file's.
        baseline: setting that the others are compared with; default: the first.
        folds: to train; None (``"all"`` in the file) for all.
        seeds: each setting is trained with each of them, and a case's values are averaged over them.
        split_seed: of the folds, which are the same for all settings.
        test_share: of the patients, held out from all folds; the plans' where None, if they agree.
        empty: convention for structures that are absent; the plans' where None, if they agree.
        epochs: length of each fold's training; the plan's where neither this nor ``max_time`` is given.
        max_time: wall-clock time of each fold's training, such as ``30m``.
        structures: names of the dataset's labels or regions to evaluate.
        planner: name; the default one where empty.
        channels: to use; empty for all.
        regions: to segment; empty for all.
        gpu_memory: memory budget in 10⁹ bytes.
        width: channels of the first stage of U-Nets; their other stages are scaled with it.
        set: values of the plan, path → value.
        setting: single settings.
        grid: axis (a path in the plan, or one of :data:`SPECIAL`) → values; every setting is trained with every
            combination.
        table: how its tables are laid out, beside the usual ones.
    """

    name: str = ""
    baseline: str | None = None
    folds: Annotated[list[NonNegativeInt] | None, BeforeValidator(lambda v: None if v == "all" else v)] = None
    seeds: list[NonNegativeInt] = Field(default_factory=lambda: [0], min_length=1)
    split_seed: NonNegativeInt = 0
    test_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    empty: Literal["skip", "brats"] | None = None
    epochs: PositiveInt | None = None
    max_time: str | None = None
    structures: list[str] = Field(default_factory=list)
    planner: str = ""
    channels: list[str] = Field(default_factory=list)
    regions: list[str] = Field(default_factory=list)
    gpu_memory: PositiveFloat | None = None
    width: PositiveInt | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    setting: list[SettingEntry] = Field(default_factory=list)
    grid: dict[str, Any] = Field(default_factory=dict)
    table: Annotated[list[TableLayout], BeforeValidator(lambda v: [v] if isinstance(v, dict) else v)] = Field(
        default_factory=list
    )

    @property
    def max_seconds(self) -> float | None:
        """``max_time`` in seconds."""
        return None if self.max_time is None else parse_duration(self.max_time, "max_time")

    @property
    def length(self) -> str:
        """Length of each fold's training, in words."""
        if self.max_time is not None:
            return f"{self.max_time} a fold"
        return "the plan's length" if self.epochs is None else f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"

    @model_validator(mode="after")
    def _agree(self) -> "Self":
        if self.epochs is not None and self.max_time is not None:
            raise ValueError("epochs and max_time can't both set the length of the training; give one")
        try:
            seconds = self.max_seconds
        except UsageError as error:
            raise ValueError(str(error).rstrip(".")) from None
        if seconds is not None and seconds <= 0:
            raise ValueError("max_time must be more than 0")
        for key in ("folds", "seeds"):
            numbers = getattr(self, key)
            if numbers is not None and (not numbers or len(set(numbers)) != len(numbers)):
                raise ValueError(f"{key} must name at least one number, and none twice")
        if not self.setting and not self.grid:
            raise ValueError("there is nothing to compare: give [[setting]] tables, or axes under [grid]")
        return self


@dataclass(frozen=True)
class Setting:
    """One setting of a study, a row of its table: planner, channels, width and values.

    Attributes:
        name: of its folder.
        planner: name; the default one where empty.
        channels: to use; empty for all.
        width: channels of the first stage; None for the planner's.
        values: path in the plan → value.
        regions: to segment; empty for all.
        place: axis → its value here, as text: the ``[[setting]]`` table's name, and each axis of the grid.
    """

    name: str
    planner: str
    channels: tuple[str, ...]
    width: int | None
    values: Mapping[str, Any]
    regions: tuple[str, ...] = ()
    place: Mapping[str, str] = field(default_factory=dict)


def read_grid(path: str | Path) -> tuple[Grid, list[Setting]]:
    """Read and check a grid file.

    Returns:
        The file's content (``name`` and ``baseline`` filled in), and its settings: the ``[[setting]]`` tables in every
        combination of the axes' values, in the file's order.

    Raises:
        UsageError: no such file, no TOML, unknown keys, or contradictions; the message has each wrong key's path.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"--grid {path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML ({error}).") from None
    try:
        grid = Grid.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {'; '.join(_message(item) for item in error.errors())}.") from None
    try:
        settings = _combine(grid)
        _check_tables(grid, settings)
    except ValueError as error:
        raise UsageError(f"{path}: {error}.") from None
    names = [setting.name for setting in settings]
    baseline = names[0] if grid.baseline is None else grid.baseline
    if baseline not in names:
        known = listed(names, 20)
        raise UsageError(f"{path}: baseline: {baseline} is no setting{_near(baseline, names)}; there are {known}.")
    return grid.model_copy(update={"name": grid.name or path.stem, "baseline": baseline}), settings


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"recipe": {"epochs": 3}}`` → ``("recipe.epochs", 3)``: TOML reads a key without quotes as nested tables.

    A network of a named family stays a whole, as its keys are none of another family's.
    """
    for key, value in values.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value and not isinstance(value.get("family"), str):
            yield from flatten(value, path)
        else:
            yield path, value


def _combine(grid: Grid) -> list[Setting]:
    common = {path: _axis(path, values) for path, values in flatten(grid.grid)}
    settings: dict[str, Setting] = {}
    entries: list[SettingEntry | None] = [*grid.setting] or [None]
    for entry in entries:
        axes = {**_own_axes(entry, common), **common}
        shorts = _short_names(list(axes))
        own = {} if entry is None else dict(flatten(entry.set))
        if entry is not None:
            twice = [path for path in axes if path in own or (path in SPECIAL and getattr(entry, path) is not None)]
            if twice:
                raise ValueError(f"setting {entry.name} sets {twice[0]}, which is an axis under [grid], too")
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            parts = [] if entry is None else [entry.name]
            parts += [_label(path, value, shorts[path]) for path, value in point.items()]
            name = _check_name("_".join(parts))
            if name.casefold() in settings:  # one folder on case-insensitive file systems
                raise ValueError(f"two settings are called {name}; give each a name and values of its own")

            def chosen(key: str, entry: SettingEntry | None = entry, point: dict[str, Any] = point) -> Any:
                if key in point:
                    return point[key]
                value = None if entry is None else getattr(entry, key)
                return getattr(grid, key) if value is None else value

            at_point = dict(flatten({path: value for path, value in point.items() if path not in SPECIAL}))
            named = {SETTING: "" if entry is None else entry.name}
            settings[name.casefold()] = Setting(
                name=name,
                planner=chosen("planner"),
                channels=tuple(chosen("channels")),
                width=chosen("width"),
                values={**dict(flatten(grid.set)), **own, **at_point},
                regions=tuple(chosen("regions")),
                place=named | {path: _text(value) for path, value in point.items()},
            )
    return list(settings.values())


def _check_tables(grid: Grid, settings: list[Setting]) -> None:
    """Axes and metrics of the tables must exist."""
    known = list(dict.fromkeys(path for setting in settings for path in setting.place))
    for number, table in enumerate(grid.table):
        for axis in (*table.axes, *table.where):
            if axis not in (*known, MEASURE, CASE):
                near = _near(axis, [*known, MEASURE, CASE])
                raise ValueError(f"table.{number}: {axis} is no axis{near}; there are {', '.join(known)}")
        for metric in table.metrics:
            METRICS.find(metric)


def _own_axes(entry: SettingEntry | None, common: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The axes of a setting's own, which come before the common ones in names."""
    if entry is None:
        return {}
    axes = {path: _axis(path, values) for path, values in flatten(entry.grid)}
    if both := [path for path in axes if path in common]:
        raise ValueError(f"setting {entry.name}: grid.{both[0]} is an axis under [grid], too")
    return axes


def _axis(path: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"grid.{path}: an axis is a list of values")
    if path in SPECIAL:
        try:
            return [SPECIAL[path].validate_python(value) for value in values]
        except ValidationError as error:
            raise ValueError(f"grid.{path}: {error.errors()[0]['msg']}") from None
    if "." not in path and (near := get_close_matches(path, SPECIAL, 1)):
        raise ValueError(f"grid.{path}: did you mean {near[0]}?")
    return values


def _short_names(paths: list[str]) -> dict[str, str]:
    """The last key of each path; the last two where several paths end alike."""
    last = [path.split(".")[-1] for path in paths]
    return {
        path: end if last.count(end) == 1 else ".".join(path.split(".")[-2:])
        for path, end in zip(paths, last, strict=True)
    }


def _label(path: str, value: Any, short: str) -> str:
    """A value of an axis as part of a setting's name."""
    text = _text(value)
    label = text if isinstance(value, dict) or path.split(".")[-1] in _PLAIN else f"{short}={text}"
    return re.sub(r"[^\w.+=-]+", "-", label)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "_".join(f"{path.split('.')[-1]}={_text(item)}" for path, item in flatten(value))
    if isinstance(value, list):
        return ("+" if all(isinstance(item, str) for item in value) else "-").join(_text(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _message(item: Any) -> str:
    loc = [str(part) for part in item["loc"]]
    where = ".".join(loc) or "the file"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        fields = SettingEntry.model_fields if loc[0] == "setting" else Grid.model_fields
        message = f"this key is unknown{_near(loc[-1], list(fields))}"
    elif item["type"] == "missing":
        message = "this key is missing"
    return f"{where}: {message}" if item["loc"] else message


def _near(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""
