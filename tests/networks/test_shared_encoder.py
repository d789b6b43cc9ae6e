"""One encoder with several decoders against the single U-Net it is made of."""

import pytest
import torch

from autoseg.networks import build, count_parameters, set_deep_supervision
from tests.builders import make_network


def built(decoders: int, family: str = "unet", **changes: object) -> torch.nn.Module:
    torch.manual_seed(4)
    return build(make_network(stages=3, family=family, decoders=decoders, **changes), 2, 3)


@pytest.mark.parametrize("family", ["unet", "resenc"])
def test_every_decoder_starts_as_the_single_one(family: str) -> None:
    image = torch.randn(2, 2, 8, 8, 8)
    single, several = built(1, family), built(3, family)
    for one, all_ in zip(single(image), several(image), strict=True):
        assert all_.shape == (2, 9, *one.shape[2:])
        assert all(torch.equal(all_[:, 3 * rater : 3 * rater + 3], one) for rater in range(3))
    set_deep_supervision(several, False)
    assert several(image).shape == (2, 9, 8, 8, 8)
    assert several.eval()(image).shape == (2, 9, 8, 8, 8)


def test_decoders_have_weights_of_their_own() -> None:
    single, several = built(1), built(2)
    names = set(several.state_dict())
    wanted = {name for name in single.state_dict() if name.startswith("encoder.")}
    wanted |= {
        name.replace("decoder.", f"decoders.{rater}.")
        for name in single.state_dict()
        if name.startswith("decoder.") and not name.startswith("decoder.encoder.")
        for rater in range(2)
    }
    assert names == wanted
    encoder = sum(p.numel() for name, p in single.named_parameters() if name.startswith("encoder"))
    assert count_parameters(several)[0] == encoder + 2 * (count_parameters(single)[0] - encoder)
    with torch.no_grad():
        several.decoders[1].seg_layers[-1].bias += 5
    image = torch.randn(1, 2, 8, 8, 8)
    first, second = several.eval()(image).split(3, dim=1)
    assert torch.allclose(second, first + 5, atol=1e-5)
