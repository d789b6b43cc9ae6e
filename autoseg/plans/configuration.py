"""One way to train on a dataset: a resolution, a patch, a network and its recipe."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from autoseg.plans import families  # noqa: F401  (registers the families)
from autoseg.plans.architecture import Network
from autoseg.plans.inference import Inference
from autoseg.plans.preprocessing import Resampling
from autoseg.plans.reasons import Reasoned
from autoseg.plans.recipe import Recipe
from autoseg.plans.target import Target

if TYPE_CHECKING:
    from typing import Self


def _folder_name(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(f"{name!r} can't name a folder: it must be no path and not start with a dot")
    return name


#: Name of a folder inside the run folder.
FolderName = Annotated[str, AfterValidator(_folder_name)]


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
    """The previous stage: what a configuration uses of another one, which is trained first.

    Attributes:
        configuration: name of the other one.
        use: ``channels``: its segmentation is further input, one channel for each output; ``box``: this configuration
            works inside the bounding box of its output ``output``.
        output: name of the output whose bounding box it is.
        margin: voxels added to that box on every side.
        within: where a stage in a box may segment: anywhere in the ``box``, or only in the ``mask`` of that output
            (a tumour core outside of the whole tumour can't be).
    """

    configuration: str
    use: Literal["channels", "box"] = "channels"
    output: str = ""
    margin: int = Field(5, ge=0)
    within: Literal["box", "mask"] = "box"

    @model_validator(mode="after")
    def _named(self) -> "Self":
        if self.use == "box" and not self.output:
            raise ValueError("use box needs an output, whose bounding box it is")
        if self.use != "box" and self.within == "mask":
            raise ValueError("within mask goes with use box, whose output's mask it is")
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
                f"{self.network.family} has no encoder for pictures; use the family inflated, at its own size"
            )
        if self.recipe.freeze.part == "encoder" and not self.network.encoder_prefixes:
            raise ValueError(f"recipe.freeze.part is encoder, but the family {self.network.family} has none; use body")
        if self.inference.checkpoint == "best" and self.recipe.initialization.keep:
            raise ValueError(
                "inference.checkpoint is best, and recipe.initialization.keep averages the weights at the end with the "
                "initial ones; set one of them to its default"
            )
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
        """Voxels of a tile's output at inference."""
        return self.network.output_size(self.inference.patch_size or self.patch_size)

    @property
    def tile_context(self) -> list[int]:
        """Voxels of context around a tile, on each side, that the network's input has."""
        given = self.network.input_size(self.inference.patch_size or self.patch_size)
        return [(n - tile) // 2 for n, tile in zip(given, self.tile_size, strict=True)]
