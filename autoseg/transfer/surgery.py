"""Weights of one network for another one with other channels and other heads: everything else must be the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoseg.networks.parts import GrowingAxis, head_axes, input_axes, own_tensors
from autoseg.plans.architecture import Network
from autoseg.utils.errors import AutosegError

_Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Correspondence:
    """Where a network's channels, or its heads, come from.

    Attributes:
        names: of the network's own, in order.
        source: of the other network's, in order.
        pairs: own name → other name; those left out are new.
    """

    names: Sequence[str]
    source: Sequence[str]
    pairs: Mapping[str, str]

    @property
    def found(self) -> list[int | None]:
        """For each own one, the number of the other network's; None for a new one."""
        return [self.source.index(self.pairs[name]) if name in self.pairs else None for name in self.names]

    @property
    def new(self) -> list[str]:
        """Own ones that the other network has not."""
        return [name for name in self.names if name not in self.pairs]

    @property
    def dropped(self) -> list[str]:
        """The other network's that are of no use here."""
        return [name for name in self.source if name not in self.pairs.values()]

    def say(self, new: str, others: str = "") -> str:
        """What is done with the weights, in words: ``new`` of the new ones, ``others`` where some are dropped."""
        if not self.new and not self.dropped and list(self.pairs.values()) == list(self.source):
            return "copied"
        parts = [f"{name} from {self.pairs[name]}" for name in self.names if name in self.pairs]
        if self.new:
            parts.append(f"{', '.join(self.new)} {new}")
        if self.dropped:
            parts.append(f"{', '.join(self.dropped)} dropped{others}")
        return "; ".join(parts)


@dataclass(frozen=True)
class TensorTransfer:
    """What became of one tensor.

    Attributes:
        tensor: name.
        shape: of it.
        source: name and shape of the other network's tensor; empty for a new one.
        done: in words.
    """

    tensor: str
    shape: str
    source: str
    done: str


def carry_over(
    architecture: Network, network: nn.Module, weights: _Tensors, channels: Correspondence, heads: Correspondence
) -> list[TensorTransfer]:
    """Give a network the weights of another one of the same architecture.

    The weights of a channel that both have are taken over; a channel that is new gets the mean of the other network's
    channels; where channels are left out, those that stay are multiplied by (channels before / channels that stay), so
    that an image which is the same in all channels is answered with about the same strength. A head that both have is
    taken over; one that is new keeps the weights that the network was built with.

    Args:
        architecture: of both.
        network: as :func:`autoseg.networks.build` makes it; is changed in place (on the meta device: not at all).
        weights: of the other network, by name.
        channels: which channel is which.
        heads: which head is which.

    Returns:
        What was done, a tensor each.

    Raises:
        AutosegError: the weights are not of this architecture.
    """
    first_axes = input_axes(architecture, len(channels.names), len(heads.names))
    output_axes = head_axes(architecture, len(channels.names), len(heads.names))
    own = own_tensors(network)
    table = []
    for name, tensor in own.items():
        other = weights.get(name)
        shape = sides_of(tensor)
        if other is None:
            if name.endswith("num_batches_tracked"):
                continue
            raise AutosegError(f"the source has no weights called {name}: it is of another architecture.")
        source = f"{name} {sides_of(other)}"
        if name in first_axes:
            (axis,) = first_axes[name]
            fitted = _inputs(other, axis, channels)
            kept = len(set(channels.pairs.values()))
            mean = f"from the mean of {', '.join(channels.source)}"
            done = channels.say(mean, f", the others times {len(channels.source)}/{kept}")
        elif name in output_axes:
            fitted = _outputs(tensor, other, output_axes[name], heads)
            done = heads.say("new")
            if not heads.pairs:
                source = ""
        else:
            fitted, done = other, "copied"
        if fitted.shape != tensor.shape:
            raise AutosegError(
                f"the source's {name} is {sides_of(other)} and {shape} is needed: it is of another architecture."
            )
        if tensor.device.type != "meta":
            with torch.no_grad():
                tensor.copy_(fitted)
        table.append(TensorTransfer(name, shape, source, done))
    return table


def match_decoders(weights: _Tensors, before: Sequence[str], now: Sequence[str]) -> dict[str, torch.Tensor]:
    """Weights under the names of a network with other decoders: one for all, or one for each rater.

    A rater who is among those of before gets their decoder; everybody else, and a single decoder, the mean of all. They
    all started from the same weights, so that their mean is a decoder, too (model soups, Wortsman et al. 2022).

    Args:
        weights: by name, each once.
        before: annotators of the network that they are of; empty for a single decoder.
        now: annotators of the network that they are for; empty for a single decoder.
    """
    if list(before) == list(now):
        return dict(weights)
    rest = {name: tensor for name, tensor in weights.items() if not name.startswith(("decoder.", "decoders."))}
    old = [f"decoders.{number}." for number in range(len(before))] or ["decoder."]
    parts = [{name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)} for prefix in old]
    mean = {name: torch.stack([part[name].float() for part in parts]).mean(0).to(parts[0][name]) for name in parts[0]}
    if not now:
        return {**rest, **{f"decoder.{name}": tensor for name, tensor in mean.items()}}
    for number, rater in enumerate(now):
        part = parts[list(before).index(rater)] if rater in before else mean
        rest |= {f"decoders.{number}.{name}": tensor for name, tensor in part.items()}
    return rest


def _inputs(other: torch.Tensor, axis: GrowingAxis, channels: Correspondence) -> torch.Tensor:
    found = channels.found
    kept = {index for index in found if index is not None}
    scale = len(channels.source) / len(kept) if channels.dropped and kept else 1.0
    mean = other.mean(axis.number)
    slices = [mean if index is None else scale * other.select(axis.number, index) for index in found]
    return torch.stack(slices, dim=axis.number)


def _outputs(
    fresh: torch.Tensor, other: torch.Tensor, axes: Sequence[GrowingAxis], heads: Correspondence
) -> torch.Tensor:
    """Slices that both have from ``other``, the rest from ``fresh``."""
    fitted = fresh.detach().clone()
    own: list[list[int]] = [list(range(size)) for size in fresh.shape]
    before: list[list[int]] = [list(range(size)) for size in other.shape]
    pairs = [(here, there) for here, there in enumerate(heads.found) if there is not None]
    for axis in axes:
        own[axis.number] = [b * len(heads.names) + here for b in range(axis.blocks) for here, _ in pairs]
        before[axis.number] = [b * len(heads.source) + there for b in range(axis.blocks) for _, there in pairs]
    if any(max(indices, default=0) >= size for indices, size in zip(before, other.shape, strict=True)) or any(
        len(a) != len(b) for a, b in zip(own, before, strict=True)
    ):
        return other  # of another architecture; the shape will say so
    fitted[_mesh(own, fresh.device)] = other[_mesh(before, other.device)].to(fresh)
    return fitted


def _mesh(indices: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Indices along each axis as one index of all their combinations."""
    count = len(indices)
    return tuple(
        torch.tensor(list(along), dtype=torch.long, device=device).reshape(
            [-1 if i == axis else 1 for i in range(count)]
        )
        for axis, along in enumerate(indices)
    )


def sides_of(tensor: torch.Tensor) -> str:
    """A tensor's shape for messages: ``16×2×3×3×3``."""
    return "×".join(map(str, tensor.shape)) or "one number"
