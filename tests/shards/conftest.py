import fsspec
import pytest


@pytest.fixture
def memory():
    """fsspec's memory:// file system, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]
