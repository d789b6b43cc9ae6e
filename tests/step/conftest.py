import pytest


@pytest.fixture(autouse=True)
def _one_core(one_core: None) -> None:
    """Every test of this folder."""
