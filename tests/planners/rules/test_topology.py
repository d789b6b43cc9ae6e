"""Pooling and kernels: hand-worked examples and properties."""

from hypothesis import given
from hypothesis import strategies as st

from planners.rules.topology import network, pooling
from planners.unet import PLAIN_UNET


def test_hippocampus() -> None:
    """40 → 20 → 10 → 5: three poolings, as in nnU-Net's plan."""
    pooled = pooling((40, 56, 40), (1, 1, 1))
    assert pooled.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert pooled.kernels == ((3, 3, 3),) * 4


def test_brats_as_nnunet_plans_it() -> None:
    """96×160×160: z ends at 6 voxels after four poolings, y and x at 5 after five."""
    pooled = pooling((96, 160, 160), (1, 1, 1))
    assert pooled.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert pooled.divisor == (16, 32, 32)


def test_anisotropic_axis_waits_until_the_others_are_as_coarse() -> None:
    """Spacing 5, 0.8, 0.8: a slice distance over twice the pixel's until 0.8 → 1.6 → 3.2."""
    pooled = pooling((40, 224, 192), (5, 0.8, 0.8))
    assert pooled.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert pooled.kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


def test_features_double_up_to_a_maximum() -> None:
    assert network(PLAIN_UNET, pooling((128, 128, 128), (1, 1, 1))).features == [32, 64, 128, 256, 320, 320]
    assert network(PLAIN_UNET, pooling((512, 512), (1, 1))).features == [32, 64, 128, 256, 512, 512, 512, 512]
    assert network(PLAIN_UNET, pooling((128, 128, 128), (1, 1, 1)), 16).features == [16, 32, 64, 128, 160, 160]


@given(
    st.integers(2, 3).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(1, 600), min_size=n, max_size=n),
            st.lists(st.floats(0.2, 8), min_size=n, max_size=n),
        )
    )
)
def test_no_axis_is_pooled_below_the_bottleneck(case: tuple[list[int], list[float]]) -> None:
    size, spacing = case
    pooled = pooling(size, spacing)
    assert len(pooled.strides) == len(pooled.kernels) >= 2
    assert all(stride == 1 for stride in pooled.strides[0])
    for voxels, divisor in zip(size, pooled.divisor, strict=True):
        assert divisor == 1 or voxels / divisor > 2  # rounded up to the divisor that is at least 4 − 1
        padded = -(-voxels // divisor) * divisor
        assert divisor == 1 or padded // divisor >= 3
    for early, late in zip(pooled.kernels, pooled.kernels[1:], strict=False):
        assert all(a <= b for a, b in zip(early, late, strict=True))
