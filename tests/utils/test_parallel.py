import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.parallel import each


def double(number):
    if number < 0:
        raise AutosegError(f"{number} is negative")
    return 2 * number, os.getpid()


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_in_order_from_other_processes():
    results = list(each(double, range(6), 2, "Doubling"))
    assert [value for value, _ in results] == [0, 2, 4, 6, 8, 10]
    assert os.getpid() not in {process for _, process in results}


def test_one_worker_is_this_process():
    assert {process for _, process in each(double, range(3), 1, "Doubling")} == {os.getpid()}
    assert list(each(double, [], None, "Doubling")) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_through(workers):
    with pytest.raises(AutosegError, match="-2 is negative"):
        list(each(double, [1, -2, 3], workers, "Doubling"))


def test_a_killed_worker_is_explained():
    with pytest.raises(AutosegError, match="memory ran out"):
        list(each(die, range(2), 2, "Dying"))


STOPPED = """
import signal, time
from pathlib import Path
from autoseg.utils.parallel import each

def work(number):
    (Path(__file__).parent / f"begun_{number}").touch()
    time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        list(each(work, range(8), 2, "Working"))
    except KeyboardInterrupt:
        print("stopped")
"""


def test_ctrl_c_begins_no_further_item(tmp_path):
    """It reaches the workers as well, to which more items were sent already; what they are at ends there and then."""
    script = tmp_path / "script.py"
    script.write_text(STOPPED)
    process = subprocess.Popen(
        [sys.executable, script], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while len(list(tmp_path.glob("begun_*"))) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert said == "stopped\n"
    assert "Traceback" not in errors
    assert len(list(tmp_path.glob("begun_*"))) == 2


def test_no_workers():
    with pytest.raises(UsageError, match="--workers 0"):
        list(each(double, [1], 0, "Doubling"))


def test_a_script_without_guard_is_explained(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from autoseg.utils.parallel import each\nlist(each(abs, [1, 2], 2, 'Counting'))\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Counting: the worker processes did not start; in a script, put" in done.stderr
    assert "memory ran out" not in done.stderr
