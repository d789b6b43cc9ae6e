"""Label maps that lost their header: saved with a default geometry instead of the image's."""

from pathlib import Path

import numpy as np

from autoseg.data.description import Description, label_files
from autoseg.data.file_names import image_ending
from autoseg.data.geometry import Geometry
from autoseg.data.image import read_geometry
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic


def lost_header(label: Geometry, image: Geometry) -> bool:
    """Whether a label map of an image's size has the geometry that programs give where they were told none.

    That is voxels of 1 mm at the origin, along the axes of SimpleITK (to the left, to the back, up) or of NIfTI (to
    the right, to the front, up).
    """
    if label.size != image.size or label.differs_from(image) is None:
        return False
    direction = np.reshape(label.direction, (label.dimension, label.dimension))
    plain = np.eye(label.dimension)
    along = np.allclose(direction, plain) or np.allclose(direction * np.sign(np.diag(direction)), plain)
    return bool(along and np.allclose(label.spacing, 1) and np.allclose(label.origin, 0))


def restore_headers(dataset: Description, folder: Path) -> list[Path]:
    """Write each label map that lost its header anew, with its image's; the old files stay as they are.

    Args:
        dataset: whose label maps are looked at.
        folder: for the new files, which lie in it as the old ones in the dataset's folder.

    Returns:
        The new files.

    Raises:
        AutosegError: there is a file already where one would be written.
    """
    root = dataset.root if dataset.root.is_dir() else dataset.root.parent
    written = []
    for case in dataset.cases:
        image = next((source.path for source in case.channels.values()), None)
        maps = [*label_files(case.label), *case.raters.values(), *([] if case.mask is None else [case.mask])]
        for path in dict.fromkeys(maps):
            if image is None or not _lost(path, image):
                continue
            target = folder / (path.relative_to(root) if path.is_relative_to(root) else path.name)
            if target.exists():
                raise AutosegError(f"--fix {folder}: {target} exists already; give an empty folder.")
            _copy_with_header(path, image, target)
            written.append(target)
    return written


def _lost(path: Path, image: Path) -> bool:
    try:
        return lost_header(read_geometry(path).geometry, read_geometry(image).geometry)
    except AutosegError:  # reported by the check
        return False


def _copy_with_header(path: Path, image: Path, target: Path) -> None:
    import SimpleITK as sitk

    label = sitk.ReadImage(str(path))
    # The image's own voxels don't matter, and it may hold several volumes.
    geometry = read_geometry(image).geometry
    label.SetSpacing(geometry.spacing)
    label.SetOrigin(geometry.origin)
    label.SetDirection(geometry.direction)
    with atomic(target, suffix=image_ending(target) or target.suffix) as temporary:
        sitk.WriteImage(label, str(temporary), useCompression=True)
