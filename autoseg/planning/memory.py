"""Memory of one training step, computed by walking through the step without computing it.

The real network, loss and optimizer run on torch's *meta* device, where a tensor has a shape and a type but no
bytes. A dispatch mode sees every operation and notes when each storage is born and when it dies, so that the sum of
what is alive is known after each operation; the largest is the peak. Views share a storage and are counted once;
what autograd keeps alive is alive here for the same reason, by the same reference.

Two things the meta device can't know:

- *Autocast* has no meta device; :class:`_Autocast` makes its casts (16-bit convolutions and products, each weight's
  copy cached until the end of the forward pass and kept by whoever saved it).
- *Workspace*: a 16-bit convolution on tensor cores works channels-last, so cuDNN (and, on a CPU, oneDNN) may reorder
  its input and its output into a workspace. The allowance is one copy of both for the one convolution that is running
  (:data:`WORKSPACE`).

Not counted: the CUDA context (some 0.4 GB that no allocator sees), which the budget must leave on the card.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoseg.networks import build
from autoseg.plans.architecture import Network
from autoseg.plans.configuration import Memory
from autoseg.plans.recipe import Distillation, Loss, Optimizer
from autoseg.plans.target import Output, Target
from autoseg.step.loss import training_loss
from autoseg.step.optimizer import build_optimizer
from autoseg.training.distillation import distillation_loss

#: Copies of a convolution's input and output that its workspace may take.
WORKSPACE = 1.0

#: Type of the label map that training feeds to the loss.
LABEL_TYPE = torch.int16

TrainingPrecision = Literal["fp32", "bf16", "fp16"]

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

#: Functions that autocast runs in 16 bits ("CUDA Ops that can autocast to float16" in torch's documentation).
_LOWERED: set[Callable[..., Any]] = {
    torch.conv1d, torch.conv2d, torch.conv3d,
    torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d,
    torch.nn.functional.linear, torch.nn.functional.scaled_dot_product_attention,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum,
}  # fmt: skip

#: Functions that autocast runs in 32 bits on a CPU but not on CUDA ("CPU Ops that can autocast to float32"), of those
#: that networks here use.
_RAISED_ON_CPU: set[Callable[..., Any]] = {torch.nn.functional.avg_pool3d, torch.nn.functional.max_pool3d}

_CONVOLUTIONS = {torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default}


class _Autocast(TorchFunctionMode):
    """The casts of autocast, on any device; leaf tensors that need a gradient are cast once and cached."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self._dtype = dtype
        self._raised = _RAISED_ON_CPU if device == "cpu" else set()
        self._cache: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _LOWERED:
            args = tuple(self._cast(value) for value in args)
            kwargs = {name: self._cast(value) for name, value in (kwargs or {}).items()}
        elif func in self._raised:
            args = tuple(value.float() if isinstance(value, torch.Tensor) else value for value in args)
        return func(*args, **(kwargs or {}))

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self._dtype)
        if id(value) not in self._cache:
            self._cache[id(value)] = value.to(self._dtype)
        return self._cache[id(value)]

    def __exit__(self, *details: Any) -> None:
        self._cache.clear()
        super().__exit__(*details)


@dataclass
class _Storage:
    size: int
    born: int
    died: int = 2**62
    kind: str = "transient"


@dataclass
class Trace:
    """The life of every storage over one training step; times count operations.

    Attributes:
        storages: size in bytes, birth and death of each, and what it is: ``parameters`` (with the averaged copy),
            ``optimizer``, ``gradients``, ``saved`` for backward, or ``transient``.
        workspace: allowance for the operation's workspace in bytes, an entry an operation.
        backward: when the backward pass begins.
    """

    storages: list[_Storage] = field(default_factory=list)
    workspace: list[float] = field(default_factory=list)
    backward: int = 0

    def alive(self) -> np.ndarray:
        """Bytes alive during each operation, workspace included."""
        length = len(self.workspace)
        change = np.zeros(length + 1)
        for storage in self.storages:
            change[min(storage.born, length)] += storage.size
            change[min(storage.died, length)] -= storage.size
        return np.cumsum(change)[:length] + np.asarray(self.workspace)

    def at(self, time: int, kind: str) -> int:
        """Bytes of one kind alive during operation ``time``."""
        return sum(s.size for s in self.storages if s.kind == kind and s.born <= time < s.died)

    @property
    def saved(self) -> int:
        """Bytes that autograd keeps for the backward pass, parameters not counted, each storage once."""
        return self.at(self.backward, "saved")


