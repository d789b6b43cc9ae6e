"""File names of images: their formats, and the ending of results."""

import re
from pathlib import Path

from autoseg.data.formats.format import FORMATS, format_of
from autoseg.utils.files import refuse_locked

#: What no part of a file's name may hold: separators of folders, and characters that are no text.
_NOT_PLAIN = re.compile(r"[/\\\x00-\x1f\x7f]")

#: Bytes of a case's name, at most: file systems allow 255 in a name, and results add to it.
_LONGEST = 200


def why_not_plain(name: str) -> str | None:
    """Why files can't be named after a case of this name; None where they can.

    ``../x`` or ``sub-01/ses-01`` would put results into other folders, and hidden files are not found again.
    """
    if not name or name != name.strip():
        return "it is empty or has spaces around it"
    if _NOT_PLAIN.search(name):
        return r"it holds / or \ or a control character"
    if name.startswith("."):
        return "it begins with a dot"
    return f"it is longer than {_LONGEST} bytes" if len(name.encode(errors="replace")) > _LONGEST else None


def plain_name(name: str) -> str:
    """A label's or rater's name as part of a file's name: ``GTV/CTV`` → ``GTV_CTV``."""
    return _NOT_PLAIN.sub("_", name)


def image_endings() -> tuple[str, ...]:
    """Endings of all image formats."""
    return tuple(ending for name in FORMATS for ending in FORMATS.find(name).endings)


def image_ending(path: Path) -> str | None:
    """The image ending of a file name (``.nii.gz``), in its own case, or None."""
    name = path.name.lower()
    ending = max((ending for ending in image_endings() if name.endswith(ending)), key=len, default=None)
    return None if ending is None else path.name[-len(ending) :]


def without_ending(name: str) -> str:
    """A file's name, or path, without the ending of its image format; as it is where it has none."""
    return name.removesuffix(image_ending(Path(name)) or "")


def stem(path: Path) -> str:
    """A file's name without the ending of its image format, or what ends it where that is no image's.

    A number ends nothing: the last one of a DICOM identifier tells one series from the next.
    """
    ending = image_ending(path)
    if ending:
        return path.name[: -len(ending)]
    return path.name if path.suffix[1:].isdigit() else path.stem


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image; macOS' hidden ``._x.nii.gz`` is none."""
    return not path.name.startswith(".") and image_ending(path) is not None


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder, without its subfolders, sorted by name; links to what is not there count, too.

    Raises:
        LockedFolder: the user may not enter it.
    """
    if not folder.is_dir():
        return []
    refuse_locked(folder)
    return sorted(path for path in folder.iterdir() if is_image(path) and not path.is_dir())


def is_picture(ending: str | None) -> bool:
    """Whether files of this ending are flat pictures, of which one may hold red, green and blue."""
    found = format_of(ending)
    return found is not None and found.flat


def colours_of(components: int) -> int:
    """How many channels of a picture are colours: the last one of four is alpha."""
    return 3 if components == 4 else components


def holds_fractions(ending: str | None) -> bool:
    """Whether files of this ending hold numbers that are not whole, as probabilities are."""
    found = format_of(ending)
    return found is None or found.fractions


def result_ending(*wanted: str | None) -> str:
    """The first of these file endings that can hold a label map in one file; ``.nii.gz`` where none can.

    For example of a scan's format and that of the training labels: a result has the scan's where possible.
    """
    for ending in wanted:
        if not ending:
            continue
        found = format_of(ending)
        if found is None or found.holds_labels:
            return ending.lower()
    return ".nii.gz"
