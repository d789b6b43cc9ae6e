"""Atomic writes: the old file or the new one, and nothing left behind."""

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoseg.utils.errors import AutosegError, LockedFolder, UsageError
from autoseg.utils.files import (
    atomic,
    folders_below,
    found_in,
    found_room,
    read_json,
    read_json_table,
    refuse_unwritable_file,
    refuse_unwritable_folder,
    write_json,
    write_text,
)


def test_json_comes_back(tmp_path: Path) -> None:
    data = {"name": "Gehirn ä", "values": [1, 2.5, None, True]}
    write_json(tmp_path / "new" / "folder" / "a.json", data)
    assert read_json(tmp_path / "new" / "folder" / "a.json") == data
    assert read_json(str(tmp_path / "new" / "folder" / "a.json")) == data


def test_a_table_or_nothing(tmp_path: Path) -> None:
    """Where there is no file, or one of something else; what is no JSON is told."""
    assert read_json_table(tmp_path / "gone.json") == {}
    for text, table in (('{"a": 1}', {"a": 1}), ("[1, 2]", {}), ("null", {})):
        (tmp_path / "a.json").write_text(text)
        assert read_json_table(tmp_path / "a.json") == table
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(AutosegError, match="not valid JSON"):
        read_json_table(tmp_path / "a.json")


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "3 × 4 ≥ 10")
    assert (tmp_path / "a.txt").read_bytes() == "3 × 4 ≥ 10".encode()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    with atomic(path, suffix=".nii.gz") as temporary:
        assert temporary.parent == path.parent  # renaming within one file system is atomic
        assert temporary.name.endswith(".nii.gz")
        assert temporary.name.startswith(".")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.nii.gz"]


def test_a_writer_may_make_its_own_file(tmp_path: Path) -> None:
    """Some libraries insist on the file not being there."""
    with atomic(tmp_path / "a") as temporary:
        temporary.unlink()
        temporary.write_text("new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_full_disk_is_said_whatever_the_library_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ITK says nothing and leaves the file cut off; safetensors and torch have errors of their own."""
    path = tmp_path / "a"
    path.write_text("old")

    def cut_off(temporary: Path) -> None:
        temporary.write_text("ne")

    def own_error(temporary: Path) -> None:
        raise RuntimeError("unexpected pos 576 vs 534")

    with pytest.raises(RuntimeError, match="unexpected pos"), atomic(path) as temporary:
        own_error(temporary)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"), atomic(path) as temporary:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
    for write in (cut_off, own_error):
        with pytest.raises(OSError, match="No space left on device") as caught, atomic(path) as temporary:
            write(temporary)
        assert caught.value.filename == str(path)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a"]


def test_what_can_be_written_later() -> None:
    def fails_with(number: int) -> Callable[[], None]:
        def write() -> None:
            raise OSError(number, os.strerror(number))

        return write

    assert found_room(lambda: None)
    assert not found_room(fails_with(errno.ENOSPC))
    assert not found_room(fails_with(errno.EDQUOT))
    with pytest.raises(PermissionError):
        found_room(fails_with(errno.EACCES))


def test_what_is_flushed_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to flush a file that is open for reading alone; POSIX says how it is open."""
    fcntl = pytest.importorskip("fcntl")
    modes = []
    monkeypatch.setattr(os, "fsync", lambda handle: modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE))
    write_text(tmp_path / "a.txt", "new")
    assert modes == [os.O_RDWR]
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_the_users(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a", "x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_unreadable_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(AutosegError, match=r"a\.json does not exist"):
        read_json(path)
    for content in (b"", b"{", b"\xff\xfe\x00{"):
        path.write_bytes(content)
        with pytest.raises(AutosegError, match=r"a\.json is not valid JSON") as caught:
            read_json(path)
        assert "\n" not in str(caught.value)


def test_a_quota_is_told_like_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room; what tells is a write, here its flush, as on a network drive."""

    def refuses(handle: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    path = tmp_path / "a"
    path.write_text("old")
    said = os.strerror(errno.EDQUOT)
    with pytest.raises(OSError, match=f"{said}: '{path}'"), atomic(path) as temporary:
        raise RuntimeError(f"Error while serializing: I/O error: {said} (os error 122)")
    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(OSError, match=said), atomic(path) as temporary:
        temporary.write_text("cut o")
    with pytest.raises(OSError, match=said) as caught, atomic(path) as temporary:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_nothing_is_added_to_what_is_written(tmp_path: Path) -> None:
    for content in (b"", b"x", bytes(200_000)):
        with atomic(tmp_path / "a") as temporary:
            temporary.write_bytes(content)
        assert (tmp_path / "a").read_bytes() == content


def test_linked_folders_are_walked_once(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for name in ("b/x", "b/.hidden", ".cache/y"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "z").touch()
    (root / "a").symlink_to(root / "b")
    (root / "c").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "b" / "gone").symlink_to(tmp_path / "nowhere")

    def walked(depth: int | None = None) -> list[str]:
        return sorted(path.relative_to(root).as_posix() for _, files in folders_below(root, depth) for path in files)

    assert walked() == ["b/gone", "b/x", "c/deep/z"]
    assert walked(1) == ["b/gone", "b/x"]


def test_folders_that_may_not_be_entered_are_named(tmp_path: Path, lock: Callable[[Path], None]) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "x").touch()
    assert found_in(tmp_path, "*/b/c/*") == [tmp_path / "a" / "b" / "c" / "x"]
    lock(tmp_path / "a" / "b")
    said = f"{tmp_path / 'a' / 'b'}: you may not enter this folder"
    for look in (
        lambda: list(folders_below(tmp_path)),
        lambda: found_in(tmp_path, "*/b/c/*"),
        lambda: found_in(tmp_path / "a" / "b", "*"),
    ):
        with pytest.raises(LockedFolder, match=re.escape(said)):
            look()
    assert [folder for folder, _ in folders_below(tmp_path, 1)] == [tmp_path, tmp_path / "a"]
    assert found_in(tmp_path, "a/*") == [tmp_path / "a" / "b"]


def test_a_place_that_allows_no_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, file = tmp_path / "closed", tmp_path / "file"
    closed.mkdir()
    file.write_text("x")
    for out in (tmp_path, tmp_path / "new" / "er"):
        refuse_unwritable_folder(out)
    for out in (file, tmp_path / "new" / "er.csv"):
        refuse_unwritable_file(out)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)
    for out in (closed, closed / "new" / "er"):
        with pytest.raises(UsageError, match=f"--out {out} can't be written, as {closed} allows no new files"):
            refuse_unwritable_folder(out)
    with pytest.raises(UsageError, match=f"--out {closed / 'a.csv'} can't be written, as {closed} allows"):
        refuse_unwritable_file(closed / "a.csv")
    with pytest.raises(UsageError, match=r"file is a file; give a folder"):
        refuse_unwritable_folder(file)
    with pytest.raises(UsageError, match=rf"{file / 'new'} can't be written, as {file} allows"):
        refuse_unwritable_folder(file / "new")
    with pytest.raises(UsageError, match=r"closed is a folder; give a file"):
        refuse_unwritable_file(closed)


def test_no_permission_is_said_of_the_file_and_not_of_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, dir: Path, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir / ".a.json.x2_y.tmp"))

    monkeypatch.setattr("autoseg.utils.files.tempfile.mkstemp", refuse)
    with pytest.raises(PermissionError) as told:
        write_json(tmp_path / "a.json", {})
    assert told.value.filename == str(tmp_path / "a.json")