class _ReadsOnes(TorchDispatchMode):
    """Lets an optimizer read a number off a tensor without bytes, which is then 1: its value changes no size."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        return func(*args, **(kwargs or {}))


class _Tracker(TorchDispatchMode):
    """Notes births and deaths of storages in a :class:`Trace`."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self._alive: dict[int, _Storage] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        work = 0.0
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if func in _CONVOLUTIONS:
            moved = [leaf for leaf in (*args, *outputs) if isinstance(leaf, torch.Tensor)]
            # Forward: input, weight, output; backward: the same and their gradients, one of which at a time is
            # worked on, so half of it. The weight counts too: it is reordered like the rest.
            share = 1.0 if func is torch.ops.aten.convolution.default else 0.5
            work = WORKSPACE * share * sum(leaf.numel() * leaf.element_size() for leaf in moved)
        for output in outputs:
            self.note(output)
        self.trace.workspace.append(work)
        return result

    def note(self, tensor: torch.Tensor, kind: str | None = None) -> None:
        """Register a tensor's storage, if it is new, and say what it is."""
        if tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        entry = self._alive.get(key)
        if entry is None:
            entry = self._alive[key] = _Storage(storage.nbytes(), len(self.trace.workspace))
            self.trace.storages.append(entry)
            weakref.finalize(storage, self._dies, key, entry).atexit = False
        if kind is not None:
            entry.kind = kind

    def _dies(self, key: int, entry: _Storage) -> None:
        entry.died = len(self.trace.workspace)
        if self._alive.get(key) is entry:
            del self._alive[key]


def trace_step(
    network: Network,
    in_channels: int,
    heads: int,
    patch_size: Sequence[int],
    batch_size: int,
    precision: TrainingPrecision,
    optimizer: Optimizer,
    ema: bool = False,
    deep_supervision: bool | None = None,
    kind: Literal["labels", "regions"] = "labels",
    loss: Loss | None = None,
    device: str = "cuda",
    distillation: Distillation | None = None,
) -> Trace:
    """Walk through one training step (not the first: the optimizer has its state) on the meta device.

    Args:
        network: topology.
        in_channels: channels of the image.
        heads: channels of the result, for each rater that the network answers for.
        patch_size: voxels.
        batch_size: patches.
        precision: ``fp32``, or 16-bit autocast.
        optimizer: which.
        ema: whether a moving average of the weights is kept.
        deep_supervision: overrides the network's choice where given.
        kind: of the target (softmax or sigmoid).
        loss: its terms; default the plan's default.
        device: kind of device, whose autocast casts; elsewhere than on a CPU, CUDA's.
        distillation: a teacher's term of the loss, if any.
    """
    target = stand_in(kind, heads)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        module = build(network, in_channels, heads, deep_supervision)
    parameters = list(module.parameters())
    stepper = build_optimizer(parameters, optimizer)
    for group in stepper.param_groups:
        # On CUDA torch takes the multi-tensor implementation, which needs more room than the plain one.
        group["foreach"] = True
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    with _ReadsOnes():
        stepper.step()
    stepper.zero_grad(set_to_none=True)
    average = [torch.empty_like(tensor) for tensor in _own_tensors(module)] if ema else []
    tracker = _Tracker()
    for tensor in (*_own_tensors(module), *average):
        tracker.note(tensor, "parameters")
    for tensor in tree_leaves([dict(state) for state in stepper.state.values()]):
        if isinstance(tensor, torch.Tensor):
            tracker.note(tensor, "optimizer")
    persistent = {tensor.untyped_storage()._cdata for tensor in _own_tensors(module)}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in persistent:
            tracker.note(tensor, "saved")
        return tensor.detach()

    with tracker:
        image = torch.empty((batch_size, in_channels, *network.input_size(patch_size)), device="meta")
        label = torch.empty((batch_size, *network.label_size(patch_size)), dtype=LABEL_TYPE, device="meta")
        taught = empty_lesson(label, heads) if distillation is not None else None
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            if precision == "fp32":
                outputs = module(image)
            else:
                with _Autocast(_TYPES[precision], device):
                    outputs = module(image)
            value = training_loss(outputs, label, loss or Loss(), target)
            if taught is not None and distillation is not None:
                value = value + distillation_loss(outputs, label, taught, distillation, target)
        tracker.trace.backward = len(tracker.trace.workspace)
        value.backward()
        for parameter in parameters:
            if parameter.grad is not None:
                tracker.note(parameter.grad, "gradients")
        nn.utils.clip_grad_norm_(parameters, 12.0)
        with _ReadsOnes():
            stepper.step()
    return tracker.trace


