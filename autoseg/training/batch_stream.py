"""BatchStream: the batches of a training in order, made while the step before still runs."""

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from autoseg.training.batches import BatchMaker, MadeBatch
from autoseg.training.sampling import PatchLoader
from autoseg.training.transfers import stream_of

#: Batches that are made ahead on a CUDA device.
AHEAD = 2

#: Steps that a CUDA device may have before it when it gets another: enough that it never runs out of work, and few, as
#: the batch of each takes memory.
IN_FLIGHT = 2


class BatchStream(Iterator[MadeBatch]):
    """Batches in order. For a CUDA device a thread makes them ahead, on a CUDA stream of its own.

    Args:
        loader: of the source voxels, which starts at the right batch.
        maker: makes a batch of them on the training device.
        readers: threads that read patches at once; 0 reads them one after the other.
    """

    def __init__(self, loader: PatchLoader, maker: BatchMaker, readers: int) -> None:
        self.loader, self.maker = loader, maker
        self._readers = ThreadPoolExecutor(readers, "autoseg-read") if readers else None
        self._next = loader.next_batch
        self._ahead: _Ahead | None = None
        if maker.device.type == "cuda":
            self._ahead = _Ahead(self)

    def __next__(self) -> MadeBatch:
        if self._ahead is not None:
            return self._ahead.get()
        made = self.make(self._next)
        self._next += 1
        return made

    def make(self, number: int) -> MadeBatch:
        """Batch ``number``, whatever was made before."""
        loaded = self.loader.batch(number, self._readers)
        return self.maker.make(loaded, self.loader.cache.layout)

    def close(self) -> None:
        """End the threads."""
        if self._ahead is not None:
            self._ahead.close()
        if self._readers is not None:
            self._readers.shutdown(cancel_futures=True)


class _Ahead:
    """A thread that makes the batches of a stream ahead."""

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream
        self._device = stream.maker.device
        self._made: queue.Queue[tuple[MadeBatch, torch.cuda.Event | None] | BaseException] = queue.Queue(AHEAD - 1)
        self._given: deque[torch.cuda.Event] = deque()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autoseg-batches", daemon=True)
        self._thread.start()

    def get(self) -> MadeBatch:
        """The next batch; whatever went wrong while it was made is raised here."""
        found = self._made.get()
        if isinstance(found, BaseException):
            raise found
        made, event = found
        if event is not None:
            # The device, not this process, waits until the batch is there.
            current = torch.cuda.current_stream(self._device)
            current.wait_event(event)
            for tensor in made.tensors:
                tensor.record_stream(current)
            self._given.append(torch.cuda.Event(blocking=True))
            self._given[-1].record(current)
            if len(self._given) > IN_FLIGHT:
                self._given.popleft().synchronize()
        return made

    def close(self) -> None:
        """End the thread; batches that were made ahead are dropped."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._made.get(timeout=0.05)
            except queue.Empty:
                continue

    def _run(self) -> None:
        number = self._stream.loader.next_batch
        try:
            with stream_of(self._device) as stream:
                while not self._closed.is_set():
                    made = self._stream.make(number)
                    event = None
                    if stream is not None:
                        event = torch.cuda.Event()
                        event.record(stream)
                    self._made.put((made, event))
                    number += 1
        except BaseException as error:  # raised in the loop's thread
            self._made.put(error)
