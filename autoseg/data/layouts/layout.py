"""Layout: a convention for datasets on disk, and the registry of those that autoseg reads.

One more layout is one module of :mod:`autoseg.data.layouts` (or an extension, see :mod:`autoseg.utils.registry`)::

    def recognise(path: Path) -> bool:
        return (path / "cohort.json").is_file()

    def read(path: Path) -> Description:
        ...

    LAYOUTS.register("cohort", Layout(recognise, read))
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoseg.data.description import Description
from autoseg.utils.registry import Registry


@dataclass(frozen=True)
class Layout:
    """Functions that recognise and read a layout.

    Attributes:
        recognise: whether a folder or file has this layout.
        read: reads it; raises AutosegError where the files contradict the layout.
        rank: layouts are tried from the lowest rank on: autoseg's own description files, then other tools'
            description files, then names of files.
    """

    recognise: Callable[[Path], bool]
    read: Callable[[Path], Description]
    rank: int = 100


LAYOUTS: Registry[Layout] = Registry("layout", option="--layout", package="autoseg.data.layouts")


def by_rank() -> list[str]:
    """Names of all layouts in the order in which a folder is tried."""
    return sorted(LAYOUTS.names(), key=lambda name: LAYOUTS.find(name).rank)


def recognise_layout(path: Path) -> str | None:
    """The first layout that a folder or file has, or None."""
    return next((name for name in by_rank() if LAYOUTS.find(name).recognise(path)), None)