def stand_in(kind: Literal["labels", "regions"], heads: int) -> Target:
    """A target of so many heads, for a step whose labels do not matter: only its shapes and its time do."""
    outputs = [Output(name=str(i), values=[i], paint=i) for i in range(1, heads + (kind == "regions"))]
    return Target(kind=kind, outputs=outputs)


def empty_lesson(label: torch.Tensor, heads: int) -> torch.Tensor:
    """Room for what a teacher says of a batch ``(batch, *space)``: scores of each head, and where they count."""
    return torch.zeros((len(label), heads + 1, *label.shape[1:]), device=label.device)


def _own_tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def step_memory(
    network: Network,
    in_channels: int,
    heads: int,
    patch_size: Sequence[int],
    batch_size: int,
    precision: TrainingPrecision,
    optimizer: Optimizer,
    ema: bool = False,
    deep_supervision: bool | None = None,
    kind: Literal["labels", "regions"] = "labels",
    loss: Loss | None = None,
    device: str = "cuda",
    distillation: Distillation | None = None,
) -> Memory:
    """Peak memory of one training step, in bytes, and what it consists of at that moment.

    ``parameters`` hold the averaged copy of the weights; ``gradients`` are those that exist at the peak (it is usually
    early in the backward pass, when few do); ``activations`` is what is saved for backward, 16-bit copies of the
    weights among it; ``transient`` is everything else: image, label, logits, gradients of activations, workspace.

    Args: see :func:`trace_step`.
    """
    trace = trace_step(
        network,
        in_channels,
        heads,
        patch_size,
        batch_size,
        precision,
        optimizer,
        ema,
        deep_supervision,
        kind,
        loss,
        device,
        distillation,
    )
    alive = trace.alive()
    peak = int(np.argmax(alive))
    return Memory(
        precision=precision,
        parameters=trace.at(peak, "parameters"),
        gradients=trace.at(peak, "gradients"),
        optimizer=trace.at(peak, "optimizer"),
        activations=trace.at(peak, "saved"),
        transient=trace.at(peak, "transient") + round(trace.workspace[peak]),
    )


@dataclass(frozen=True)
class Scaling:
    """Memory of a topology as a function of how many voxels it sees: exact for any patch and batch of the topology.

    With the strides fixed, each storage is a constant plus a part proportional to the voxels in the batch; so at each
    moment of the step is their sum.

    Attributes:
        constant: bytes alive during each operation that do not depend on the patch.
        slope: bytes a voxel.
    """

    constant: np.ndarray
    slope: np.ndarray

    def peak(self, voxels: float) -> float:
        """Peak bytes for so many voxels in the batch (patch × batch size)."""
        return float(np.max(self.constant + self.slope * voxels))


def scaling(
    network: Network,
    in_channels: int,
    heads: int,
    precision: TrainingPrecision,
    optimizer: Optimizer,
    ema: bool = False,
    kind: Literal["labels", "regions"] = "labels",
    device: str = "cuda",
) -> Scaling:
    """Measure how the memory of a topology grows with its voxels; cached, for a planner's search.

    Two small steps are walked through; the result agrees with :func:`step_memory` at any size to within the few bytes
    a sample that statistics of normalization layers take.
    """
    key = network.model_dump_json(exclude={"reasons"})
    return _scaling(key, in_channels, heads, precision, optimizer.model_dump_json(), ema, kind, device)


@lru_cache(maxsize=512)
def _scaling(
    network: str,
    in_channels: int,
    heads: int,
    precision: TrainingPrecision,
    optimizer: str,
    ema: bool,
    kind: Literal["labels", "regions"],
    device: str,
) -> Scaling:
    topology: Network = TypeAdapter(Network).validate_json(network)
    chosen = Optimizer.model_validate_json(optimizer)
    factor = topology.divisor
    sizes, curves = [], []
    # Not so small that the lowest resolution is smaller than a kernel: a convolution then pads, which is a step more.
    for multiple in (4, 8):
        patch = [int(size) * multiple for size in factor]
        trace = trace_step(topology, in_channels, heads, patch, 2, precision, chosen, ema, kind=kind, device=device)
        sizes.append(2 * int(np.prod(patch)))
        curves.append(trace.alive())
    slope = (curves[1] - curves[0]) / (sizes[1] - sizes[0])
    return Scaling(curves[0] - slope * sizes[0], slope)
