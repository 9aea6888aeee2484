import io
import os
import socket

import pytest

from recap_fast.errors import ShardError
from recap_fast.records import Shard
from recap_fast.shards.local import open_regular
from recap_fast.shards.reader import open_shard


@pytest.fixture
def special(tmp_path, monkeypatch):
    """One of each kind of what is no file; their names end with what they are said to be."""
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    os.mkfifo("pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        (tmp_path / "device").symlink_to("/dev/zero")
        yield tmp_path


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_what_is_no_file_is_refused_at_once(special, kind):
    with pytest.raises(OSError, match=f"^it is a {kind}, not a file$"):
        open_regular(special / kind)
    (special / "link.tar").symlink_to(special / kind)
    with pytest.raises(ShardError, match=f"/link.tar cannot be read: it is a {kind}, not a file"):
        open_shard(Shard("0", f"{special}/link.tar", "tar"))
    with pytest.raises(ShardError, match=f"/link.tar .*it is a {kind}, not a file"):
        open_shard(Shard("0", f"{special}/link.tar", "parquet"))


def test_files_are_opened_and_others_raise_what_the_system_says(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    with io.BufferedReader(open_regular(tmp_path / "a"), 4) as file:
        assert (file.read(3), file.seek(1), file.read()) == (b"con", 1, b"ontent")
        assert os.pread(file.fileno(), 3, 4) == b"ent"
        assert not os.get_inheritable(file.fileno())
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "loop")
