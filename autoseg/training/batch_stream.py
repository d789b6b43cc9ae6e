"""BatchStream: the batches of a training in order, read and made while the steps before still run."""

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from autoseg.training.batches import BatchMaker, MadeBatch
from autoseg.training.sampling import LoadedBatch, PatchLoader

#: Batches whose source voxels are read ahead for a CUDA device.
BATCHES_READ_AHEAD = 2

#: Steps that a CUDA device may have before it when it gets another: enough that it never runs out of work, and few, as
#: the batch of each takes memory.
IN_FLIGHT = 2


class BatchStream(Iterator[MadeBatch]):
    """Batches in order.

    For a CUDA device a thread reads their source voxels ahead. They are made on a CUDA stream of their own, beside the
    steps before, by the thread that launches the steps: two threads that launch kernels would hold each other up more
    than they would gain, as Python runs one at a time.

    Args:
        loader: of the source voxels, which starts at the right batch.
        maker: makes a batch of them on the training device.
        readers: threads that read patches at once; 0 reads them one after the other.
    """

    def __init__(self, loader: PatchLoader, maker: BatchMaker, readers: int) -> None:
        self.loader, self.maker = loader, maker
        self._readers = ThreadPoolExecutor(readers, "autoseg-read") if readers else None
        self._next = loader.next_batch
        cuda = maker.device.type == "cuda"
        self._ahead = _ReadAhead(loader, self._readers) if cuda else None
        self._beside = _Beside(maker.device) if cuda else None

    def __next__(self) -> MadeBatch:
        if self._ahead is None or self._beside is None:
            made = self.make(self._next)
            self._next += 1
            return made
        loaded = self._ahead.get()
        with torch.cuda.stream(self._beside.stream):
            made = self._made(loaded)
        self._beside.hand_over(made)
        return made

    def make(self, number: int) -> MadeBatch:
        """Batch ``number``, whatever was made before."""
        return self._made(self.loader.batch(number, self._readers))

    def _made(self, loaded: LoadedBatch) -> MadeBatch:
        return self.maker.make(loaded, self.loader.cache.layout)

    def close(self) -> None:
        """End the threads."""
        if self._ahead is not None:
            self._ahead.close()
        if self._readers is not None:
            self._readers.shutdown(cancel_futures=True)


class _Beside:
    """A CUDA stream on which batches are made beside the steps, and how far it may run ahead of them."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self._given: deque[torch.cuda.Event] = deque()

    def hand_over(self, made: MadeBatch) -> None:
        """Let the device's current stream, not this process, wait until the batch is there."""
        current = torch.cuda.current_stream(self.stream.device)
        current.wait_stream(self.stream)
        for tensor in made.tensors:
            tensor.record_stream(current)
        self._given.append(torch.cuda.Event(blocking=True))
        self._given[-1].record(current)
        if len(self._given) > IN_FLIGHT:
            self._given.popleft().synchronize()


class _ReadAhead:
    """A thread that reads the source voxels of the next batches.

    It does not refer to the stream that it belongs to: in a cycle of references, the cases that lie in the device's
    memory would outlive the training.
    """

    def __init__(self, loader: PatchLoader, readers: ThreadPoolExecutor | None) -> None:
        self._loader, self._readers = loader, readers
        self._read: queue.Queue[LoadedBatch | BaseException] = queue.Queue(BATCHES_READ_AHEAD - 1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autoseg-batches", daemon=True)
        self._thread.start()

    def get(self) -> LoadedBatch:
        """The next batch; whatever went wrong while it was read is raised here."""
        found = self._read.get()
        if isinstance(found, BaseException):
            try:
                raise found
            finally:
                del found  # its traceback has this frame
        return found

    def close(self) -> None:
        """End the thread; what was read ahead is dropped."""
        self._closed.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._read.get(timeout=0.05)
        while not self._read.empty():
            self._read.get()

    def _run(self) -> None:
        number = self._loader.next_batch
        try:
            while not self._closed.is_set():
                self._read.put(self._loader.batch(number, self._readers))
                number += 1
        except BaseException as error:  # raised in the loop's thread
            self._read.put(error)
