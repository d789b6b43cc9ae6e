"""Folders and pictures that nothing describes, where the files' names and values tell scans and labels apart."""

from pathlib import Path

from autoseg.data.description import Description
from autoseg.data.layouts.layout import LAYOUTS, PROPOSED, Layout
from autoseg.data.layouts.manifest import parse, read_described
from autoseg.data.layouts.propose import Proposal, guess
from autoseg.data.layouts.roles import roles_in_folder
from autoseg.utils.errors import AutosegError, LockedFolder

#: Fewer cases than this tell nothing about what recurs.
_CASES = 2


def recognise(path: Path) -> bool:
    """Whether a folder holds two cases or more, each with a scan and a label."""
    return _guess(path) is not None


def read(path: Path, label: str | None = None) -> Description:
    """Read the dataset as ``autoseg inspect`` proposes to describe it.

    Args:
        path: folder or CSV.
        label: name of the label map, where several kinds lie beside each scan.

    Raises:
        AutosegError: nothing there can be told apart.
        UsageError: no file is called like ``label``.
    """
    found = read_described(path, parse(guess(path, label).text, path))
    return found.model_copy(update={"layout": PROPOSED})


def _signature(path: Path) -> str:
    found = _guess(path)
    roles = [] if found is None else [*found.channels, *found.labels]
    return "\n".join(sorted(role.pattern for role in roles))


def _guess(path: Path) -> Proposal | None:
    if not path.is_dir():
        return None
    try:
        # Looking into files takes longer than at their names.
        roles = roles_in_folder(path)
        if roles.cases < _CASES or len(roles.kept) < 2:
            return None
        found = guess(path)
    except LockedFolder:
        raise
    except AutosegError:
        return None
    fewest = min((max(len(role.files) for role in kind) for kind in (found.channels, found.labels) if kind), default=0)
    return found if found.labels and not found.exam and fewest >= _CASES else None


LAYOUTS.register(PROPOSED, Layout(recognise, read, rank=200, choices=("label",), signature=_signature))
