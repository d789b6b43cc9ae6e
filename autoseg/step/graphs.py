"""GraphedGradients: loss and gradients of a batch, recorded once as a CUDA graph and then replayed.

The kernels of a small patch take the device less time than it takes to launch them one by one; a graph is launched as
a whole. Results are those of the same kernels without a graph.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from autoseg.step.batch import Batch

#: Steps before the recording, in which libraries choose and load their kernels.
WARM_UP = 2


class GraphedGradients:
    """Computes loss and gradients of batches by replaying a graph; recorded anew when what it depends on changes.

    A batch of which some annotations are missing decides on the CPU what is computed, and is computed without a graph.

    Args:
        network: on a CUDA device; its weights change in place.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._parameters, self._modules = list(network.parameters()), list(network.modules())
        self._recording: _Recording | None = None

    def __call__(self, batch: Batch, compute: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, 0-d, when the gradients of the network are the batch's.

        Args:
            batch: on the device.
            compute: loss of a batch, whose backward pass has filled the gradients of the network; the same each time.
                It is not kept: as a method of the step that this belongs to, it would keep that alive.
        """
        if batch.drawn is not None:
            self._network.zero_grad(set_to_none=True)
            return compute(batch)
        key = self._key(batch)
        if self._recording is None or self._recording.key != key:
            self._recording = None  # its memory first
            self._recording = _Recording(key, self._network, compute, batch)
        return self._recording.replay(batch)

    def _key(self, batch: Batch) -> tuple[object, ...]:
        """All that the recorded kernels depend on, apart from values on the device."""
        trained = tuple(parameter.requires_grad for parameter in self._parameters)
        modes = tuple(module.training for module in self._modules)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in _tensors(batch))
        return trained, modes, shapes, tuple(batch.fields)


class _Recording:
    """One graph, the batch that it reads and the gradients that it writes."""

    def __init__(
        self, key: tuple[object, ...], network: nn.Module, compute: Callable[[Batch], torch.Tensor], batch: Batch
    ) -> None:
        self.key = key
        self._batch = replace(
            batch,
            image=batch.image.clone(),
            label=batch.label.clone(),
            fields={name: values.clone() for name, values in batch.fields.items()},
        )
        stream = _side_stream(batch.image.device)
        _warm_up(network, compute, self._batch, stream)
        self._graph = torch.cuda.CUDAGraph()
        network.zero_grad(set_to_none=True)
        # A graph is recorded on the current device, which need not be the network's. Other threads go on with their
        # work on the device: they read the next batches.
        with (
            torch.cuda.stream(stream),
            torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"),
        ):
            self._loss = compute(self._batch)
        self._gradients = [(parameter, parameter.grad) for parameter in network.parameters()]

    def replay(self, batch: Batch) -> torch.Tensor:
        torch._foreach_copy_(_tensors(self._batch), _tensors(batch))
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._loss.clone()  # the next replay overwrites it


def _tensors(batch: Batch) -> list[torch.Tensor]:
    return [batch.image, batch.label, *batch.fields.values()]


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """A device's stream for warming up and recording: one, as libraries keep a workspace for each stream."""
    return torch.cuda.Stream(device)


def _warm_up(
    network: nn.Module, compute: Callable[[Batch], torch.Tensor], batch: Batch, stream: torch.cuda.Stream
) -> None:
    """Compute the gradients a few times on a stream; random states and running statistics are as before."""
    device = batch.image.device
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.random.fork_rng(devices=[device]), torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            network.zero_grad(set_to_none=True)
            compute(batch)
    torch.cuda.current_stream(device).wait_stream(stream)
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
