import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.data.file_names import result_ending
from autoseg.data.formats.simpleitk import to_sitk
from autoseg.data.image import Geometry, read_geometry, read_image, write_image
from autoseg.utils.errors import AutosegError

#: All 48 ways in which three axes can be ordered and flipped, as direction cosines.
ORIENTATIONS = [
    tuple((np.eye(3)[list(order)] * flips).T.reshape(-1))
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1.0, -1.0), repeat=3)
]


def rotation(axis, degrees):
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = np.radians(degrees)
    return np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k


def volume(direction, spacing=(1.0, 2.0, 3.0), origin=(5.0, -7.0, 11.0), shape=(3, 4, 5)):
    image = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


@pytest.mark.parametrize("direction", ORIENTATIONS)
def test_canonical_voxels_lie_where_the_file_puts_them(tmp_path, direction):
    original = volume(direction)
    sitk.WriteImage(original, str(tmp_path / "a.nrrd"))
    image = read_image(tmp_path / "a.nrrd")
    # Independent of any reorientation: walk along a canonical axis and ask ITK where the voxels are in space.
    places = {}
    for index in np.ndindex(*original.GetSize()):
        index = tuple(int(i) for i in index)
        places[int(original[index])] = np.array(original.TransformIndexToPhysicalPoint(index))
    array = image.array[0]
    steps = [places[int(array[1, 0, 0])], places[int(array[0, 1, 0])], places[int(array[0, 0, 1])]]
    start = places[int(array[0, 0, 0])]
    for axis, (step, spacing) in enumerate(zip(steps, image.spacing, strict=True)):
        expected = np.zeros(3)
        expected[2 - axis] = spacing  # array axes z, y, x run along +z, +y, +x of LPS space
        np.testing.assert_allclose(step - start, expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    direction=st.sampled_from(ORIENTATIONS),
    axis=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1),
    degrees=st.floats(0, 40),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
)
def test_an_oblique_image_comes_back_exactly(tmp_path_factory, direction, axis, degrees, shape, spacing):
    turned = rotation(axis, degrees) @ np.asarray(direction).reshape(3, 3)
    original = volume(tuple(turned.reshape(-1)), spacing=spacing, shape=shape)
    path = tmp_path_factory.mktemp("oblique") / "a.mha"
    sitk.WriteImage(original, str(path))
    image = read_image(path)
    back = to_sitk(image.array[0], image.geometry)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(original))
    assert back.GetSize() == original.GetSize()
    np.testing.assert_allclose(back.GetDirection(), original.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(back.GetOrigin(), original.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(back.GetSpacing(), original.GetSpacing(), rtol=1e-6)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_written_files_lie_on_the_original(tmp_path, ending):
    direction = tuple((rotation((1, 2, 3), 17) @ np.diag([-1.0, -1.0, 1.0])).reshape(-1))
    sitk.WriteImage(volume(direction), str(tmp_path / f"a{ending}"))
    image = read_image(tmp_path / f"a{ending}")
    write_image(tmp_path / f"b{ending}", image.array[0], image.geometry)
    back = read_image(tmp_path / f"b{ending}")
    np.testing.assert_array_equal(back.array, image.array)
    assert back.geometry.differs_from(image.geometry) is None


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_flat_images(tmp_path, ending):
    picture = np.arange(20, dtype=np.uint8).reshape(4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / f"a{ending}"))
    image = read_image(tmp_path / f"a{ending}")
    assert image.array.shape == (1, 1, 4, 5)
    assert image.geometry.dimension == 2
    assert image.geometry.orientation == ""
    write_image(tmp_path / f"b{ending}", image.array[0], image.geometry)
    back = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"b{ending}")))
    np.testing.assert_array_equal(back, picture)


