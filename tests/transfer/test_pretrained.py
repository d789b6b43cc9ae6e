"""Weights of 2D models in volume encoders: files made here, from timm's and torch's own networks."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from autoseg.networks import build
from autoseg.networks.weights import content_of
from autoseg.plans.families import Inflated
from autoseg.plans.recipe import Initialization
from autoseg.transfer.pretrained import adapt_channels, check_fit, load_encoder, load_pretrained, read_weights
from autoseg.utils.errors import AutosegError

NETWORK = Inflated(encoder="resnet18", decoder_features=[8] * 5, decoder_widths=[8] * 5)


@pytest.fixture(scope="module")
def flat() -> torch.nn.Module:
    """A classifier with random weights, no two of which are alike by chance."""
    torch.manual_seed(1)
    model = timm.create_model("resnet18", pretrained=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.fixture
def file(tmp_path: Path, flat: torch.nn.Module) -> Path:
    save_file(flat.state_dict(), str(tmp_path / "resnet18.safetensors"))
    return tmp_path / "resnet18.safetensors"


def features(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    return model.forward_features(image)  # type: ignore[operator]


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_volume_of_identical_slices_gives_the_features_of_the_2d_network(
    tmp_path: Path, flat: torch.nn.Module, ending: str
) -> None:
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in flat.state_dict().items()}}, path)
    else:
        save_file(flat.state_dict(), str(path))
    network = build(NETWORK, 3, 2).eval()
    initialization = Initialization(source="file", file=path.name, content=content_of(read_weights(path)))
    said = load_pretrained(network, initialization, tmp_path)
    assert said == f"120 of 120 tensors of the encoder resnet18 start from {path.name}"
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = network.encoder(image[:, :, None].expand(-1, -1, 4, -1, -1))
        wanted = features(flat, image)
    torch.testing.assert_close(maps[32], wanted[:, :, None].expand_as(maps[32]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["repeat", "mean"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_identical_channels_give_the_activation_of_a_grey_picture(how: str, channels: int) -> None:
    torch.manual_seed(0)
    weight, grey = torch.randn(5, 3, 7, 7).double(), torch.randn(2, 1, 20, 20).double()
    adapted = adapt_channels(weight, channels, how)  # type: ignore[arg-type]
    assert adapted.shape == (5, channels, 7, 7)
    wanted = torch.conv2d(grey.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(torch.conv2d(grey.expand(-1, channels, -1, -1), adapted), wanted)


def test_colours_are_repeated_in_turn_and_rescaled() -> None:
    """Red 6, green 2, blue 4: four channels share red between the first and the fourth; two take blue to red."""
    weight = torch.tensor([6.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    assert adapt_channels(weight, 4, "repeat").flatten().tolist() == [3, 2, 4, 3]
    assert adapt_channels(weight, 2, "repeat").flatten().tolist() == [10, 2]
    assert adapt_channels(weight, 3, "repeat").flatten().tolist() == [6, 2, 4]
    assert adapt_channels(weight, 4, "mean").flatten().tolist() == [3, 3, 3, 3]


def test_names_of_encoders_that_timm_flattens() -> None:
    model = timm.create_model("convnext_atto", pretrained=False)
    network = build(NETWORK.model_copy(update={"encoder": "convnext_atto"}), 4, 2)
    load_encoder(network, model.state_dict(), "here")
    own = network.encoder.model.state_dict()
    assert torch.equal(own["stages_1.blocks.0.conv_dw.weight"], model.state_dict()["stages.1.blocks.0.conv_dw.weight"])
    torch.testing.assert_close(own["stem_0.weight"].sum(1), model.state_dict()["stem.0.weight"].sum(1))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            "resnet34",
            r"weights does not fit the encoder resnet18: 120 of its 120 tensors do, but layer1.2.conv1.weight is ",
        ),
        (
            "resnet50",
            r"resnet18: \d+ of its 120 tensors do, but layer1.0.conv1.weight is 64×64×1×1 instead of 64×64×3×3",
        ),
    ],
)
def test_weights_of_another_model_are_refused_with_their_tensors(other: str, message: str) -> None:
    weights = timm.create_model(other, pretrained=False).state_dict()
    with pytest.raises(AutosegError, match=message):
        check_fit(NETWORK, 2, weights, "weights")


def test_missing_tensors_are_named(flat: torch.nn.Module) -> None:
    weights = {name: tensor for name, tensor in flat.state_dict().items() if not name.startswith("layer4.1.bn2")}
    with pytest.raises(AutosegError, match=r"115 of its 120 tensors do, but layer4.1.bn2.weight is .* and 1 more"):
        check_fit(NETWORK, 3, weights, "weights")


def test_old_files_lack_the_counters_of_batch_norm(flat: torch.nn.Module) -> None:
    weights = {name: tensor for name, tensor in flat.state_dict().items() if "num_batches" not in name}
    said = load_encoder(build(NETWORK, 3, 2), weights, "an old file")
    assert said == "100 of 120 tensors of the encoder resnet18 start from an old file"


def test_another_file_of_the_same_name_is_refused(tmp_path: Path, file: Path, flat: torch.nn.Module) -> None:
    initialization = Initialization(source="file", file=file.name, content=content_of(flat.state_dict()))
    save_file({**flat.state_dict(), "fc.bias": torch.ones(1000)}, str(file))
    network = build(NETWORK, 3, 2)
    with pytest.raises(AutosegError, match="is not the file that was planned with; plan again with --weights"):
        load_pretrained(network, initialization, tmp_path)
    file.unlink()
    with pytest.raises(AutosegError, match="is gone; plan again with --weights FILE"):
        load_pretrained(network, initialization, tmp_path)


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    (tmp_path / "b.pth").write_bytes(b"nothing")
    torch.save({"epoch": 3}, tmp_path / "c.pth")
    torch.save(timm.create_model("resnet18"), tmp_path / "d.pth")
    for name, message in (
        ("a.safetensors", "holds no readable weights"),
        ("b.pth", "holds no readable weights"),
        ("c.pth", "holds no tensors"),
        ("d.pth", r"holds no readable weights \(it holds more than tensors; save model.state_dict\(\) only"),
        ("e.pth", "does not exist; give a file, imagenet or random"),
    ):
        with pytest.raises(AutosegError, match=message):
            read_weights(tmp_path / name)


def test_random_weights_are_left_alone() -> None:
    network = build(NETWORK, 1, 2)
    before = network.encoder.model.state_dict()["conv1.weight"].clone()
    assert load_pretrained(network, Initialization(), Path("nowhere")) is None
    assert torch.equal(network.encoder.model.state_dict()["conv1.weight"], before)


def test_imagenet_weights_come_from_timm(monkeypatch: pytest.MonkeyPatch, flat: torch.nn.Module) -> None:
    asked = []

    def create(name: str, **options: object) -> torch.nn.Module:
        asked.append((name, options))
        return flat

    network = build(NETWORK, 4, 2)
    names = frozenset(flat.state_dict())
    monkeypatch.setattr("autoseg.transfer.pretrained._names_of", lambda encoder: names)
    monkeypatch.setattr("timm.create_model", create)
    said = load_pretrained(network, Initialization(source="imagenet"), Path("nowhere"))
    assert asked == [("resnet18", {"pretrained": True})]
    assert said == "120 of 120 tensors of the encoder resnet18 start from ImageNet (timm)"


def test_without_a_network_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **options: object) -> None:
        raise OSError("no route to host\nand more")

    network = build(NETWORK, 4, 2)
    monkeypatch.setattr("timm.create_model", create)
    with pytest.raises(AutosegError, match=r"resnet18 can't be had from timm \(no route to host\); .* --weights FILE"):
        load_pretrained(network, Initialization(source="imagenet"), Path("nowhere"))
