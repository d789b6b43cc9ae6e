import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.data.boxes import bounding_box, cropping_box, foreground, middle_of, volume_box


def test_box_of_any_channel():
    image = np.zeros((2, 5, 6, 7))
    image[0, 1, 2, 3] = 4
    image[1, 3, 2, 5] = -1
    assert cropping_box(foreground(image)) == (slice(1, 4), slice(2, 3), slice(3, 6))


def test_mask_decides_where_there_is_one():
    mask = np.zeros((4, 4, 4), bool)
    mask[1:3, 2, 0] = True
    assert cropping_box(foreground(np.ones((1, 4, 4, 4)), mask)) == (slice(1, 3), slice(2, 3), slice(0, 1))


def test_nothing_to_crop_to_leaves_the_whole_image():
    whole = (slice(0, 2), slice(0, 3), slice(0, 4))
    assert cropping_box(np.zeros((2, 3, 4), bool)) == whole
    assert cropping_box(foreground(np.zeros((1, 2, 3, 4)))) == whole
    image = np.zeros((1, 2, 3, 4))
    image[0, 1] = 1
    assert cropping_box(foreground(image, np.zeros((2, 3, 4), bool))) == (slice(1, 2), *whole[1:])


@settings(max_examples=50, deadline=None)
@given(arrays(bool, st.lists(st.integers(1, 6), min_size=2, max_size=3).map(tuple)))
def test_the_box_is_the_smallest_that_holds_everything(inside):
    box = bounding_box(inside)
    assert inside[box].sum() == inside.sum()
    if inside.any():
        found = np.argwhere(inside)
        assert [s.start for s in box] == found.min(axis=0).tolist()
        assert [s.stop for s in box] == (found.max(axis=0) + 1).tolist()
    else:
        assert box == (slice(0, 0),) * inside.ndim


def test_the_middle_of_a_box():
    # 10 voxels from 2 to 12: 4 of them from 5 on. 5 voxels: 2 of them after the first. 3 voxels are no more than 7.
    assert middle_of((slice(2, 12), slice(0, 5), slice(4, 7)), (4, 2, 7)) == (slice(5, 9), slice(1, 3), slice(4, 7))


def test_what_is_cut_out_of_a_volume_has_two_slices():
    beside = slice(3, 5), slice(0, 2)
    for first, expected in ((2, slice(2, 4)), (0, slice(0, 2)), (5, slice(4, 6))):
        for axis in range(3):  # along each axis
            box, shape, wanted = list(beside), [9, 9], list(beside)
            box.insert(axis, slice(first, first + 1))
            wanted.insert(axis, expected)
            shape.insert(axis, 6)
            assert volume_box(tuple(box), shape) == tuple(wanted)
    # Several slices, none, and a picture stay as they are.
    assert volume_box((slice(3, 5), slice(0, 1), slice(1, 4)), (9, 1, 9)) == (slice(3, 5), slice(0, 1), slice(1, 4))
    for box, slices in ((slice(2, 5), 6), (slice(0, 2), 2), (slice(0, 0), 6), (slice(0, 1), 1)):
        assert volume_box((box, *beside), (slices, 9, 9)) == (box, *beside)
