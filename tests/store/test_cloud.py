"""A bucket as a store: what goes wrong on the way to a real S3 server. What holds for all stores: test_contract.py."""

import errno
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fault_proxy import MANY, Fault, every, first, seeded

from recap_fast import atomic
from recap_fast.errors import ConfigError
from recap_fast.store import connection, transfer
from recap_fast.store.cloud import CloudStore

WHOLE = b"0123456789" * 1000
LOST = [Fault("lose"), Fault("truncate")]


@pytest.fixture
def store(s3_bucket, s3_faults):
    """Through the proxy."""
    return CloudStore(f"{s3_bucket}/out")


@pytest.fixture
def beside(s3_server, store):
    """Writes a file past the proxy, as another process does."""
    import obstore.store

    place = connection.place_of(store.url)
    bucket = obstore.store.S3Store(place.bucket, endpoint=s3_server.endpoint, client_options={"allow_http": True})
    return lambda name, content: bucket.put(f"{place.path}/{name}", content, use_multipart=False)


def publish(store, name, content):
    with store.draft(name) as draft:
        draft.write_bytes(content)
        return store.publish(draft, name)


def local(store, name):
    with store.local(name) as path:
        return path.read_bytes()


ACTIONS = {
    "stat": lambda store: store.stat("a.txt").size_bytes == len(WHOLE),
    "read": lambda store: store.read("a.txt", 10**6)[0] == WHOLE,
    "list": lambda store: [file.name for file in store.list()] == ["a.txt"],
    "local": lambda store: local(store, "a.txt") == WHOLE,
    "put": lambda store: store.put("b.txt", WHOLE) is None and store.read("b.txt", 10**6)[0] == WHOLE,
    "create": lambda store: store.create("b.txt", WHOLE),
    "replace": lambda store: store.replace("a.txt", b"new", store.stat("a.txt").version),
    "publish": lambda store: publish(store, "b.txt", WHOLE) and store.read("b.txt", 10**6)[0] == WHOLE,
    "delete": lambda store: store.delete(["a.txt"]) is None and store.stat("a.txt") is None,
    "make_root": lambda store: store.make_root() is None,
}


@pytest.mark.parametrize("fault", MANY, ids=lambda fault: f"{fault.kind}-{fault.status}")
@pytest.mark.parametrize("action", ACTIONS)
def test_what_passes_is_tried_again(action, fault, store, s3_faults, beside):
    """obstore's own tries are not enough here: the first five of each path fail."""
    beside("a.txt", WHOLE)
    s3_faults.schedule = first(5, fault)
    assert ACTIONS[action](store)
    assert len(s3_faults.requests) > 5


@pytest.mark.parametrize("seed", range(10))
def test_many_faults_lose_and_double_nothing(seed, store, s3_faults):
    s3_faults.schedule = seeded(seed, share=0.4)
    contents = {f"data/{index}.parquet": os.urandom(1000 + index) for index in range(8)}
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: publish(store, name, contents[name]), contents))
        assert all(threads.map(lambda name: store.create(f"done/{name}", name.encode()), contents))
        assert not any(threads.map(lambda name: store.create(f"done/{name}", b"other"), contents))
        assert list(threads.map(lambda name: local(store, name), contents)) == list(contents.values())
    assert [file.name for file in store.list("data")] == sorted(contents)
    assert [store.read(f"done/{name}", 100)[0] for name in contents] == [name.encode() for name in contents]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.kind)
def test_a_lost_answer_to_create_is_no_failure(fault, store, s3_faults, caplog):
    s3_faults.schedule = first(1, fault, "PUT")
    assert store.create("a.txt", b"ours")
    assert s3_faults.came("PUT") == 2
    assert "trying again" in caplog.text
    assert store.read("a.txt", 10)[0] == b"ours"


