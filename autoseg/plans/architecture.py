"""Architectures: what a network is, as the part of a plan that :func:`autoseg.networks.build` turns into a module.

One model a family. What the mechanism must know of any of them is in :class:`Architecture`: how many axes, what a patch
must be a multiple of, and how much more than the patch the network has to be given.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from autoseg.plans.components import by_name
from autoseg.plans.reasons import Reasoned
from autoseg.utils.registry import Registry


class Architecture(Reasoned):
    """What every family of networks says of itself; the defaults suit a network that keeps its input's size.

    Attributes:
        family: name that the class is registered under in :data:`FAMILIES`.
    """

    family: str

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return 3

    @property
    def divisor(self) -> list[int]:
        """What each axis of a patch must be a multiple of."""
        return [1] * self.dimensions

    @property
    def supervised_levels(self) -> bool:
        """Whether the network gives a list of results in training mode."""
        return False

    @property
    def takes_image_weights(self) -> bool:
        """Whether a part of it can start from weights that were learned on 2D pictures."""
        return False

    @property
    def encoder_prefixes(self) -> tuple[str, ...]:
        """What the names of the encoder's weights start with; nothing where it has no encoder to speak of."""
        return ()

    @property
    def answers(self) -> int:
        """How many answers it gives, one after the other: the result has so many times the target's heads."""
        return 1

    def label_size(self, patch: Sequence[int]) -> list[int]:
        """Axes of a sample's labels for a patch: its voxels; before them the answers, if there are several."""
        return [*([self.answers] if self.answers > 1 else []), *self.output_size(patch)]

    def fits(self, patch: Sequence[int]) -> str | None:
        """Say in words why a patch can't be taken, or None."""
        for axis, (size, factor) in enumerate(zip(patch, self.divisor, strict=True)):
            if size < 1 or size % factor:
                return f"patch_size[{axis}] = {size} can't be pooled by the network: it must be a multiple of {factor}"
        if math.prod(self.divisor) > 1 and list(patch) == self.divisor:
            sides = "×".join(map(str, patch))
            return f"patch_size {sides} leaves the network one voxel, which can't be normalized: double an axis"
        return None

    def nearest(self, patch: Sequence[int]) -> list[int]:
        """The patch with each axis made smaller, or where it is too small larger, to what it must be a multiple of."""
        found = [max(size // factor, 1) * factor for size, factor in zip(patch, self.divisor, strict=True)]
        return [2 * size for size in found] if math.prod(self.divisor) > 1 and found == self.divisor else found

    def input_size(self, patch: Sequence[int]) -> list[int]:
        """Voxels that the network is given for a patch, around the same middle; never fewer than the patch."""
        return list(patch)

    def output_size(self, patch: Sequence[int]) -> list[int]:
        """Voxels that it speaks about, around the same middle; never more than the patch."""
        return list(patch)

    def suits(self, kind: str) -> str | None:
        """Say in words why a target of a kind (labels, regions) can't be segmented, or None."""
        return None

    @property
    def summary(self) -> str:
        """The numbers that say how large it is, in few words."""
        raise NotImplementedError


#: Network families: name → description. What builds each is in :data:`autoseg.networks.BUILDERS`.
FAMILIES: Registry[type[Architecture]] = Registry("network family", package="autoseg.networks")

#: A network of any family, in a plan.
Network = Annotated[Architecture, BeforeValidator(by_name(FAMILIES, "family", "unet")), SerializeAsAny()]
