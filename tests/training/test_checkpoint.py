"""Weights and states on disk: what is read is what was written, and nothing else is ever executed."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from autoseg.networks import build
from autoseg.networks.weights import load_weights, save_weights
from autoseg.training.checkpoint import load_state, save_state
from autoseg.utils.errors import AutosegError
from tests.builders import make_network


def test_weights_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(make_network(norm="batch"), 2, 3)
    save_weights(tmp_path / "w.safetensors", network.state_dict(), {"by": "test"})
    found = load_weights(tmp_path / "w.safetensors")
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"by": "test"}
    other = build(make_network(norm="batch"), 2, 3)
    other.load_state_dict(found)
    image = torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(network.eval()(image), other.eval()(image))


def test_strided_and_empty_tensors(tmp_path: Path) -> None:
    weights = {"t": torch.arange(6.0).reshape(2, 3).T, "e": torch.zeros(0), "f": torch.zeros(0)}
    save_weights(tmp_path / "w.safetensors", weights)
    found = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(found["t"], weights["t"])
    assert found["e"].shape == (0,)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 10, b"\xff" * 100])
def test_damaged_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(AutosegError, match=r"w\.safetensors holds no readable weights"):
        load_weights(path)


def test_cut_and_missing_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(AutosegError, match="does not exist; train this fold first"):
        load_weights(path)
    save_weights(path, {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(AutosegError, match="train this fold again"):
        load_weights(path)


def test_state_comes_back(tmp_path: Path) -> None:
    state = {"n": 3, "x": 0.1, "rows": [{"a": float("inf")}], "t": torch.arange(3)}
    save_state(tmp_path / "s.pt", state)
    found = load_state(tmp_path / "s.pt")
    assert found["rows"] == state["rows"]
    assert (found["n"], found["x"]) == (3, 0.1)
    assert torch.equal(found["t"], state["t"])


def test_failed_write_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.pt"
    save_state(path, {"n": 1})

    def half(state: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_state(path, {"n": 2})
    monkeypatch.undo()
    assert load_state(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["s.pt"]


class Malicious:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("executed"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data))])
def test_code_in_a_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: object) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s.pt"
    writer({"state": Malicious()}, path)  # type: ignore[operator]
    with pytest.raises(AutosegError, match=r"s\.pt can't be resumed from .*--restart") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_cut_state(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    save_state(path, {"t": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(AutosegError, match="--restart"):
        load_state(path)
