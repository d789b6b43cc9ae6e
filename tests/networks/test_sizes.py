"""Networks with a share of the parameters of the one described: the same layers, with fewer or more kernels."""

import pytest
import torch
from pydantic import ValidationError

from autoseg.networks import build, count_parameters, parameters_of, resized
from autoseg.plans.architecture import Architecture
from autoseg.plans.families import DeepMedic, FullImageUNet, Inflated, MultiView, UNet, VNet
from autoseg.plans.plan import Plan
from autoseg.utils.errors import AutosegError
from tests.builders import make_configuration, make_network, make_plan

#: Rahimpour et al., sections 2.4 and 3.2: 25 %, 50 % and 150 % of the parameters of their networks.
SIZES = (0.25, 0.5, 1.5)

NETWORKS: list[Architecture] = [
    DeepMedic(),
    FullImageUNet(),
    make_network(width=32, stages=4),
    UNet(**{**make_network(width=32, stages=3).model_dump(), "family": "resenc"}),
    VNet(),
    MultiView(),
    Inflated(),
]


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (network, size)
        for network in NETWORKS
        for size in (SIZES if network.family in ("deepmedic", "fullimage_unet") else SIZES[:1])
    ],
    ids=lambda value: getattr(value, "family", value),
)
def test_a_share_of_the_parameters(network: Architecture, size: float) -> None:
    """As near as whole kernels allow: within 5 %."""
    if network.family == "inflated":
        pytest.importorskip("timm")
    whole = parameters_of(network, 4, 2)[0]
    part = parameters_of(network.model_copy(update={"size": size}), 4, 2)[0]
    assert part / whole == pytest.approx(size, rel=0.05)


def test_kernels_by_hand() -> None:
    """Parameters grow with the square of the kernels: half of them is 1/√2 of these."""
    half = resized(DeepMedic(size=0.5))
    assert isinstance(half, DeepMedic)
    assert half.features == pytest.approx([kernels / 2**0.5 for kernels in DeepMedic().features], abs=1)
    assert half.fully_connected == pytest.approx([150 / 2**0.5] * 2, abs=1.5)
    assert half.size == 1
    wide = resized(FullImageUNet(size=1.5))
    assert isinstance(wide, FullImageUNet)
    assert wide.features[0] == pytest.approx((20 * 1.5**0.5, 40 * 1.5**0.5), abs=0.6)


def test_size_one_is_the_network_itself() -> None:
    network = DeepMedic()
    assert resized(network) is network


def test_the_kernels_depend_on_nothing_but_the_description() -> None:
    """So that weights fit a model with another channel or output."""
    shapes = [
        {name: tensor.shape for name, tensor in build(DeepMedic(size=0.25), channels, heads).state_dict().items()}
        for channels, heads in ((4, 1), (1, 3))
    ]
    changed = [name for name in shapes[0] if shapes[0][name] != shapes[1][name]]
    assert len(changed) == 4  # the first convolution of each pathway, and the classification with its bias


def test_choosing_a_size_leaves_the_random_state_alone() -> None:
    small = make_network(width=6)
    small.size = 0.37
    torch.manual_seed(3)
    first = build(small, 1, 2)
    torch.manual_seed(3)
    again = build(small, 1, 2)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert count_parameters(first)[0] < count_parameters(build(make_network(width=6), 1, 2))[0]


def test_identity_of_weights_depends_on_it() -> None:
    plans = [
        make_plan(make_configuration(network=make_network().model_copy(update={"size": size}))) for size in (1.0, 0.5)
    ]
    one, half = (plan.stage().identity for plan in plans)
    assert one != half
    older = plans[0].model_dump(mode="json")
    del older["configurations"]["small"]["network"]["size"]
    assert Plan.model_validate(older).stage().identity == one


def test_an_encoder_of_one_width_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(AutosegError, match="convnext_atto has one width"):
        build(Inflated(encoder="convnext_atto", size=0.5), 3, 2)
    plan = make_plan(make_configuration(patch=(8, 64, 64), network=Inflated(size=0.5)))
    data = plan.model_dump(mode="json")
    data["configurations"]["small"]["recipe"]["initialization"] = {"source": "imagenet"}
    with pytest.raises(ValidationError, match="at its own size"):
        Plan.model_validate(data)


def test_a_family_without_sizes_says_so() -> None:
    class Fixed(Architecture):
        family: str = "fixed"

    with pytest.raises(ValidationError, match="networks of the family fixed have one size"):
        Fixed(size=0.5)
