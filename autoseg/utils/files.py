"""Atomic writes (a reader gets the old file or the new one, never a partial one), reading JSON, and walking folders."""

import csv
import errno
import io
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeGuard

from autoseg.utils.errors import AutosegError, LockedFolder, UsageError

if TYPE_CHECKING:
    from pydantic import ValidationError


#: Bytes that a disk, or a user's quota, has left at least after a file was written; with less, the file may have ended
#: early.
_LEAST_FREE = 65_536

#: Errors of a write for which there is no room.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def lacks_room(error: BaseException) -> TypeGuard[OSError]:
    """Whether an error says that the disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


@contextmanager
def atomic(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success it is flushed to disk and renamed over ``path``.

    Args:
        path: of the finished file; missing parent folders are made.
        suffix: ending of the temporary name, for writers that choose the format by it (``.nii.gz``).

    Raises:
        OSError: the disk, or the user's quota, is full. Libraries tell that each in its own way (safetensors, torch),
            or not at all: ITK leaves a file that ends early and goes on.
    """
    # mkstemp makes files private (0600); a run folder is shared like any other file of its user.
    umask = os.umask(0)
    os.umask(umask)
    with _private(Path(path), suffix or ".tmp") as temporary:
        temporary.chmod(0o666 & ~umask)
        yield temporary


def found_room(write: Callable[[], object]) -> bool:
    """Write what can as well be written later; False where the disk, or the user's quota, is full.

    Args:
        write: raises the errors of :func:`atomic`.
    """
    try:
        write()
    except OSError as error:
        if not lacks_room(error):
            raise
        return False
    return True


def refuse_unwritable_folder(out: str | Path) -> None:
    """Refuse a folder of the user's choice in which no files can be made, before anything takes long.

    Args:
        out: the folder, which need not be there.

    Raises:
        UsageError: names ``--out``, and the folder that allows no files.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder.")
    _refuse_closed(out, out, "choose another folder")


def refuse_unwritable_file(out: str | Path) -> None:
    """Refuse a file of the user's choice that can't be made, before anything takes long.

    Args:
        out: the file; neither it nor its folder need be there.

    Raises:
        UsageError: names ``--out``, and the folder that allows no files.
    """
    out = Path(out)
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; give a file.")
    _refuse_closed(out, out.parent, "choose another place")


def _refuse_closed(out: Path, folder: Path, way_out: str) -> None:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out} can't be written, as {there} allows no new files; {way_out}.")


def folders_below(root: Path, depth: int | None = None) -> Iterator[tuple[Path, list[Path]]]:
    """A folder and all below it, each with its files, sorted by name; hidden folders and files are left out.

    Links to folders are entered, but no folder twice; where it lies itself goes before links to it. A link to what is
    not there counts as a file, so that whoever reads it names it.

    Args:
        root: where to begin.
        depth: levels below it to enter; None for all.

    Raises:
        LockedFolder: one that the user may not enter.
    """
    seen: set[str] = set()
    starts = deque([str(root)])
    while starts:
        for folder, folders, names in os.walk(starts.popleft(), onerror=_refuse_denied):
            place = os.path.realpath(folder)
            if place in seen:
                folders.clear()
                continue
            seen.add(place)
            path = Path(folder)
            refuse_locked(path)
            deep = depth is not None and len(path.relative_to(root).parts) >= depth
            folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
            starts.extend(inner for name in folders if os.path.islink(inner := os.path.join(folder, name)))
            yield path, [path / name for name in sorted(names) if not name.startswith(".")]


def refuse_locked(folder: Path) -> None:
    """Refuse a folder that the user may not list or enter.

    Raises:
        LockedFolder: names it.
    """
    if not os.access(folder, os.R_OK | os.X_OK):
        raise _locked(folder)


def _refuse_denied(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise _locked(error.filename)


def _locked(folder: str | Path) -> LockedFolder:
    return LockedFolder(f"{folder}: you may not enter this folder; ask for the right to, or move it elsewhere.")


def found_in(folder: Path, pattern: str) -> list[Path]:
    """What a pattern finds in a folder, as :meth:`pathlib.Path.glob`, which leaves out folders that it can't enter.

    Raises:
        LockedFolder: the folder, or one that the pattern leads through, is one.
        ValueError, NotImplementedError, IndexError: it is no pattern.
    """
    refuse_locked(folder)
    parts = PurePath(pattern).parts
    for depth in range(1, len(parts)):
        for path in folder.glob("/".join(parts[:depth])):
            if path.is_dir() and not path.name.startswith("."):
                refuse_locked(path)
    return list(folder.glob(pattern))


@contextmanager
def _private(path: Path, suffix: str) -> Iterator[Path]:
    """:func:`atomic`, of a file that its owner alone can open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent)
    except OSError as error:  # of a file that nobody asked for
        raise OSError(error.errno, error.strerror, str(path)) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _refuse_cut_off(temporary)
        os.replace(temporary, path)
    except Exception as error:
        if lacks_room(error):
            raise OSError(error.errno, error.strerror, str(path)) from error
        why = None if getattr(error, "errno", None) is not None else _why_no_room(temporary, str(error))
        if why is None:
            raise
        raise OSError(why, os.strerror(why), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_cut_off(temporary: Path) -> None:
    """Flush a file to disk, if there is room for more: else it may have ended early.

    Raises:
        OSError: the disk or the user's quota is full.
    """
    with open(temporary, "r+b") as written:  # Windows flushes no file that is open for reading alone
        end = written.seek(0, os.SEEK_END)
        written.write(bytes(_LEAST_FREE))  # a quota is told by nothing but a write
        written.flush()
        written.truncate(end)
        os.fsync(written.fileno())
    if shutil.disk_usage(temporary.parent).free < _LEAST_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _why_no_room(temporary: Path, said: str) -> int | None:
    """The number of the error behind one that a library told in its own words, where that is a lack of room."""
    told = next((number for number in _NO_ROOM if os.strerror(number) in said), None)
    if told is not None:
        return told
    try:
        _refuse_cut_off(temporary)
    except OSError as error:
        return error.errno if lacks_room(error) else None
    return None


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_private_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8; its owner alone can open the file, from the first moment."""
    with _private(Path(path), ".tmp") as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, data: Any) -> None:
    """Write ``data`` to ``path`` atomically, as indented JSON."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_changed_json(path: str | Path, data: Any) -> None:
    """:func:`write_json`, but a file that says this already stays untouched."""
    path, text = Path(path), json.dumps(data, indent=2) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def write_csv(path: str | Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows (the first is the header) to ``path`` atomically, as comma-separated UTF-8."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    write_text(path, buffer.getvalue())


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        AutosegError: the file is missing or is no JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise AutosegError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AutosegError(f"{path} is not valid JSON ({error}); restore it or make it again.") from None


def read_json_table(path: str | Path) -> dict[str, Any]:
    """The table in a JSON file; empty where there is no file, or one that holds no table.

    Raises:
        AutosegError: the file is no JSON.
    """
    path = Path(path)
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def first_fault(error: "ValidationError") -> str:
    """Path of the first invalid value in a file, and its error."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
