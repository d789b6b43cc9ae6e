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

import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from autoseg.networks import build
from autoseg.planning.shapes import MetaMode, meta_result
from autoseg.plans.architecture import Network
from autoseg.plans.configuration import Memory
from autoseg.plans.reasons import without_reasons
from autoseg.plans.recipe import Recipe
from autoseg.step.optimizer import take_step
from autoseg.step.setup import StepSetup, stand_in
from autoseg.step.training_step import TrainingStep

#: Copies of a convolution's input and output that its workspace may take.
WORKSPACE = 1.0

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
class MemoryTrace:
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


class _ReadsOnes(MetaMode):
    """Lets an optimizer read a number off a tensor without bytes, which is then 1: its value changes no size.

    Everything else goes on to the mode around it, which may keep count.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        return func(*args, **(kwargs or {}))


class _Tracker(MetaMode):
    """Notes births and deaths of storages in a :class:`MemoryTrace`."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = MemoryTrace()
        self._alive: dict[int, _Storage] = {}
        self._over = False

    def __exit__(self, *raised: Any) -> None:
        """What dies from here on, when Python comes to it, was there to the end of the step."""
        self._over = True
        super().__exit__(*raised)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = meta_result(func, args, kwargs or {})
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
        if not self._over:
            entry.died = len(self.trace.workspace)
        if self._alive.get(key) is entry:
            del self._alive[key]


def trace_step(setup: StepSetup, precision: TrainingPrecision, device: str = "cuda") -> MemoryTrace:
    """Walk through one training step (not the first: the optimizer has its state) on the meta device.

    Args:
        setup: what the step is made of.
        precision: ``fp32``, or 16-bit autocast.
        device: kind of device, whose autocast casts; elsewhere than on a CPU, CUDA's.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]), MetaMode():
        module = build(setup.network, setup.in_channels, setup.target.heads)
    step = TrainingStep(module, setup.recipe, stand_in(setup.target.kind, setup.target.heads))
    if precision != "fp32":
        step.casts = lambda: _Autocast(_TYPES[precision], device)
    for group in step.optimizer.param_groups:
        # Where it is not one kernel, torch may take the multi-tensor implementation, which needs most room.
        group["foreach"] = True
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with MetaMode(), _ReadsOnes():
        step.optimizer.step()
    step.optimizer.zero_grad(set_to_none=True)
    tracker = _Tracker()
    average = [] if step.average.network is module else _own_tensors(step.average.network)
    for tensor in (*_own_tensors(module), *average):
        tracker.note(tensor, "parameters")
    for tensor in tree_leaves([dict(state) for state in step.optimizer.state.values()]):
        if isinstance(tensor, torch.Tensor):
            tracker.note(tensor, "optimizer")
    persistent = {tensor.untyped_storage()._cdata for tensor in _own_tensors(module)}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in persistent:
            tracker.note(tensor, "saved")
        return tensor.detach()

    def note_gradient(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            tracker.note(parameter.grad, "gradients")

    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(note_gradient)
    with tracker:
        batch = setup.batch("meta")
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = step.forward(batch)
            loss = step.loss(outputs, batch)
        tracker.trace.backward = len(tracker.trace.workspace)
        step.backward(loss)
        finite = step.clip(loss)
        if device != "cuda" or "fused" not in step.optimizer.defaults:  # one kernel, which needs no room, has no shapes
            with _ReadsOnes():
                take_step(step.optimizer, finite)
    return tracker.trace


def _own_tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def step_memory(setup: StepSetup, precision: TrainingPrecision, device: str = "cuda") -> Memory:
    """Peak memory of one training step, in bytes, and what it consists of at that moment.

    ``parameters`` hold the averaged copy of the weights; ``gradients`` are those that exist at the peak (it is usually
    early in the backward pass, when few do); ``activations`` is what is saved for backward, 16-bit copies of the
    weights among it; ``transient`` is everything else: image, label, logits, gradients of activations, workspace.

    Args: see :func:`trace_step`.
    """
    trace = trace_step(setup, precision, device)
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


def scaling(setup: StepSetup, precision: TrainingPrecision, device: str = "cuda") -> Scaling:
    """Measure how the memory of a step grows with its voxels; cached, for a planner's search.

    Two small steps are walked through; the result agrees with :func:`step_memory` at any size to within the few bytes
    a sample that statistics of normalization layers take. Patch and batch of ``setup`` do not matter.
    """
    parts = {
        "network": without_reasons(setup.network.model_dump(mode="json")),
        "recipe": without_reasons(setup.recipe.model_dump(mode="json")),
        "target": (setup.target.kind, setup.target.heads),
        "in_channels": setup.in_channels,
    }
    return _scaling(json.dumps(parts), precision, device)


@lru_cache(maxsize=512)
def _scaling(parts: str, precision: TrainingPrecision, device: str) -> Scaling:
    found = json.loads(parts)
    network: Network = TypeAdapter(Network).validate_python(found["network"])
    recipe = Recipe.model_validate(found["recipe"])
    setup = StepSetup(network, found["in_channels"], stand_in(*found["target"]), network.divisor, 2, recipe)
    sizes, curves = [], []
    # Not so small that the lowest resolution is smaller than a kernel: a convolution then pads, which is a step more.
    for multiple in (4, 8):
        patch = [int(size) * multiple for size in network.divisor]
        sizes.append(2 * int(np.prod(patch)))
        curves.append(trace_step(setup.at(patch, 2), precision, device).alive())
    slope = (curves[1] - curves[0]) / (sizes[1] - sizes[0])
    return Scaling(curves[0] - slope * sizes[0], slope)
