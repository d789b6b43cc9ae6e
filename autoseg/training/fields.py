"""Input fields: how a case's fields of role ``input`` become channels of the network's input.

A label map stays one map through loading and augmentation and is one-hot encoded just before the network, so that fifty
labels cost no more than one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from autoseg.inference.decoding import one_hot
from autoseg.plans.augmentation import Augmentation
from autoseg.plans.stage import Stage
from autoseg.preprocessing.fields import Field, with_inside
from autoseg.preprocessing.store import StoredCase
from autoseg.training.distortion import distort
from autoseg.utils.registry import Registry


@dataclass(frozen=True)
class InputField:
    """Encoding of a field of role ``input``.

    Attributes:
        encode: ``(batch, channel, *space)``, of a label map indices of :func:`map_values`, and the stage → float32
            ``(batch, channel, *space)``.
        distort: adds random errors to one sample ``(channel, *space)`` in training, so that the network does not rely
            on it fully.
    """

    encode: Callable[[torch.Tensor, Stage], torch.Tensor]
    distort: Callable[[torch.Tensor, Augmentation, np.random.Generator], torch.Tensor] | None = None


#: Name of a field → its encoding.
INPUT_FIELDS: Registry[InputField] = Registry("field", package="autoseg.training")


def map_values(field: Field | None, stage: Stage) -> list[int]:
    """The label values that a map's indices stand for in a training: those of the stage's target, or of its input's.

    Args:
        field: whose map it is; None for the label.
        stage: that is trained.
    """
    read = field is not None and field.role == "input"
    target = stage.input_target if read and stage.input_target is not None else stage.target
    return target.values


def _one_channel_an_output(maps: torch.Tensor, stage: Stage) -> torch.Tensor:
    assert stage.input_target is not None
    return one_hot(maps[:, 0], stage.input_target.indexed)


def _distorted(maps: torch.Tensor, augmentation: Augmentation, rng: np.random.Generator) -> torch.Tensor:
    return torch.stack([distort(label, augmentation, rng) for label in maps])


INPUT_FIELDS.register("previous", InputField(_one_channel_an_output, _distorted))


def with_input_fields(
    image: torch.Tensor, fields: dict[Field, torch.Tensor], stage: Stage, rng: np.random.Generator | None = None
) -> torch.Tensor:
    """The image with the channels of all input fields appended.

    Args:
        image: float32 ``(batch, channel, *space)``.
        fields: those of the batch, ``(batch, channel, *space)`` each.
        stage: whose input they are.
        rng: random generator of :attr:`InputField.distort`; None for no errors.
    """
    parts = [image]
    for field, values in fields.items():
        if field.role != "input":
            continue
        known = INPUT_FIELDS.find(field.name)
        if rng is not None and known.distort is not None:
            augmentation = stage.recipe.augmentation
            values = torch.stack([known.distort(sample, augmentation, rng) for sample in values])
        parts.append(known.encode(values, stage))
    return torch.cat(parts, dim=1) if len(parts) > 1 else image


def network_input(case: StoredCase, stage: Stage) -> torch.Tensor:
    """The network's input for a whole case: float32 ``(channel, z, y, x)``."""
    fields = {}
    for field in case.fields:
        if field.role == "input":
            volume = case.field_volume(field)
            values = (
                with_inside(field, volume.decoded())
                if field.interpolation == "linear"
                else volume.indices_of(map_values(field, stage))
            )
            fields[field] = torch.from_numpy(values)[None]
    return with_input_fields(torch.from_numpy(case.image())[None], fields, stage)[0]
