"""Layout: a convention for datasets on disk, and the registry of those that autoseg reads.

One more layout is one module of :mod:`autoseg.data.layouts` (or an extension, see :mod:`autoseg.utils.registry`)::

    def recognise(path: Path) -> bool:
        return (path / "cohort.json").is_file()

    def read(path: Path) -> Description:
        ...

    LAYOUTS.register("cohort", Layout(recognise, read))
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autoseg.data.description import Description
from autoseg.utils.errors import UsageError
from autoseg.utils.registry import Registry


@dataclass(frozen=True)
class Layout:
    """Functions that recognise and read a layout.

    Attributes:
        recognise: whether a folder or file has this layout.
        read: reads it; raises AutosegError where the files contradict the layout.
        rank: layouts are tried from the lowest rank on: autoseg's own description files, then other tools'
            description files, then names of files.
        choices: what a user may choose where the files leave it open, as ``label``: names of further parameters of
            ``read``, which have defaults, and of options of the command line.
        signature: what tells two datasets of this layout apart that lie side by side, as their channels and labels;
            folders with the same are sites of one dataset.
    """

    recognise: Callable[[Path], bool]
    read: Callable[..., Description]
    rank: int = 100
    choices: tuple[str, ...] = ()
    signature: Callable[[Path], str] = lambda _: ""

    def read_with(self, path: Path, choices: Mapping[str, str]) -> Description:
        """Read a dataset, with what the user chose where files leave it open.

        Raises:
            UsageError: this layout leaves nothing of that name open.
        """
        unknown = [name for name in choices if name not in self.choices]
        if unknown:
            can = [name for name in by_rank() if unknown[0] in LAYOUTS.find(name).choices]
            raise UsageError(
                f"--{unknown[0]}: the layout of {path} leaves no choice of it; "
                f"layouts that do: {', '.join(can) or 'none'}."
            )
        return self.read(path, **choices)


#: Name of the layout of datasets that nothing describes.
PROPOSED = "proposed"

#: Layouts up to this rank are told by a description file, which speaks for its own folder.
DESCRIBED = 29

#: Subfolders that are looked into for datasets, at most: a folder of more holds cases.
_MOST_DATASETS = 64

LAYOUTS: Registry[Layout] = Registry("layout", option="--layout", package="autoseg.data.layouts")


def by_rank() -> list[str]:
    """Names of all layouts in the order in which a folder is tried."""
    return sorted(LAYOUTS.names(), key=lambda name: LAYOUTS.find(name).rank)


def recognise_layout(path: Path) -> str | None:
    """The first layout that a folder or file has; None where there is none, or several datasets lie below it."""
    found = _first_fitting(path)
    described = found is not None and LAYOUTS.find(found).rank <= DESCRIBED
    return found if described or not datasets_below(path) else None


def datasets_below(path: Path) -> list[str]:
    """Datasets in a folder's subfolders, as ``brats21 (brats)``; empty where the subfolders make one dataset.

    Subfolders of one layout, with the same channels and labels, are sites of one dataset.
    """
    if not path.is_dir():
        return []
    below = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(below) > _MOST_DATASETS:
        return []
    found = {folder: name for folder in below if (name := _first_fitting(folder)) is not None}
    # A case's folder may look like more than it is.
    if PROPOSED in found.values() and _first_fitting(path) not in (None, PROPOSED):
        found = {folder: name for folder, name in found.items() if name != PROPOSED}
    kinds = {name: LAYOUTS.find(name) for name in found.values()}
    described = any(kind.rank <= DESCRIBED for kind in kinds.values())
    alike = len(kinds) <= 1 and len({kinds[name].signature(folder) for folder, name in found.items()}) <= 1
    return [] if alike and not described else [f"{folder.name} ({name})" for folder, name in found.items()]


def _first_fitting(path: Path) -> str | None:
    return next((name for name in by_rank() if LAYOUTS.find(name).recognise(path)), None)
