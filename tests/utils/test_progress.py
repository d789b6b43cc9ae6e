"""What is said while something runs, and where nothing is."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from autoseg.utils.progress import say, silenced


def test_threads_that_are_started_before_are_silenced_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Where results are printed as JSON, what threads of a pool find to say is kept back with the rest."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(say, "before").result()
        with silenced():
            pool.submit(say, "within").result()
        pool.submit(say, "after").result()
    assert capsys.readouterr().err.split() == ["before", "after"]
