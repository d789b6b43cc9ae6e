import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors are computed fastest, and in the same order everywhere, by one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