def test_what_another_creates_meanwhile_is_theirs(store, s3_faults, beside):
    s3_faults.schedule = first(1, Fault("reset", then=lambda: beside("a.txt", b"theirs")), "PUT")
    assert not store.create("a.txt", b"ours")
    assert store.read("a.txt", 10)[0] == b"theirs"


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.kind)
def test_a_lost_answer_to_replace_is_no_failure(fault, store, s3_faults):
    store.put("run.json", b"old")
    version = store.stat("run.json").version
    s3_faults.schedule = first(1, fault, "PUT")
    assert store.replace("run.json", b"ours", version)
    assert s3_faults.came("PUT") == 1
    assert store.read("run.json", 10)[0] == b"ours"


def test_what_another_replaces_meanwhile_is_theirs(store, s3_faults, beside):
    store.put("run.json", b"old")
    version = store.stat("run.json").version
    s3_faults.schedule = first(1, Fault("reset", then=lambda: beside("run.json", b"theirs")), "PUT")
    assert not store.replace("run.json", b"ours", version)
    assert store.read("run.json", 10)[0] == b"theirs"


def test_a_large_file_goes_in_parts_and_each_is_tried_again(store, s3_faults):
    content = os.urandom(2 * transfer.PART_BYTES + 5)
    s3_faults.schedule = first(2, Fault("status"), "PUT", "partNumber")
    publish(store, "data/a.parquet", content)
    assert s3_faults.came("PUT", "partNumber=3") >= 3
    assert local(store, "data/a.parquet") == content


@pytest.mark.parametrize("kind", ["lose", "reset", "status"])
def test_the_end_of_a_large_upload_is_tried_again(kind, store, s3_faults):
    content = os.urandom(transfer.PART_BYTES + 5)
    s3_faults.schedule = first(2, Fault(kind), "POST")
    publish(store, "data/a.parquet", content)
    assert local(store, "data/a.parquet") == content


@pytest.mark.parametrize("num_bytes", [1000, transfer.PART_BYTES + 5])
def test_a_damaged_upload_is_repeated(num_bytes, store, s3_faults, caplog):
    content = os.urandom(num_bytes)
    s3_faults.schedule = lambda request: (
        Fault("damage") if request.method == "PUT" and s3_faults.came("PUT") == 1 else None
    )
    publish(store, "data/a.parquet", content)
    assert "what was uploaded is damaged" in caplog.text
    assert local(store, "data/a.parquet") == content


def test_uploads_that_are_always_damaged_are_an_error(store, s3_faults):
    s3_faults.schedule = every(Fault("damage"), "PUT")
    with pytest.raises(OSError, match=r"out/data/a\.parquet: what was uploaded is damaged.* 3 times"):
        publish(store, "data/a.parquet", WHOLE)


def test_a_file_that_another_replaces_is_not_ours_to_check(store, s3_faults, beside):
    s3_faults.schedule = first(1, Fault("reset", then=lambda: beside("data/a.parquet", b"theirs")), "GET")
    publish(store, "data/a.parquet", WHOLE)
    assert s3_faults.came("PUT") == 1
    assert store.read("data/a.parquet", 10)[0] == b"theirs"


def test_a_download_goes_on_from_where_it_broke(store, s3_faults, beside):
    content = os.urandom(5 * transfer.CHUNK_BYTES)
    beside("a.parquet", content)
    s3_faults.schedule = first(12, Fault("truncate"))
    assert local(store, "a.parquet") == content


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(store, s3_faults, beside, caplog):
    beside("a.parquet", WHOLE)
    new = WHOLE[::-1] + b"longer"
    s3_faults.schedule = first(1, Fault("truncate", then=lambda: beside("a.parquet", new)))
    assert local(store, "a.parquet") == new
    assert "it was replaced 1 times while it was read" in caplog.text


def test_a_small_file_that_is_replaced_while_it_is_read_is_read_again(store, s3_faults, beside):
    beside("run.json", WHOLE)
    new = WHOLE[::-1] + b"longer"
    s3_faults.schedule = first(1, Fault("truncate", then=lambda: beside("run.json", new)))
    assert store.read("run.json", 10**6) == (new, store.stat("run.json").version)


