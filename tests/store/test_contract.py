"""What every store promises, for a local folder, a bucket of a real S3 server, and what stands in for Google's.

RECAP_FAST_TEST_STORE names a prefix of another bucket, s3://, gs:// or az://, to try these on, too.
"""

import os
import pickle
import threading
import uuid

import pytest
from support.gcs_fake import GcsFake

from recap_fast.store.opening import open_store
from recap_fast.store.store import has_any

KINDS = ["local", "s3", "gs", *(["other"] if "RECAP_FAST_TEST_STORE" in os.environ else [])]
ODD = "a b/ü %20 #[1]&=+.txt"


@pytest.fixture
def gcs(monkeypatch):
    """A prefix in what stands in for Google's server."""
    with GcsFake() as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.endpoint)
        yield "some/out"


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    if request.param == "local":
        address = str(tmp_path / "out")
    elif request.param == "s3":
        address = f"{request.getfixturevalue('s3_bucket')}/some/out"
    elif request.param == "gs":
        address = f"gs://bucket/{request.getfixturevalue('gcs')}"
    else:
        address = f"{os.environ['RECAP_FAST_TEST_STORE']}/{uuid.uuid4()}"
    opened = open_store(address)
    opened.make_root()
    yield opened
    opened.delete([file.name for file in opened.list()])


def names(store, folder=""):
    return [file.name for file in store.list(folder)]


def test_what_is_put_is_read(store):
    store.put("a.txt", b"one")
    store.put("deep/er/b.txt", b"")
    store.put("a.txt", b"two")
    assert store.read("a.txt", 10)[0] == b"two"
    assert store.read("deep/er/b.txt", 10)[0] == b""
    assert names(store) == ["a.txt", "deep/er/b.txt"]


def test_a_file_that_is_not_there(store):
    store.put("a/b.txt", b"one")
    for name in ("none.txt", "a/none.txt", "a/b.txt/none.txt", "a"):
        assert store.stat(name) is None
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        store.read("none.txt", 10)
    with pytest.raises(FileNotFoundError, match=r"none\.txt"), store.local("none.txt"):
        raise AssertionError("it has no content")
    assert store.replace("none.txt", b"one", "version") is False
    assert names(store, "none") == []
    assert not has_any(store, "none")
    assert has_any(store, "a")


def test_a_file_too_large_is_not_read(store):
    store.put("a.txt", b"12345")
    with pytest.raises(ValueError, match="5 bytes"):
        store.read("a.txt", 4)


def test_stat_read_and_list_agree(store):
    store.put("x/a.txt", b"12345")
    found = store.stat("x/a.txt")
    assert (found.name, found.size_bytes) == ("x/a.txt", 5)
    assert found.version == store.read("x/a.txt", 5)[1]
    for listed in (*store.list(), *store.list("x")):
        assert (listed.name, listed.size_bytes, listed.version) == ("x/a.txt", 5, found.version)
        assert abs(listed.modified_s - found.modified_s) < 1.0  # some servers say one of them in whole seconds
    store.put("x/a.txt", b"54321")
    assert store.stat("x/a.txt").version != found.version
    assert store.stat("x/a.txt").modified_s >= found.modified_s


def test_create_writes_once(store):
    assert store.create("a.txt", b"one")
    assert store.create("a.txt", b"one")
    assert not store.create("a.txt", b"two")
    assert not store.create("a.txt", b"three")
    assert store.read("a.txt", 10)[0] == b"one"


def test_replace_wants_the_version(store):
    store.put("a.txt", b"one")
    first = store.stat("a.txt").version
    assert store.replace("a.txt", b"two", first)
    assert not store.replace("a.txt", b"three", first)
    assert store.read("a.txt", 10)[0] == b"two"
    assert store.replace("a.txt", b"three", store.read("a.txt", 10)[1])
    assert store.read("a.txt", 10)[0] == b"three"


@pytest.mark.parametrize("num_bytes", [0, 5, 20 << 20])
def test_a_draft_is_published_whole(store, num_bytes):
    content = os.urandom(num_bytes)
    with store.draft("data/a.parquet") as draft:
        draft.write_bytes(content)
        assert names(store) == []
        published = store.publish(draft, "data/a.parquet")
        assert published.read_bytes() == content
    assert not draft.exists()
    assert names(store) == ["data/a.parquet"]
    with store.local("data/a.parquet") as path:
        assert path.read_bytes() == content


def test_publishing_replaces(store):
    for content in (b"one", b"two"):
        with store.draft("a.txt") as draft:
            draft.write_bytes(content)
            store.publish(draft, "a.txt")
    assert store.read("a.txt", 10)[0] == b"two"


def test_a_draft_that_is_not_published_is_nothing(store):
    with store.draft("a.txt") as draft:
        draft.write_bytes(b"one")
    assert not draft.exists()
    assert names(store) == []


def test_lists_are_sorted_by_name(store):
    written = ["a.txt", "a/b.txt", "a-b.txt", "a/b/c.txt", "B.txt", "a0.txt", ODD]
    for name in written:
        store.put(name, b"")
    assert names(store) == sorted(written)
    assert names(store, "a") == ["a/b.txt", "a/b/c.txt"]
    assert names(store, "a/b") == ["a/b/c.txt"]


def test_odd_names(store):
    store.put(ODD, b"one")
    assert store.read(ODD, 10)[0] == b"one"
    assert store.stat(ODD).size_bytes == 3
    assert names(store, "a b") == [ODD]
    store.delete([ODD])
    assert names(store) == []


def test_delete_passes_over_what_is_not_there(store):
    for name in ("a.txt", "x/b.txt", "x/c.txt"):
        store.put(name, b"one")
    store.delete(["none.txt", "a.txt", "x/none.txt", "x/b.txt", "none/none.txt"])
    assert names(store) == ["x/c.txt"]
    store.delete([])


def test_one_of_many_threads_creates(store):
    barrier, won = threading.Barrier(16), []

    def create(number):
        barrier.wait()
        if store.create("a.txt", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("a.txt", 10)[0] == b"%d" % won[0]
    assert len(won) == 1


def test_one_of_many_threads_replaces(store):
    store.put("a.txt", b"start")
    version = store.stat("a.txt").version
    barrier, won = threading.Barrier(8), []

    def replace(number):
        barrier.wait()
        if store.replace("a.txt", b"%d" % number, version):
            won.append(number)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("a.txt", 10)[0] == b"%d" % won[0]
    assert len(won) == 1


def test_it_can_be_pickled(store):
    store.put("a.txt", b"one")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read("a.txt", 10)[0] == b"one"
    assert again.address == store.address
    assert again.shown("a.txt") == f"{store.address}/a.txt"
