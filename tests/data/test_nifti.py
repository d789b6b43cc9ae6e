import gzip
import struct

import numpy as np
import pytest

from autoseg.data.nifti import Faults, faults


def nifti(order, version, code, offset, values):
    """The bytes of a NIfTI file, by the standard's table of its header."""
    raw = bytearray(offset)
    if version == 1:
        struct.pack_into(f"{order}i", raw, 0, 348)
        struct.pack_into(f"{order}8h", raw, 40, 3, values.size, 1, 1, 0, 0, 0, 0)
        struct.pack_into(f"{order}hh", raw, 70, code, 8 * values.itemsize)
        struct.pack_into(f"{order}f", raw, 108, offset)
    else:
        struct.pack_into(f"{order}i", raw, 0, 540)
        struct.pack_into(f"{order}hh", raw, 12, code, 8 * values.itemsize)
        struct.pack_into(f"{order}8q", raw, 16, 3, values.size, 1, 1, 0, 0, 0, 0)
        struct.pack_into(f"{order}q", raw, 168, offset)
    return bytes(raw) + values.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("version", "offset"), [(1, 352), (1, 400), (2, 544)])
@pytest.mark.parametrize(("code", "kind"), [(16, "f4"), (64, "f8")])
def test_counts_non_finite_voxels(tmp_path, order, version, offset, code, kind):
    values = np.array([1, np.nan, 2, np.inf, -np.inf, 0], f"{order}{kind}")
    content = nifti(order, version, code, offset, values)
    (tmp_path / "x.nii").write_bytes(content)
    (tmp_path / "y.nii.gz").write_bytes(gzip.compress(content))
    assert faults(tmp_path / "x.nii") == faults(tmp_path / "y.nii.gz") == Faults(3, incomplete=False)


def test_finds_what_is_cut_off(tmp_path):
    content = nifti("<", 1, 4, 352, np.random.default_rng(0).integers(0, 999, 5000).astype("<i2"))
    (tmp_path / "whole.nii").write_bytes(content)
    (tmp_path / "cut.nii").write_bytes(content[:-2])
    (tmp_path / "packed.nii.gz").write_bytes(gzip.compress(content[:-2]))
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(content)[:-9])
    assert faults(tmp_path / "whole.nii") == Faults()
    assert all(faults(tmp_path / name).incomplete for name in ("cut.nii", "packed.nii.gz", "cut.nii.gz"))


def test_other_files_are_the_readers_business(tmp_path, write_volume):
    assert faults(write_volume(tmp_path / "x.nrrd", np.full((2, 2, 2), np.nan))) == Faults()
    (tmp_path / "z.nii.gz").write_bytes(b"no image")
    assert faults(tmp_path / "z.nii.gz") == Faults()
    assert faults(tmp_path / "gone.nii") == Faults()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_files_of_simpleitk_have_none(tmp_path, write_volume, kind):
    assert faults(write_volume(tmp_path / "x.nii.gz", np.ones((4, 5, 6), kind))) == Faults()
    assert faults(write_volume(tmp_path / "y.nii", np.ones((2, 4, 5, 6), kind))) == Faults()


@pytest.mark.parametrize(
    "content",
    [np.random.default_rng(0).bytes(4000), b"id,flair\n" * 200, gzip.compress(b"x" * 9000), b"\xff" * 4000, b""],
    ids=["random", "text", "gzip", "ones", "empty"],
)
def test_what_is_no_nifti(tmp_path, content):
    (tmp_path / "x.nii").write_bytes(content)
    assert faults(tmp_path / "x.nii") == Faults()
