import errno
import gzip
import itertools
import os
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.formats import nifti as module
from autoseg.data.formats.simpleitk import read_header_with_sitk, read_with_sitk
from autoseg.data.image import UnusableImage, read_geometry, read_image
from autoseg.data.nifti import IncompleteFile, StoredVoxels, stored_voxels
from autoseg.utils.errors import AutosegError

TYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32, np.float64]

#: All 48 ways in which three axes can be ordered and flipped, as direction cosines, and an oblique one.
DIRECTIONS = [
    tuple((np.eye(3)[list(order)] * flips).T.reshape(-1))
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1.0, -1.0), repeat=3)
]
OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)


def nifti(order, version, code, offset, values, scale=(0.0, 0.0)):
    """The bytes of a NIfTI file, by the standard's table of its header."""
    raw = bytearray(offset)
    sizes = (values.ndim, *reversed(values.shape), *(1,) * (7 - values.ndim))
    bits = 8 * values.itemsize
    if version == 1:
        struct.pack_into(f"{order}i", raw, 0, 348)
        struct.pack_into(f"{order}8h", raw, 40, *sizes)
        struct.pack_into(f"{order}hh", raw, 70, code, bits)
        struct.pack_into(f"{order}8f", raw, 76, *(1.0,) * 8)
        struct.pack_into(f"{order}3f", raw, 108, offset, *scale)
        raw[344:348] = b"n+1\0"
    else:
        struct.pack_into(f"{order}i", raw, 0, 540)
        raw[4:12] = b"n+2\0\r\n\032\n"
        struct.pack_into(f"{order}hh", raw, 12, code, bits)
        struct.pack_into(f"{order}8q", raw, 16, *sizes)
        struct.pack_into(f"{order}8d", raw, 104, *(1.0,) * 8)
        struct.pack_into(f"{order}q2d", raw, 168, offset, *scale)
    return bytes(raw) + values.tobytes()


def write_both(folder, content):
    (folder / "x.nii").write_bytes(content)
    (folder / "y.nii.gz").write_bytes(gzip.compress(content))
    return folder / "x.nii", folder / "y.nii.gz"


def assert_as_simpleitk_reads_it(path):
    assert read_geometry(path) == read_header_with_sitk(path)
    ours, theirs = read_image(path), read_with_sitk(path)
    assert ours.array.dtype == theirs.array.dtype
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert (ours.spacing, ours.geometry) == (theirs.spacing, theirs.geometry)
    assert ours.array.flags.c_contiguous
    assert ours.array.flags.writeable


def volume(kind, shape=(3, 4, 5)):
    values = np.random.default_rng(0).normal(60, 30, shape).clip(0, 120)
    return sitk.GetImageFromArray(values.astype(kind))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_types_as_simpleitk_reads_them(tmp_path, kind, ending):
    sitk.WriteImage(volume(kind), str(tmp_path / f"x{ending}"))
    assert stored_voxels(tmp_path / f"x{ending}").array.dtype == kind
    assert_as_simpleitk_reads_it(tmp_path / f"x{ending}")


@pytest.mark.parametrize("direction", [*DIRECTIONS, OBLIQUE])
def test_directions_as_simpleitk_reads_them(tmp_path, direction):
    image = volume(np.int16)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((5.0, -7.0, 11.0))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(tmp_path / "x.nii"))
    assert_as_simpleitk_reads_it(tmp_path / "x.nii")


