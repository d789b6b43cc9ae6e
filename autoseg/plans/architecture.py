"""Architectures: what a network is, as the part of a plan that :func:`autoseg.networks.build` turns into a module.

One pydantic model for each family. :class:`Architecture` has what the rest of autoseg must know of any of them: number
of axes, multiples that a patch must have, and the sizes of input and output for a patch.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field, PositiveInt, SerializeAsAny, model_validator

from autoseg.plans.components import by_name
from autoseg.plans.reasons import Reasoned
from autoseg.utils.registry import Registry

if TYPE_CHECKING:
    from typing import Self


def scaled_kernels(kernels: Sequence[PositiveInt], factor: float) -> list[int]:
    """Numbers of kernels, times a factor; each at least 1."""
    return [max(1, round(count * factor)) for count in kernels]


class Architecture(Reasoned):
    """Base of every family's description; the defaults suit a network whose output has its input's size.

    Attributes:
        family: name that the class is registered under in :data:`FAMILIES`.
        size: of the network that is built, as a share of the parameters of the one described: with fewer or more
            kernels in all layers alike, as in Rahimpour et al., section 2.4 (:func:`autoseg.networks.resized`).
    """

    family: str
    size: float = Field(1.0, gt=0, le=16)

    @model_validator(mode="after")
    def _can_be_scaled(self) -> "Self":
        if self.size != 1 and type(self).scaled is Architecture.scaled:
            raise ValueError(f"size is {self.size:g}, but networks of the family {self.family} have one size; set 1")
        return self

    def scaled(self, factor: float) -> "Self":
        """The same network with ``factor`` times as many kernels in every layer, described in full (``size`` is 1)."""
        raise NotImplementedError

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return 3

    @property
    def divisor(self) -> list[int]:
        """For each axis, the number that a patch's size must be a multiple of."""
        return [1] * self.dimensions

    @property
    def supervised_levels(self) -> bool:
        """Whether the network returns a list of logits in training mode (deep supervision, single views)."""
        return False

    @property
    def takes_image_weights(self) -> bool:
        """Whether its encoder can start from weights that were trained on 2D images."""
        return False

    @property
    def encoder_prefixes(self) -> tuple[str, ...]:
        """Prefixes of the names of the encoder's weights; empty where it has no encoder."""
        return ()

    @property
    def answers(self) -> int:
        """Number of decoders; the output has the target's heads once for each, one after the other."""
        return 1

    def label_size(self, patch: Sequence[int]) -> list[int]:
        """Shape of a sample's labels for a patch: its voxels; before them the decoders, if there are several."""
        return [*([self.answers] if self.answers > 1 else []), *self.output_size(patch)]

    def fits(self, patch: Sequence[int]) -> str | None:
        """Why the network can't take a patch, as a message; None if it can."""
        for axis, (size, factor) in enumerate(zip(patch, self.divisor, strict=True)):
            if size < 1 or size % factor:
                return f"patch_size[{axis}] = {size} can't be pooled by the network: it must be a multiple of {factor}"
        if math.prod(self.divisor) > 1 and list(patch) == self.divisor:
            sides = "×".join(map(str, patch))
            return f"patch_size {sides} leaves the network one voxel, which can't be normalized: double an axis"
        return None

    def nearest(self, patch: Sequence[int]) -> list[int]:
        """The patch with each axis rounded down to a multiple of :attr:`divisor`, but at least that."""
        rounded = [max(size // factor, 1) * factor for size, factor in zip(patch, self.divisor, strict=True)]
        return [2 * size for size in rounded] if math.prod(self.divisor) > 1 and rounded == self.divisor else rounded

    def input_size(self, patch: Sequence[int]) -> list[int]:
        """Voxels of the network's input for a patch, around the same centre; never fewer than the patch."""
        return list(patch)

    def output_size(self, patch: Sequence[int]) -> list[int]:
        """Voxels of the network's output for a patch, around the same centre; never more than the patch."""
        return list(patch)

    def suits(self, kind: str) -> str | None:
        """Why a target of this kind (``labels``, ``regions``) can't be segmented, as a message; None if it can."""
        return None

    @property
    def summary(self) -> str:
        """The numbers that describe its size, for tables and messages."""
        raise NotImplementedError


#: Network families: name → description. The builders are in :data:`autoseg.networks.BUILDERS`.
FAMILIES: Registry[type[Architecture]] = Registry("network family", package="autoseg.networks")

#: A network of any family, in a plan.
Network = Annotated[Architecture, BeforeValidator(by_name(FAMILIES, "family", "unet")), SerializeAsAny()]