def test_a_file_that_is_replaced_all_the_time_is_given_up(store, s3_faults, beside):
    beside("a.parquet", WHOLE)
    s3_faults.schedule = every(Fault("truncate", then=lambda: beside("a.parquet", os.urandom(10_000))))
    with pytest.raises(OSError, match=r"a\.parquet: it was replaced 3 times"):
        local(store, "a.parquet")


def test_a_stalled_request_is_given_up_and_tried_again(store, s3_faults, beside):
    beside("a.txt", WHOLE)
    impatient = CloudStore(store.url, read_timeout_s=1.0)
    s3_faults.schedule = first(1, Fault("stall"))
    assert impatient.read("a.txt", 10**6)[0] == WHOLE
    assert s3_faults.stalled.is_set()


def test_long_listings_and_deletions_go_page_by_page(store, s3_faults, beside):
    names = [f"data/{index:05d}.json" for index in range(1005)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: beside(name, b"1"), names))
    s3_faults.schedule = first(4, Fault("truncate"))
    assert [file.name for file in store.list()] == names
    s3_faults.schedule = first(4, Fault("lose"))
    store.delete(iter(names))
    assert list(store.list()) == []


def test_the_mark_that_tools_make_for_a_folder_is_no_file(s3_server, store, beside):
    import urllib.request

    for path in ("out/", "out/data/"):
        url = f"{s3_server.endpoint}/{connection.place_of(store.url).bucket}/{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data=b"", method="PUT")):
            pass
    beside("data/a.txt", b"1")
    assert [file.name for file in store.list("data")] == ["data/a.txt"]
    assert store.stat("data") is None


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "s3://secret@bucket/x", "s3://bucket/x?sig=secret"])
def test_a_url_with_a_secret_is_refused_and_not_shown(url):
    with pytest.raises(ConfigError, match="s3://bucket/x ") as caught:
        CloudStore(url)
    assert "secret" not in str(caught.value)


def test_a_query_is_refused():
    with pytest.raises(ConfigError, match=r"s3://bucket/x has a query"):
        CloudStore("s3://bucket/x?versionId=3")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_scratch_folder_is_this_users_alone_and_stays_the_same(temporary):
    scratch = CloudStore("s3://bucket/x").scratch
    assert scratch == CloudStore("s3://bucket/x/").scratch != CloudStore("s3://bucket/y").scratch
    assert scratch.parent.parent == temporary
    assert scratch.parent.stat().st_mode & 0o777 == 0o700
    scratch.parent.chmod(0o755)
    assert CloudStore("s3://bucket/x").scratch == scratch
    assert scratch.parent.stat().st_mode & 0o777 == 0o700


def test_a_scratch_folder_of_others_is_not_used(temporary, tmp_path):
    Path(temporary, f"recap-fast-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="is no folder of yours: remove it, or set TMPDIR"):
        _ = CloudStore("s3://bucket/x").scratch


def test_what_dead_processes_left_is_removed(s3_bucket, temporary, monkeypatch):
    store = CloudStore(f"{s3_bucket}/x")
    with store.draft("data/a.parquet") as living, monkeypatch.context() as patch:
        living.write_bytes(b"1")
        machine = atomic.owner().rpartition("~")[0]
        patch.setattr(atomic, "owner", lambda: f"{machine}~999999999")
        dead = atomic.temporary_path(living)
        dead.write_bytes(b"1")
        store.make_root()
        assert living.exists()
        assert not dead.exists()


def test_a_full_disk_is_named(s3_bucket):
    store = CloudStore(f"{s3_bucket}/x")
    with pytest.raises(OSError, match="set TMPDIR") as caught, store.draft("a.txt"):
        Path("/dev/full").write_bytes(b"1")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == tempfile.gettempdir()
