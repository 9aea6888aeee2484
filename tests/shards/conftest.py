import fsspec
import pytest

from recap_fast.shards.patience import Watch


@pytest.fixture
def memory():
    """fsspec's memory:// file system, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def blocking():
    """The file system blocking://, empty, see blocking_files.py; what hangs in it ends with the test."""
    from support.blocking_files import BlockingFiles

    BlockingFiles.shared = {}
    system = fsspec.filesystem("blocking")
    yield system
    system.release()


@pytest.fixture
def hangs(blocking, monkeypatch):
    """blocking://, where what hangs is given up when it does, and nothing else ever."""
    monkeypatch.setattr(Watch, "give_up_if_stalled", lambda self: blocking.take_hang())
    return blocking
