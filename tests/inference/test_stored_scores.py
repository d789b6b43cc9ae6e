"""Where scores are collected: on a GPU only with room for the network beside them."""

import pytest
import torch

from autoseg.inference import stored_scores as module
from autoseg.inference.stored_scores import collector, room_on
from autoseg.utils.device import free_device_memory
from tests.devices import NO_GPU

GPU = torch.device("cuda")


def test_a_share_of_what_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.device, int, float]] = []
    monkeypatch.setattr(module, "has_room", lambda *given: asked.append(given) or True)
    assert room_on(GPU, 5)
    assert room_on(GPU, 5, 0.1)
    assert asked == [(GPU, 5, 0.4), (GPU, 5, 0.1)]
    assert not room_on(torch.device("cpu"), 0)
    assert room_on(torch.device("mps"), 10**9 - 1)
    assert not room_on(torch.device("mps"), 10**9)


@pytest.mark.gpu
@NO_GPU
def test_what_torch_keeps_for_reuse_is_free() -> None:
    free_device_memory()
    free, _ = torch.cuda.mem_get_info(GPU)
    block = torch.empty(int(0.7 * free), dtype=torch.uint8, device=GPU)
    del block
    left, _ = torch.cuda.mem_get_info(GPU)
    assert left < 0.4 * free
    found = collector((int(0.5 * left) // 4,), GPU)
    assert found.device.type == "cuda"
    del found
    free_device_memory()
