"""One process works in a folder; a lock ends with its process."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from autoseg.utils.errors import AutosegError
from autoseg.utils.lock import held, waited_for

HOLD = """
import sys, time
from pathlib import Path
from autoseg.utils.lock import held
with held(Path(sys.argv[1]), "fold 0"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_named_and_a_killed_one_blocks_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "fold_0"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            named = rf"fold 0 is being trained by process {other.pid} on .+ since 20"
            with pytest.raises(AutosegError, match=named), held(folder, "fold 0"):
                pass
        finally:
            other.send_signal(signal.SIGKILL)
    with held(folder, "fold 0"):
        pass


def test_a_folder_is_free_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), held(tmp_path, "fold 0"):
            _ = 1 / 0
    with held(tmp_path, "fold 0"), pytest.raises(AutosegError, match="by process"), held(tmp_path, "fold 0"):
        pass


def test_a_drive_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with held(tmp_path, "fold 0"):
        pass


@pytest.mark.parametrize("what", ["Another process preprocesses", None])
def test_a_long_wait_is_said_and_a_moment_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str | None
) -> None:
    (folder := tmp_path / "results").mkdir()
    acquire, tried = FileLock.acquire, []

    def busy(self: FileLock, timeout: float | None = None) -> object:
        tried.append(timeout)
        if timeout == 0:
            raise Timeout(str(self.lock_file))
        return acquire(self)

    monkeypatch.setattr("filelock.FileLock.acquire", busy)
    with waited_for(folder, what):
        pass
    assert tried == [0, None]
    assert list(folder.iterdir()) == []
    assert ("waiting until it is done" in capsys.readouterr().err) == (what is not None)
