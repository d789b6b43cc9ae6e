"""Recovery of known motions of a small head of two contrasts, and of pairs that are no rigid body."""

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.clinical import registration
from autoseg.clinical.exam_preparation import doubts_of
from autoseg.clinical.registration import align_rigidly, distance, head_mask, nmi_of, points_of, refine

#: Coarser levels than a real head needs.
LEVELS = ((12.0, 5.0), (8.0, 4.0), (5.0, 2.5))

SHAPE, SPACING = (22, 44, 36), (4.5, 4.5, 6.0)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(registration, "LEVELS", LEVELS)


def head(skull: float, tissue: float, water: float, bend: float = 0.0) -> sitk.Image:
    """An egg with a skull, tissue and two uneven ventricles; ``bend`` shifts the lower half, in shares of its width."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    x = x + bend * np.clip(-z, 0, 1)
    outer = (x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.95 + 0.1 * y) ** 2
    array = np.zeros(SHAPE, np.float32)
    array[outer < 1] = skull
    array[outer < 0.75] = tissue
    array[((x - 0.25) / 0.2) ** 2 + ((y + 0.1) / 0.45) ** 2 + ((z - 0.1) / 0.4) ** 2 < 1] = water
    array[((x + 0.2) / 0.15) ** 2 + ((y - 0.2) / 0.3) ** 2 + ((z + 0.2) / 0.3) ** 2 < 1] = 0.5 * (water + skull)
    array += np.random.default_rng(0).normal(0, 2, SHAPE)
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing(SPACING)
    image.SetOrigin((-80, -100, -60))
    return sitk.DiscreteGaussian(image, 9.0)


def moved(image: sitk.Image, motion: sitk.Euler3DTransform) -> sitk.Image:
    image = sitk.Image(image)
    turn = np.asarray(motion.GetMatrix()).reshape(3, 3)
    image.SetOrigin(motion.TransformPoint(image.GetOrigin()))
    image.SetDirection((turn @ np.asarray(image.GetDirection()).reshape(3, 3)).ravel().tolist())
    return image


def test_a_known_motion_is_found() -> None:
    motion = sitk.Euler3DTransform((0, 0, 0), 0.12, -0.08, 0.2, (9, -12, 6))
    fixed, moving = head(60, 100, 30), moved(head(90, 40, 120), motion)
    region = head_mask(fixed)
    found = refine(fixed, moving, align_rigidly(fixed, moving), region)
    assert distance(found.transform, motion, points_of(region)) < 2.0  # of voxels of 4.5 mm
    assert found.after > found.before
    assert doubts_of({"t2": found}) == []


def test_the_numbers_do_not_depend_on_the_number_of_threads() -> None:
    fixed = head(60, 100, 30)
    moving = moved(head(90, 40, 120), sitk.Euler3DTransform((0, 0, 0), 0.1, 0.0, 0.1, (5, -4, 6)))
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for number in (1, 4):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(number)
            aligned = align_rigidly(fixed, moving)
            found.append((aligned.transform.GetParameters(), aligned.figures))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == number
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    assert found[0] == found[1]


def test_a_pair_that_is_not_one_rigid_body_is_flagged() -> None:
    fixed, moving = head(60, 100, 30), head(90, 40, 120, bend=0.45)
    found = refine(fixed, moving, align_rigidly(fixed, moving), head_mask(fixed))
    assert any("not one rigid body" in flag for flag in doubts_of({"t2": found}))


def test_noise_is_flagged() -> None:
    fixed = head(60, 100, 30)
    noise = sitk.Image(fixed)
    noise = sitk.AdditiveGaussianNoise(noise * 0, 10.0, 0.0, 1)
    found = refine(fixed, noise, align_rigidly(fixed, noise), head_mask(fixed))
    assert doubts_of({"t2": found})


def test_a_level_does_not_shift_an_image_nor_depend_on_where_it_lies() -> None:
    # An even number of voxels becomes one: there is none in the middle.
    index = np.indices((6, 32, 32))
    ball = np.exp(-((index[0] - 2.5) ** 2) - ((index[1] - 13.2) ** 2 + (index[2] - 17.6) ** 2) / 30)
    image = sitk.GetImageFromArray(ball.astype(np.float32))
    image.SetSpacing((0.9, 0.9, 5.5))
    turned = moved(image, sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.15, (5, 6, 7)))
    for side in (1.8, 3.6):
        level, other = (sitk.GetArrayFromImage(registration.at_level(one, side, 1.0)) for one in (image, turned))
        assert np.allclose(level, other, atol=1e-5)
        coarse = registration.at_level(image, side, 1.0)
        weights = sitk.GetArrayFromImage(coarse)
        centre = [float((np.indices(weights.shape)[axis] * weights).sum() / weights.sum()) for axis in (2, 1, 0)]
        found = coarse.TransformContinuousIndexToPhysicalPoint(centre)
        assert found[:2] == pytest.approx((17.6 * 0.9, 13.2 * 0.9), abs=0.1)


def test_normalized_mutual_information_of_known_pairs() -> None:
    values = np.repeat(np.arange(40), 100).astype(float)
    assert nmi_of(values, -3 * values) == pytest.approx(2.0)
    a, b = np.meshgrid(np.arange(40.0), np.arange(40.0))
    assert nmi_of(a.ravel(), b.ravel()) == pytest.approx(1.0)
