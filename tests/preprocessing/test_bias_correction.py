"""N4 takes a known brightness field away, always the same way, from images of any shape."""

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.preprocessing.bias_correction import correct_bias


def head(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two tissues with 2 % of noise under a field that varies by a factor of three; where and what they are."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n + 2)[1:-1] for n in shape], indexing="ij")
    radius = z**2 + y**2 + x**2
    tissue = np.where(radius < 0.4, 200.0, 100.0)
    field = np.exp(0.4 * x + 0.3 * y * z + 0.2 * z)
    noise = 1 + 0.02 * np.random.default_rng(0).standard_normal(shape)
    return (tissue * field * noise * (radius < 0.9)).astype(np.float32), radius < 0.9, tissue


def variation(image: np.ndarray, inside: np.ndarray, tissue: np.ndarray) -> float:
    """Coefficient of variation within the tissues: 0.02 if nothing but the noise is left."""
    relative = image[inside] / tissue[inside]
    return float(relative.std() / relative.mean())


@pytest.mark.parametrize("shape", [(40, 48, 44), (1, 40, 40), (6, 40, 40)])
def test_field_is_gone(shape: tuple[int, ...]) -> None:
    image, inside, tissue = head(shape)
    corrected = correct_bias(image, inside)
    assert corrected.dtype == np.float32
    assert corrected.shape == shape
    assert variation(image, inside, tissue) > 0.18
    assert variation(corrected, inside, tissue) < 0.025
    assert not corrected[~inside].any()


@pytest.mark.parametrize("shape", [(32, 48, 64), (33, 50, 41)], ids=["even", "odd"])
def test_a_field_off_the_middle_is_found_where_it_is(shape: tuple[int, ...]) -> None:
    """The field's displacement by least squares over its gradient; every fourth voxel alone moved it by 0.6 to 1."""
    unit = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    inside = (unit**2).sum(0) < 0.9
    tissue = np.where(sum(np.sin((9 + axis) * place + axis) for axis, place in enumerate(unit)) > 0.3, 1000.0, 600.0)
    middle = np.array([-0.23, 0.11, -0.17]).reshape(3, 1, 1, 1)
    true = 0.6 * np.exp(-0.9 * ((unit - middle) ** 2).sum(0))
    image = (tissue * np.exp(true) * inside).astype(np.float32)
    found = np.log(image[inside] / correct_bias(image, inside)[inside])
    terms = [np.ones(inside.sum()), true[inside], *(-slope[inside] for slope in np.gradient(true))]
    fitted = np.linalg.lstsq(np.stack(terms, axis=1), found, rcond=None)[0]
    assert fitted[1] == pytest.approx(1, abs=0.1)
    assert np.abs(fitted[2:] / fitted[1]).max() < 0.35


def test_without_a_field_hardly_anything_changes() -> None:
    _, inside, tissue = head((24, 24, 24))
    image = np.where(inside, tissue, 0).astype(np.float32)
    assert variation(correct_bias(image, inside), inside, tissue) < 0.01


def test_threads_change_nothing() -> None:
    image, inside, _ = head((20, 24, 22))
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 3):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(correct_bias(image, inside))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert np.array_equal(*found)


def test_only_what_is_inside_is_looked_at() -> None:
    """A bright skull, air full of noise and values below zero outside the mask say nothing about the field inside."""
    image, inside, _ = head((20, 24, 22))
    disturbed = image.copy()
    disturbed[~inside] = np.random.default_rng(1).uniform(-500, 5000, int((~inside).sum()))
    assert np.array_equal(correct_bias(disturbed, inside)[inside], correct_bias(image, inside)[inside])


@pytest.mark.parametrize("values", [0.0, -3.0, 7.0], ids=["zero", "negative", "constant"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5, 6)])
def test_nothing_to_estimate_from(shape: tuple[int, ...], values: float) -> None:
    image = np.full(shape, values, np.float32)
    assert np.array_equal(correct_bias(image, np.ones(shape, bool)), image)
    assert np.array_equal(correct_bias(image, np.zeros(shape, bool)), image)


def test_a_few_voxels_between_the_kept_ones() -> None:
    """Every fourth voxel of a large image may miss all that is inside."""
    image, inside = np.zeros((64, 64, 64), np.float32), np.zeros((64, 64, 64), bool)
    inside[40:42, 40, 40] = True
    image[inside] = [3, 5]
    assert np.isfinite(correct_bias(image, inside)).all()
