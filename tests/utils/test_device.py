"""Which device, and what becomes of large blocks of memory."""

import platform
import subprocess
import sys
import weakref

import pytest
import torch
from torch.torch_version import TorchVersion

from autoseg.utils import device as module
from autoseg.utils.device import (
    free_device_memory,
    has_room,
    keep_large_blocks,
    lacks_memory,
    saying_what_lacks_memory,
    select_device,
    wait_for,
)
from autoseg.utils.errors import AutosegError, UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be on another machine."""

    def pretend(cuda: int = 0, mps: bool = False, version: str = "2.10.1+cpu") -> None:
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


def test_auto(machine) -> None:
    for options, kind in (({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 1, "mps": True}, "cuda")):
        machine(**options)
        assert select_device("auto").type == select_device().type == kind
    assert select_device("cpu") == CPU


@pytest.mark.parametrize(("version", "kind"), [("2.7.1", "cpu"), ("2.8.0", "mps"), ("2.10.0a0+git1", "mps")])
def test_a_macs_gpu_needs_a_torch_that_computes_volumes_there(machine, version: str, kind: str) -> None:
    machine(mps=True, version=version)
    assert select_device("auto").type == kind
    if kind == "mps":
        assert select_device("mps").type == kind
        return
    with pytest.raises(UsageError, match=r"--device mps needs torch 2\.8 or later, here is 2\.7\.1; .*--device cpu"):
        select_device("mps")


def test_what_is_not_there(machine) -> None:
    machine()
    for name, reason in (
        ("cuda", "there is no CUDA device here; use --device cpu"),
        ("cuda:1", "there is no CUDA device here"),
        ("mps", "there is no Metal device here"),
        ("tpu", "choose auto, cpu, cuda or mps"),
        ("", "choose auto"),
        ("cpu:x", "is unknown"),
    ):
        with pytest.raises(UsageError, match=f"--device {name}.*{reason}"):
            select_device(name)


def test_one_of_several(machine) -> None:
    machine(cuda=2)
    assert select_device("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:2", "cuda:x", "cuda:-1"):
        with pytest.raises(UsageError, match=f"--device {name}"):
            select_device(name)


def test_a_gpu_is_waited_for_and_a_cpu_has_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    for device in (CPU, torch.device("cuda:1")):
        wait_for(device)
    assert waited == [torch.device("cuda:1")]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_lacks_in_whatever_words(error: Exception) -> None:
    assert lacks_memory(error)
    with (
        pytest.raises(AutosegError, match=r"^cpu ran out of memory while counting; stop it\.$"),
        saying_what_lacks_memory(CPU, "counting", "stop it"),
    ):
        raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), KeyError("out of memory"), AutosegError("cuda ran out of memory.")]
)
def test_another_error_stays_what_it_is(error: Exception) -> None:
    assert not lacks_memory(error)
    with pytest.raises(type(error)) as told, saying_what_lacks_memory(CPU, "counting", "stop it"):
        raise error
    assert told.value is error


def test_room_is_what_is_free_and_what_torch_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 bytes are free. Of the blocks that torch keeps it gives back those of which nothing is used, no graph's."""

    def block(size: int, device: int = 0, used: int = 0, pool: tuple[int, int] = (0, 0)) -> dict[str, object]:
        return {"device": device, "total_size": size, "active_size": used, "segment_pool_id": pool}

    blocks = [block(150), block(50), block(300, pool=(0, 1)), block(400, device=1), block(600, used=1)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: blocks)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    for device, room in ((CUDA, 1200), (torch.device("cuda:0"), 1200), (torch.device("cuda:1"), 1400)):
        assert has_room(device, room - 1)
        assert not has_room(device, room)
        assert has_room(device, room // 2 - 1, 0.5)
        assert not has_room(device, room // 2, 0.5)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")  # which says nothing of them
    assert has_room(CUDA, 999)
    assert not has_room(CUDA, 1000)


@pytest.mark.usefixtures("without_collector")
def test_what_only_refers_to_itself_is_freed(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda in (0, 1):
        machine(cuda=cuda)
        emptied: list[int] = []
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda found=emptied: found.append(1))
        layer = torch.nn.Linear(1, 1)
        layer.same = [layer]
        kept = weakref.ref(layer)
        del layer
        assert kept() is not None
        free_device_memory()
        assert kept() is None
        assert len(emptied) == cuda


def test_questions_have_answers_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert keep_large_blocks() is False


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone")
@pytest.mark.parametrize("kept", [True, False])
def test_large_blocks_are_kept(kept: bool) -> None:
    """64 MB that were used and freed stay with the process only where that is asked for."""
    program = f"""
import os
import torch
from autoseg.utils.device import keep_large_blocks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if {kept}:
    keep_large_blocks()
before = resident()
block = torch.ones(1 << 24)
later = torch.ones(1)
del block
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 48e6) == kept
