"""Plan: what to do with a dataset, as one readable and validated file.

A planner writes it; preprocessing, training and inference execute it and decide nothing. Each model has a field
``reasons`` (field name → one line) that says why a derived value is what it is.

Axes: all per-axis values are in array order ``(z, y, x)`` *after* ``Preprocessing.transpose``; spacing is in mm.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from autoseg.data.orientation import Orientation
from autoseg.plans.architecture import FAMILIES, Network
from autoseg.plans.reasons import Reasoned, without_reasons
from autoseg.plans.recipe import Axis, Precision, Recipe
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, write_json

if TYPE_CHECKING:
    from typing import Self

#: Version of the file format. A reader refuses newer files and upgrades older ones (:func:`_upgrade`).
SCHEMA_VERSION = 1


def _folder_name(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(f"{name!r} can't name a folder: it must be no path and not start with a dot")
    return name


#: What a folder inside the run folder is called.
FolderName = Annotated[str, AfterValidator(_folder_name)]


class Normalization(Reasoned):
    """How one channel's intensities are brought to a common scale.

    Attributes:
        scheme: ``zscore`` per image; ``ct`` clips to [lower, upper] and z-scores with the dataset's mean and std;
            ``minmax`` to [0, 1]; ``percentile`` divides by the image's 95th percentile; ``none``.
        masked: take the statistics from non-zero (or brain-mask) voxels only, and leave the others at zero.
        lower: lower clip of ``ct`` (0.5th percentile of the foreground).
        upper: upper clip of ``ct`` (99.5th percentile of the foreground).
        mean: foreground mean for ``ct``.
        std: foreground standard deviation for ``ct``.
    """

    scheme: Literal["zscore", "ct", "minmax", "percentile", "none"] = "zscore"
    masked: bool = False
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Self":
        if self.scheme == "ct":
            if None in (self.lower, self.upper, self.mean, self.std):
                raise ValueError("scheme ct needs lower, upper, mean and std")
            if self.lower > self.upper or self.std <= 0:  # type: ignore[operator]
                raise ValueError("scheme ct needs lower ≤ upper and std > 0")
        return self


class Channel(Reasoned):
    """One input channel of the network."""

    name: str
    normalization: Normalization = Normalization()


class Output(Reasoned):
    """One thing to segment.

    Attributes:
        name: of the label or region.
        values: label values it is made of (one, for a label).
        paint: value written into a predicted label map where this output is the last one that holds.
    """

    name: str
    values: list[int] = Field(min_length=1)
    paint: int


class Target(Reasoned):
    """What the network is trained to segment.

    Attributes:
        kind: ``labels`` are exclusive (softmax with a background class); ``regions`` may overlap (sigmoid each).
        outputs: in painting order: a later region is painted over an earlier one.
        ignore: label value of voxels without a say in the loss.
    """

    kind: Literal["labels", "regions"]
    outputs: list[Output] = Field(min_length=1)
    ignore: int | None = None

    @property
    def heads(self) -> int:
        """Number of output channels of the network."""
        return len(self.outputs) + (1 if self.kind == "labels" else 0)

    @model_validator(mode="after")
    def _exclusive(self) -> "Self":
        names = [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            raise ValueError("two outputs have the same name")
        if self.kind == "labels":
            values = [value for output in self.outputs for value in output.values]
            if len(set(values)) != len(values):
                raise ValueError("with kind labels no value may belong to two outputs; use kind regions")
            if len({output.paint for output in self.outputs}) != len(names):
                raise ValueError("with kind labels two outputs can't be painted with the same value")
        return self


class Preprocessing(Reasoned):
    """What is done to every case before resampling.

    Attributes:
        orientation: axes that a volume is brought to at first: ``canonical`` (LPS), so that all lie the same way round;
            ``stored``, each as its file has them (what nnU-Net does); or ``ras``.
        transpose: order of those ``(z, y, x)`` axes; the one with the lowest resolution comes first.
        crop: ``nonzero`` cuts to the bounding box of non-zero (or brain-mask) voxels.
        box: voxels that a case is cut to at most, around the middle of that crop; what lies outside is never segmented.
        bias_correction: ``n4`` divides each channel but a CT scan by its bias field (Tustison et al. 2010) before
            normalization.
        holes: whether zeros that non-zero voxels enclose count as ``outside`` of the image, or ``inside`` (nnU-Net).
    """

    orientation: Orientation = "canonical"
    transpose: tuple[int, int, int] = (0, 1, 2)
    crop: Literal["nonzero", "none"] = "nonzero"
    box: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    bias_correction: Literal["none", "n4"] = "none"
    holes: Literal["outside", "inside"] = "outside"

    @model_validator(mode="after")
    def _permutation(self) -> "Self":
        if sorted(self.transpose) != [0, 1, 2]:
            raise ValueError(f"transpose {list(self.transpose)} is no permutation of [0, 1, 2]")
        return self


class Resampling(Reasoned):
    """How voxels get to the target spacing.

    Attributes:
        image_order: order of the spline for images (3: cubic).
        label_order: 0 nearest, 1 linear on one-hot labels.
        separate_axis: resample this axis on its own with nearest neighbour: ``auto`` where an image's or the target's
            largest spacing exceeds ``anisotropy`` times the smallest (nnU-Net's rule), ``never``.
        anisotropy: ratio of spacings from which an axis counts as strongly anisotropic.
    """

    image_order: int = Field(3, ge=0, le=5)
    label_order: int = Field(1, ge=0, le=1)
    separate_axis: Literal["auto", "never"] = "auto"
    anisotropy: float = Field(3.0, gt=1)


class Inference(Reasoned):
    """How a trained configuration is applied to a whole image.

    Attributes:
        overlap: share of a patch that neighbouring tiles have in common.
        gaussian_sigma: width of the weight over a tile, as share of the patch (nnU-Net: 1/8); 0 for equal weights.
        mirror_axes: axes flipped in test-time augmentation; all their combinations are averaged.
        tile_batch: tiles in one forward pass.
        patch_size: voxels of a tile, where it is not the training's patch.
        step: voxels from one tile to the next along each axis, at most; instead of ``overlap`` where given.
        precision: of the network in predictions, where it is not the recipe's.
        manner: ``nnunet`` does as nnU-Net in every detail: where tiles of an odd size start, weights that lie half a
            voxel off the middle and are rounded to 16 bits, and an anisotropic axis that is looked for in the target's
            spacing first on the way back to the scan.
    """

    overlap: float = Field(0.5, ge=0, lt=1)
    gaussian_sigma: float = Field(0.125, ge=0)
    mirror_axes: list[Axis] = Field(default_factory=lambda: [0, 1, 2])
    tile_batch: int = Field(1, ge=1)
    patch_size: list[PositiveInt] | None = None
    step: list[PositiveInt] | None = None
    precision: Precision | None = None
    manner: Literal["autoseg", "nnunet"] = "autoseg"


class Memory(Reasoned):
    """Computed memory of one training step in bytes (see :mod:`autoseg.planning.memory`)."""

    precision: Literal["fp32", "bf16", "fp16"]
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    transient: int

    @property
    def total(self) -> int:
        """Sum of all parts: the peak of the step."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.transient


class Previous(Reasoned):
    """The stage before: what a configuration takes over from another one, which is trained first.

    Attributes:
        configuration: name of the other one.
        use: ``channels``: its segmentation is further input, a channel an output; ``box``: this configuration works
            inside the bounding box of its output ``output``.
        output: name of the output whose bounding box it is.
        margin: voxels added to that box on every side.
    """

    configuration: str
    use: Literal["channels", "box"] = "channels"
    output: str = ""
    margin: int = Field(5, ge=0)

    @model_validator(mode="after")
    def _named(self) -> "Self":
        if self.use == "box" and not self.output:
            raise ValueError("use box needs an output, whose bounding box it is")
        return self


class Configuration(Reasoned):
    """One way to train on the dataset: a resolution, a patch and a network.

    Attributes:
        spacing: mm ``(z, y, x)`` that cases are resampled to; a None entry keeps each case's own spacing on that axis.
        data: name of the folder of preprocessed cases; configurations with the same preprocessing share one.
        resampling: how to get to ``spacing``.
        patch_size: voxels that the network sees at once: two numbers for a 2D network (a slice), or three.
        batch_size: patches a step.
        network: topology.
        recipe: how to train it.
        inference: how to apply it.
        previous: the stage before this one, if any.
        target: what this stage segments, where that is not the plan's target.
        memory: computed memory of one training step.
        parameters: trainable parameters.
        parameters_with_statistics: trainable parameters plus running statistics of normalization layers.
    """

    spacing: tuple[PositiveFloat | None, PositiveFloat | None, PositiveFloat | None]
    data: FolderName
    resampling: Resampling = Resampling()
    patch_size: list[int] = Field(min_length=2, max_length=3)
    batch_size: int = Field(ge=1)
    network: Network
    recipe: Recipe = Recipe()
    inference: Inference = Inference()
    previous: Previous | None = None
    target: Target | None = None
    memory: Memory | None = None
    parameters: int = 0
    parameters_with_statistics: int = 0

    @model_validator(mode="after")
    def _agree(self) -> "Self":
        dimensions = self.network.dimensions
        if len(self.patch_size) != dimensions:
            raise ValueError(f"patch_size has {len(self.patch_size)} axes, the network {dimensions}")
        unfit = self.network.fits(self.patch_size)
        if unfit:
            raise ValueError(unfit)
        if self.recipe.initialization.source in ("imagenet", "file") and not self.network.takes_image_weights:
            raise ValueError(
                f"recipe.initialization.source is {self.recipe.initialization.source}, but a network of the family "
                f"{self.network.family} has no encoder for pictures; use the family inflated"
            )
        if self.recipe.freeze.part == "encoder" and not self.network.encoder_prefixes:
            raise ValueError(f"recipe.freeze.part is encoder, but the family {self.network.family} has none; use body")
        if self.recipe.distillation is not None and self.previous is not None:
            raise ValueError("recipe.distillation is for configurations of one stage, and this one follows another")
        for name in ("patch_size", "step"):
            sizes = getattr(self.inference, name)
            if sizes is not None and len(sizes) != dimensions:
                raise ValueError(f"inference.{name} has {len(sizes)} axes, the network {dimensions}")
        unfit = self.network.fits(self.inference.patch_size or self.patch_size)
        if unfit:
            raise ValueError(f"inference.{unfit}")
        for name in ("recipe.augmentation", "inference"):
            part = self.recipe.augmentation if name.startswith("recipe") else self.inference
            if any(not 0 <= axis < dimensions for axis in part.mirror_axes):
                raise ValueError(f"{name}.mirror_axes names an axis that a patch of {dimensions} axes does not have")
        return self

    @property
    def tile_size(self) -> list[int]:
        """Voxels that a tile speaks about at inference."""
        return self.network.output_size(self.inference.patch_size or self.patch_size)

    @property
    def tile_context(self) -> list[int]:
        """Voxels around a tile, on each side, that the network is given with it."""
        given = self.network.input_size(self.inference.patch_size or self.patch_size)
        return [(n - tile) // 2 for n, tile in zip(given, self.tile_size, strict=True)]


class Plan(Reasoned):
    """What to do with a dataset.

    Attributes:
        schema_version: of the file format.
        autoseg_version: that wrote the file.
        planner: name of the planner.
        dataset: name of the dataset.
        device: kind of device planned for: ``cuda``, ``mps`` or ``cpu``.
        gpu_memory_gb: memory budget, 10⁹ bytes.
        channels: input of the network, in order.
        allow_missing_channels: whether a case may lack a channel (it is then zero); without it, cases may where the
            recipe drops channels (:meth:`takes_missing_channels`).
        target: what to segment.
        raters: names of the raters of the cases who are learned separately, each by a decoder of its own, in this
            order; empty to learn from one label map a case.
        preprocessing: steps shared by all configurations.
        configurations: name (``2d``, ``3d_fullres``, ``3d_lowres``) → configuration.
        recommended: the configuration used where none is named.
        file_ending: of results.
    """

    schema_version: int = SCHEMA_VERSION
    autoseg_version: str = ""
    planner: str
    dataset: str
    device: Literal["cuda", "mps", "cpu"] = "cuda"
    gpu_memory_gb: float = Field(8.0, gt=0)
    channels: list[Channel] = Field(min_length=1)
    allow_missing_channels: bool = False
    target: Target
    raters: list[FolderName] = Field(default_factory=list)
    preprocessing: Preprocessing = Preprocessing()
    configurations: dict[FolderName, Configuration] = Field(min_length=1)
    recommended: str
    file_ending: str = ".nii.gz"

    @property
    def channel_names(self) -> list[str]:
        """Names of the input channels, in order."""
        return [channel.name for channel in self.channels]

    @model_validator(mode="after")
    def _consistent(self) -> "Self":
        if self.recommended not in self.configurations:
            raise ValueError(f"recommended names {self.recommended}, which is none of the configurations")
        if len(set(self.channel_names)) != len(self.channels):
            raise ValueError("two channels have the same name")
        if len(self.raters) == 1 or len(set(self.raters)) != len(self.raters):
            raise ValueError("raters must name two different ones or more, or none")
        for name, configuration in self.configurations.items():
            self._check_stages(name)
            dropout = configuration.recipe.channel_dropout
            if dropout and len(self.channels) == 1:
                raise ValueError(
                    f"configurations.{name}.recipe.channel_dropout is {dropout:g}, but {self.channel_names[0]} is the "
                    "only channel and always kept; set it to 0"
                )
            unsuited = configuration.network.suits(self.target_of(configuration).kind)
            if unsuited:
                raise ValueError(f"configurations.{name}.{unsuited}")
            self._check_raters(name)
        return self

    def _check_raters(self, name: str) -> None:
        """A network must answer for as many raters as there are, and stages can't hand on several answers."""
        configuration = self.configurations[name]
        if configuration.network.raters != max(len(self.raters), 1):
            raise ValueError(
                f"configurations.{name}.network answers for {configuration.network.raters} rater(s), but the plan "
                f"names {len(self.raters)}; only the families unet and resenc have a decoder for each (decoders)"
            )
        if self.raters and configuration.previous is not None:
            raise ValueError(f"configurations.{name}.previous: raters can't be learned separately in several stages")
        if self.raters and configuration.recipe.distillation is not None:
            raise ValueError(f"configurations.{name}.recipe.distillation: a teacher speaks for none of the raters")

    def _check_stages(self, name: str) -> None:
        """A chain of stages must end, hand on what is asked for, and segment all of the plan's target together."""
        seen = [name]
        found: set[str] = set()
        while True:
            configuration = self.configurations[seen[-1]]
            found |= {output.name for output in self.target_of(configuration).outputs}
            previous = configuration.previous
            if previous is None:
                break
            where = f"configurations.{seen[-1]}.previous"
            if previous.configuration not in self.configurations:
                raise ValueError(f"{where}.configuration names {previous.configuration}, which does not exist")
            if previous.configuration in seen:
                raise ValueError(f"{where} goes round in a circle: {' → '.join([*seen, previous.configuration])}")
            outputs = self.target_of(self.configurations[previous.configuration]).outputs
            if previous.use == "box" and previous.output not in [output.name for output in outputs]:
                raise ValueError(f"{where}.output names {previous.output}, which {previous.configuration} has not")
            for shared in ("spacing", "data", "resampling") if previous.use == "box" else ():
                both = [c.model_dump()[shared] for c in (configuration, self.configurations[previous.configuration])]
                if without_reasons(both[0]) != without_reasons(both[1]):
                    raise ValueError(f"{where}: a stage inside another one's box must have the same {shared}")
            seen.append(previous.configuration)
        last = [c.previous.configuration for c in self.configurations.values() if c.previous is not None]
        missing = [output.name for output in self.target.outputs if output.name not in found]
        if name in last:
            return
        if missing:
            raise ValueError(f"configurations.{name} and the stages before it do not segment {', '.join(missing)}")
        self._check_result(name)

    def _check_result(self, name: str) -> None:
        """Where stages end, what each of them contributes to the plan's target must mean the same there."""
        where = f"configurations.{name}.target"
        own = self.target_of(self.configurations[name])
        if self.target.kind == "labels":
            same_outputs = without_reasons(own.model_dump()["outputs"]) == without_reasons(
                self.target.model_dump()["outputs"]
            )
            if own.kind != "labels" or not same_outputs:
                raise ValueError(f"{where}: labels come from the last stage, whose outputs must be the plan's")
            return
        for output in self.target.outputs:
            for stage in self.stages(name):
                target = self.target_of(self.configurations[stage])
                same = [found for found in target.outputs if found.name == output.name]
                if same and (target.kind != "regions" or same[0].values != output.values):
                    raise ValueError(
                        f"configurations.{stage}.target: {output.name} must be a region of the values {output.values}, "
                        "as in the plan's target"
                    )

    def target_of(self, configuration: Configuration) -> Target:
        """What a configuration is trained to segment."""
        return configuration.target or self.target

    def in_channels(self, configuration: Configuration) -> int:
        """Channels that a configuration's network is given: the image's, and what the stage before hands on."""
        previous = configuration.previous
        if previous is None or previous.use != "channels":
            return len(self.channels)
        return len(self.channels) + len(self.target_of(self.configurations[previous.configuration]).outputs)

    def stages(self, name: str) -> list[str]:
        """The configurations that have to be trained for this one, in order; it comes last."""
        chain = [name]
        while (previous := self.configurations[chain[0]].previous) is not None:
            chain.insert(0, previous.configuration)
        return chain

    def takes_missing_channels(self, configuration: Configuration) -> bool:
        """Whether a configuration, with all stages before it, is meant for cases that lack a channel.

        Either the plan allows them, or every one of these stages learns to do without (``recipe.channel_dropout``).
        """
        if self.allow_missing_channels:
            return True
        before = configuration.previous
        return configuration.recipe.channel_dropout > 0 and (
            before is None or self.takes_missing_channels(self.configurations[before.configuration])
        )

    def result_of(self, name: str) -> Target:
        """What a prediction with a configuration says: the plan's target, or a stage's own if others follow it."""
        followed = {c.previous.configuration for c in self.configurations.values() if c.previous is not None}
        return self.target_of(self.configurations[name]) if name in followed else self.target

    def configuration(self, name: str | None) -> tuple[str, Configuration]:
        """The configuration of this name, or the recommended one.

        Raises:
            UsageError: the plan has no such configuration.
        """
        name = name or self.recommended
        if name not in self.configurations:
            raise UsageError(f"--config {name} is not in the plan; it has {', '.join(self.configurations)}.")
        return name, self.configurations[name]


def load_plan(path: str | Path) -> Plan:
    """Read and validate a plan file.

    Raises:
        AutosegError: missing, no JSON, of a newer schema, or invalid (with the path of each wrong key).
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise AutosegError(f"{path} is no plan: it should hold a JSON object.")
    return validate_plan(_upgrade(data, path), str(path))


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan file atomically."""
    write_json(path, plan.model_dump(mode="json"))


def validate_plan(data: dict[str, Any], source: str) -> Plan:
    """Turn parsed JSON into a plan.

    Raises:
        AutosegError: names ``source`` and the path of every wrong key.
    """
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise AutosegError(f"{source} is not a valid plan: {say_invalid(error)}.") from None


def say_invalid(error: ValidationError) -> str:
    """What is wrong with a plan, in words, with the path of each wrong key."""
    parts = []
    for item in error.errors():
        loc = [str(part) for part in item["loc"] if part != "[key]"]
        # A network's family stands in the path as pydantic sees it, but not in the file.
        path = [
            part for before, part in zip(["", *loc], loc, strict=False) if before != "network" or part not in FAMILIES
        ]
        where = ".".join(path) or "the plan"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "this key is unknown"
        parts.append(f"{where}: {message}")
    return "; ".join(parts)


def _upgrade(data: dict[str, Any], path: str | Path) -> dict[str, Any]:
    version = data.get("schema_version", 1)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise AutosegError(
            f"{path} has plan schema version {version}; this autoseg knows versions up to "
            f"{SCHEMA_VERSION}: update autoseg."
        )
    return data


def explanations(plan: Plan) -> list[tuple[str, Any, str]]:
    """Every value that has a reason: (path, value, reason), in the order of the file."""
    found: list[tuple[str, Any, str]] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, BaseModel):
            reasons = getattr(node, "reasons", {})
            for name in type(node).model_fields:
                value = getattr(node, name)
                here = f"{path}.{name}" if path else name
                if name in reasons:
                    found.append((here, value, reasons[name]))
                walk(value, here)
        elif isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}")
        elif isinstance(node, list):
            for index, value in enumerate(node):
                walk(value, f"{path}.{getattr(value, 'name', None) or index}")

    walk(plan, "")
    return [item for item in found if not item[0].endswith("reasons")]