def test_channels_of_pictures_and_4d_volumes(tmp_path):
    colours = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "c.png"))
    assert read_geometry(tmp_path / "c.png")[1] == 3
    np.testing.assert_array_equal(read_image(tmp_path / "c.png").array[:, 0], np.moveaxis(colours, -1, 0))
    volumes = [volume(ORIENTATIONS[5]), volume(ORIENTATIONS[5]) + 100]
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / "v.nii.gz"))
    sitk.WriteImage(volumes[0], str(tmp_path / "one.nii.gz"))
    geometry, components, kind = read_geometry(tmp_path / "v.nii.gz")
    image, one = read_image(tmp_path / "v.nii.gz"), read_image(tmp_path / "one.nii.gz")
    assert (components, kind) == (2, "16-bit signed integer")
    assert geometry.differs_from(one.geometry) is None
    np.testing.assert_array_equal(image.array, np.concatenate([one.array, one.array + 100]))


def test_differences_in_words():
    base = Geometry((4, 5, 6), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).reshape(-1)))
    tilted = tuple(rotation((1, 0, 0), 1).reshape(-1))
    assert base.differs_from(Geometry((4, 5, 6), (1.0, 1.0, 2.0), (0.0, 1e-3, 0.0), base.direction)) is None
    for other, words in [
        (Geometry((4, 5, 7), base.spacing, base.origin, base.direction), "size 4×5×6 instead of 4×5×7"),
        (Geometry(base.size, (1.0, 1.1, 2.0), base.origin, base.direction), "spacing"),
        (Geometry(base.size, base.spacing, (0.0, 0.5, 0.0), base.direction), "origin 0.5 mm away"),
        (Geometry(base.size, base.spacing, base.origin, tilted), "orientation"),
    ]:
        assert words in (base.differs_from(other) or "")


def test_geometry_round_trips_through_json():
    geometry = Geometry((4, 5, 6), (1.0, 1.5, 2.0), (0.1, 0.2, 0.3), tuple(rotation((1, 1, 0), 9).reshape(-1)))
    assert Geometry.from_json(geometry.to_json()) == geometry


def test_errors_name_the_file(tmp_path):
    (tmp_path / "text.nii.gz").write_text("no image")
    for name, words in (("gone.nii.gz", "does not exist"), ("text.nii.gz", "can't be read as an image")):
        for function in (read_image, read_geometry):
            with pytest.raises(AutosegError, match=words) as error:
                function(tmp_path / name)
            assert name in str(error.value)
    image = volume(ORIENTATIONS[0])
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(AutosegError, match="can't be written into the geometry"):
        to_sitk(np.zeros((2, 2, 2), np.uint8), read_image(tmp_path / "a.nrrd").geometry)


@pytest.mark.data
def test_a_clinical_oblique_scan_comes_back(real_data, tmp_path):
    path = real_data("clinical/TCGA-FG-6692/raw") / "t2.nii.gz"
    image = read_image(path)
    assert image.geometry.orientation == "LAS"
    write_image(tmp_path / "back.nii.gz", image.array[0], image.geometry)
    original, back = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "back.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(back), sitk.GetArrayViewFromImage(original))
    np.testing.assert_allclose(back.GetDirection(), original.GetDirection(), atol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((".nrrd", ".nii.gz"), ".nrrd"),
        ((".jpg", ".png"), ".png"),  # a lossy picture can't hold labels
        ((".mhd", ".hdr"), ".nii.gz"),  # two files each: no single rename puts both in place
        ((None, ".NII"), ".nii"),
    ],
)
def test_result_ending(wanted: tuple[str | None, ...], expected: str) -> None:
    assert result_ending(*wanted) == expected


@pytest.mark.parametrize("ending", [".mhd", ".nhdr", ".hdr", ".HDR"])
def test_formats_of_two_files_are_not_written(tmp_path, ending):
    geometry = Geometry((4, 3, 2), (1.0,) * 3, (0.0,) * 3, (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    with pytest.raises(AutosegError, match=rf"x\{ending}: \{ending} takes two files"):
        write_image(tmp_path / f"x{ending}", np.zeros((2, 3, 4)), geometry)
    assert not list(tmp_path.iterdir())
