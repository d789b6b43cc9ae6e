"""A model folder of nnU-Net v2: its two JSON files, and the paths of its checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoseg.utils.errors import AutosegError
from autoseg.utils.files import first_fault, read_json
from autoseg.utils.progress import say

_Part = TypeVar("_Part", bound=BaseModel)

#: nnU-Net's checkpoints of a fold: at the end of its training, and that of the highest Dice on the way.
FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"


class _Lenient(BaseModel):
    """Base of nnU-Net's files: keys that are not used are ignored."""

    model_config = ConfigDict(extra="ignore")


class Topology(_Lenient):
    """The network, as plans of nnU-Net 2.3 on describe it."""

    network_class_name: str
    arch_kwargs: dict[str, Any]


class Settings(_Lenient):
    """A configuration of ``plans.json``, with what it inherits."""

    preprocessor_name: str = "DefaultPreprocessor"
    batch_size: int
    patch_size: list[int] = Field(min_length=2, max_length=3)
    spacing: list[float] = Field(min_length=2, max_length=3)
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool]
    resampling_fn_data: str
    resampling_fn_seg: str
    resampling_fn_probabilities: str
    resampling_fn_data_kwargs: dict[str, Any] = Field(default_factory=dict)
    resampling_fn_seg_kwargs: dict[str, Any] = Field(default_factory=dict)
    resampling_fn_probabilities_kwargs: dict[str, Any] = Field(default_factory=dict)
    batch_dice: bool = False
    previous_stage: str | None = None
    architecture: Topology | None = None
    # Plans of nnU-Net before 2.3:
    UNet_class_name: str | None = None
    UNet_base_num_features: int | None = None
    unet_max_num_features: int | None = None
    n_conv_per_stage_encoder: list[int] | None = None
    n_conv_per_stage_decoder: list[int] | None = None
    pool_op_kernel_sizes: list[list[int]] | None = None
    conv_kernel_sizes: list[list[int]] | None = None


class IntensityProperties(_Lenient):
    """Intensities of one channel inside the foreground."""

    mean: float
    std: float
    median: float
    percentile_00_5: float
    percentile_99_5: float


class Plans(_Lenient):
    """``plans.json``."""

    dataset_name: str
    image_reader_writer: str
    transpose_forward: list[int] = Field(min_length=3, max_length=3)
    label_manager: str = "LabelManager"
    configurations: dict[str, dict[str, Any]]
    original_median_shape_after_transp: list[float] = Field(default_factory=list)
    foreground_intensity_properties_per_channel: dict[str, IntensityProperties] | None = None
    foreground_intensity_properties_by_modality: dict[str, IntensityProperties] | None = None

    @property
    def intensities(self) -> dict[str, IntensityProperties]:
        """Channel number → intensities."""
        return (
            self.foreground_intensity_properties_per_channel or self.foreground_intensity_properties_by_modality or {}
        )


@dataclass(frozen=True)
class ModelFolder:
    """A trained model.

    Attributes:
        path: of the folder.
        plans: content of ``plans.json``.
        dataset: content of ``dataset.json``.
        folds: number → folder.
    """

    path: Path
    plans: Plans
    dataset: dict[str, Any]
    folds: dict[int, Path]

    @property
    def plans_file(self) -> Path:
        """Path of ``plans.json``."""
        return self.path / "plans.json"

    @property
    def dataset_file(self) -> Path:
        """Path of ``dataset.json``."""
        return self.path / "dataset.json"

    def settings(self, name: str) -> Settings:
        """A configuration, with what it inherits.

        Raises:
            AutosegError: there is none of this name, it inherits from itself, or a key is missing or invalid.
        """
        chain: list[str] = []
        merged: dict[str, Any] = {}
        following: str | None = name
        while following is not None:
            if following not in self.plans.configurations:
                raise AutosegError(f"{self.plans_file} has no configuration {following}; restore the file.")
            if following in chain:
                raise AutosegError(
                    f"{self.plans_file}: configuration {following} inherits from itself; restore the file."
                )
            chain.append(following)
            own = self.plans.configurations[following]
            merged = {**own, **merged}
            following = own.get("inherits_from")
        return _parse(Settings, merged, self.plans_file, f"configurations.{name}.")


def open_folder(path: str | Path) -> ModelFolder:
    """Read the JSON files of a model folder and find its folds.

    Raises:
        AutosegError: it is no model folder, or a file of it is damaged.
    """
    path = Path(path)
    if path.suffix.lower() == ".zip" and path.is_file():
        raise AutosegError(f"{path} is a zip file; unzip it first, and give the folder in it that holds plans.json.")
    for name in ("plans.json", "dataset.json"):
        if not (path / name).is_file():
            below = sorted(file.parent.name for file in path.glob("*/plans.json")) if path.is_dir() else []
            hint = f", such as {below[0]} in it" if below else ""
            raise AutosegError(
                f"{path} is no nnU-Net model folder (it has no {name}); give the folder that holds plans.json, "
                f"dataset.json and fold_0{hint}."
            )
    plans = _parse(Plans, read_json(path / "plans.json"), path / "plans.json")
    dataset = read_json(path / "dataset.json")
    if not isinstance(dataset, dict):
        raise AutosegError(f"{path / 'dataset.json'} should hold a JSON object; restore the file.")
    return ModelFolder(path, plans, dataset, _folds(path))


def _folds(path: Path) -> dict[int, Path]:
    """The folds that nnU-Net predicts with: those that are finished; where none is, those with a best checkpoint."""
    trained = [folder for folder in sorted(path.glob("fold_*")) if any(folder.glob("checkpoint_*.pth"))]
    numbered = {
        int(folder.name.removeprefix("fold_")): folder
        for folder in trained
        if folder.name.removeprefix("fold_").isdecimal()
    }
    everything = {0: path / "fold_all"} if path / "fold_all" in trained else {}
    begun = [*numbered.values(), *everything.values()]
    for checkpoint in (FINAL, BEST):
        for candidates in (numbered, everything):
            found = {number: folder for number, folder in candidates.items() if (folder / checkpoint).is_file()}
            if found:
                _say_left_out(begun, found, checkpoint)
                return dict(sorted(found.items()))
    if begun:
        raise AutosegError(
            f"{begun[0]} has neither {FINAL} nor {BEST}, and neither has another fold; finish the training."
        )
    raise AutosegError(f"{path} has no fold_0/{FINAL}, and no other fold's; copy the checkpoints beside plans.json.")


def _say_left_out(begun: Sequence[Path], used: Mapping[int, Path], checkpoint: str) -> None:
    """Say which folds are not used, and what becomes of ``fold_all``."""
    for folder in (folder for folder in begun if folder not in used.values()):
        finished = (folder / checkpoint).is_file()
        why = "as nnU-Net does where there are numbered folds" if finished else f"as it has no {checkpoint}"
        say(f"{folder} is left out, {why}.")
    if used[min(used)].name == "fold_all":
        say(f"{used[min(used)]} was trained on all cases; it becomes fold 0.")


def _parse(model: type[_Part], data: Any, path: Path, before: str = "") -> _Part:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise AutosegError(
            f"{path} is not as nnU-Net v2 writes it ({before}{first_fault(error)}); restore the file."
        ) from None