def test_dimensions_as_simpleitk_reads_them(tmp_path):
    turned = volume(np.float32)
    turned.SetDirection(DIRECTIONS[17])
    images = {
        "flat": volume(np.uint8, (4, 5)),
        "slice": volume(np.int16, (1, 4, 5)),
        "series": sitk.JoinSeries([turned, turned + 1, turned * 2]),
        "colours": sitk.Compose([volume(np.uint8)] * 3),
        "vectors": sitk.Compose([volume(np.float32)] * 2),
    }
    for name, image in images.items():
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
        assert_as_simpleitk_reads_it(tmp_path / f"{name}.nii.gz")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_temporary_folder_that_takes_no_file(tmp_path, monkeypatch, number):
    """A full one, or one on a read-only disk: the images are read all the same, and what is wrong with one is told."""
    image = volume(np.int16)
    image.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "x.nii.gz"))
    content = bytearray(nifti("<", 1, 4, 352, np.zeros((3, 4, 5), np.int16)))
    struct.pack_into("<h", content, 254, 1)  # an sform alone
    struct.pack_into("<12f", content, 280, 1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    (tmp_path / "sheared.nii").write_bytes(bytes(content))

    def refuse(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "NamedTemporaryFile", refuse)
    module._geometry.cache_clear()
    assert_as_simpleitk_reads_it(tmp_path / "x.nii.gz")
    with pytest.raises(UnusableImage, match="not at right angles"):
        read_geometry(tmp_path / "sheared.nii")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("code", "kind"), [(2, "u1"), (4, "i2"), (8, "i4"), (16, "f4"), (64, "f8")])
@pytest.mark.parametrize("scale", [(0.0, 3.0), (1.0, 0.0), (1.0, -1024.0), (0.37, 5.1)])
def test_scaled_values_as_simpleitk_reads_them(tmp_path, order, code, kind, scale):
    values = np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(f"{order}{kind}")
    for path in write_both(tmp_path, nifti(order, 1, code, 352, values, scale)):
        assert_as_simpleitk_reads_it(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("version", "offset"), [(1, 352), (1, 400), (2, 544)])
@pytest.mark.parametrize(("code", "kind"), [(16, "f4"), (64, "f8")])
def test_counts_non_finite_voxels(tmp_path, order, version, offset, code, kind):
    values = np.array([1, np.nan, 2, np.inf, -np.inf, 0], f"{order}{kind}").reshape(1, 2, 3)
    for path in write_both(tmp_path, nifti(order, version, code, offset, values)):
        found = stored_voxels(path)
        assert found.non_finite == 3
        if version == 1:  # SimpleITK's own copy of the NIfTI library does not open all of NIfTI-2
            assert read_image(path).non_finite == 3
        np.testing.assert_array_equal(found.array.ravel(), [1, 0, 2, 0, 0, 0])


def test_finds_what_is_cut_off(tmp_path):
    values = np.random.default_rng(0).integers(0, 999, (5, 10, 100)).astype("<i2")
    content = nifti("<", 1, 4, 352, values)
    write_both(tmp_path, content[:-2])
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(content)[:-9])
    (tmp_path / "damaged.nii.gz").write_bytes(gzip.compress(content)[:600] + b"\0" * 900)
    for name in ("x.nii", "y.nii.gz", "cut.nii.gz", "damaged.nii.gz"):
        with pytest.raises(IncompleteFile):
            stored_voxels(tmp_path / name)
        with pytest.raises(AutosegError, match=r"missing at its end.*; replace the file"):
            read_image(tmp_path / name)


def test_a_file_of_several_gzip_members(tmp_path):
    values = np.random.default_rng(0).integers(0, 999, (5, 10, 100)).astype("<i2")
    content = nifti("<", 1, 4, 352, values)
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(content[:3000]) + gzip.compress(content[3000:]))
    np.testing.assert_array_equal(stored_voxels(tmp_path / "x.nii.gz").array, values)


def test_a_header_that_promises_too_much(tmp_path):
    content = bytearray(nifti("<", 2, 4, 544, np.zeros((1, 2, 3), "<i2")))
    struct.pack_into("<8q", content, 16, 3, 2**40, 2**20, 3, 1, 1, 1, 1)
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(IncompleteFile):
        stored_voxels(tmp_path / "x.nii.gz")


@pytest.mark.parametrize(
    "content",
    [np.random.default_rng(0).bytes(4000), b"id,flair\n" * 200, gzip.compress(b"x" * 9000), b"\xff" * 4000, b""],
    ids=["random", "text", "gzip", "ones", "empty"],
)
def test_what_is_no_nifti(tmp_path, content):
    (tmp_path / "x.nii").write_bytes(content)
    assert stored_voxels(tmp_path / "x.nii") == StoredVoxels(None)
    with pytest.raises(AutosegError, match="can't be read as an image"):
        read_image(tmp_path / "x.nii")
