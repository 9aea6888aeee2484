"""Remote tars that are fetched ahead: how many, in which order, and what becomes of those that nobody wants."""

import threading
from contextlib import closing, contextmanager

import pytest
from support.guard import guarded, wait_until
from support.hangs import Hang

from recap_fast.errors import ShardError, StoppedError
from recap_fast.records import Identity, Shard
from recap_fast.shards import ahead as module
from recap_fast.shards.ahead import MAX_AHEAD, ReadAhead
from recap_fast.shards.patience import Watch
from recap_fast.shards.remote.download import NoRoomError


def remote(count, first=0):
    return [Shard(f"{n}", f"memory://b/{n}.tar", "tar") for n in range(first, first + count)]


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    """Of the tars, by name."""
    found: dict[str, int] = {}
    monkeypatch.setattr(module, "identity", lambda shard: Identity(found.get(shard.name, 1), "1"))
    return found


@pytest.fixture(autouse=True)
def disk(monkeypatch):
    """The room on it."""
    found = {"room": 1 << 60}
    monkeypatch.setattr(module, "has_room", lambda num_bytes: num_bytes <= found["room"])
    return found


class Server:
    """Opens shards when a test lets them, and knows what is open."""

    def __init__(self):
        self.begun, self.open, self.closed, self.errors = [], [], [], {}
        self.ready = threading.Event()
        self.let: set[str] = set()
        self.stopping = False

    def open_shard(self, shard, should_stop):
        self.begun.append(shard.name)
        wait_until(lambda: self.ready.is_set() or shard.name in self.let or should_stop())
        if should_stop():
            raise StoppedError
        if error := self.errors.get(shard.name):
            raise error
        self.open.append(shard.name)
        return self._opened(shard.name)

    @contextmanager
    def _opened(self, name):
        try:
            yield name
        finally:
            self.closed.append(name)

    def ahead(self, shards):
        return closing(ReadAhead(shards, self.open_shard, lambda: self.stopping))


@pytest.fixture
def server():
    found = Server()
    yield found
    found.ready.set()


def read(ahead):
    """The names of the next shard as it was handed out and opened."""
    upcoming = guarded(ahead.take)
    with guarded(upcoming.open) as name:
        assert name == upcoming.shard.name
        return name


def is_settled(server, ahead, log):
    """Whether all that were asked for have begun and no other one is wanted; none was asked for meanwhile."""
    num_asked = len(log)
    return len(server.begun) == num_asked and not ahead._wants_another() and len(log) == num_asked


def asked(shards, log):
    for shard in shards:
        log.append(shard.name)
        yield shard


def test_shards_come_in_their_order_and_each_once(server):
    server.ready.set()
    with server.ahead(remote(20)) as ahead:
        assert [read(ahead) for _ in range(20)] == [str(n) for n in range(20)]
        assert guarded(ahead.take) is None
        assert guarded(ahead.take) is None
    assert sorted(server.closed) == sorted(server.open)


def test_while_one_is_read_the_next_one_is_fetched_and_no_third_one(server):
    log = []
    server.ready.set()
    with server.ahead(asked(remote(5), log)) as ahead:
        first = guarded(ahead.take)
        with first.open():
            wait_until(lambda: server.open == ["0", "1"])
            wait_until(lambda: not ahead._wants_another())
            assert log == ["0", "1"]
    assert log == ["0", "1"]


def test_each_wait_fetches_one_more_beside_it_up_to_a_bound(server):
    log = []
    with server.ahead(asked(remote(20), log)) as ahead:
        begun = []
        for number in range(8):
            upcoming = guarded(ahead.take)
            server.let.add(str(number))
            with guarded(upcoming.open):
                pass
            wait_until(lambda: is_settled(server, ahead, log))
            begun.append(len(server.begun) - number - 1)
            wait_until(lambda: ahead._queue[0].attempt is not None)
    assert begun == [1, 2, 3, 4, 4, 4, 4, 4]
    assert max(begun) == MAX_AHEAD


def test_what_is_ready_in_time_fetches_no_more(server):
    log = []
    server.ready.set()
    with server.ahead(asked(remote(20), log)) as ahead:
        for number in range(8):
            assert read(ahead) == str(number)
            wait_until(lambda: ahead._queue and ahead._queue[0].is_over)
        assert len(log) == 9


@pytest.mark.parametrize(
    "shard",
    [Shard("x", "/b/x.tar", "tar"), Shard("x", "memory://b/x.parquet", "parquet"), Shard("x", "memory://b", "folder")],
)
def test_other_inputs_are_opened_in_their_turn_and_the_next_one_is_not_asked_for(server, shard):
    log = []
    server.ready.set()
    with server.ahead(asked([shard, *remote(2)], log)) as ahead:
        upcoming = guarded(ahead.take)
        assert (log, server.begun) == (["x"], [])
        with upcoming.open():
            assert server.begun == ["x"]
        assert read(ahead) == "0"


def test_the_error_of_a_shard_is_its_own(server):
    server.errors["1"] = ShardError("is not there")
    server.ready.set()
    with server.ahead(remote(3)) as ahead:
        assert read(ahead) == "0"
        with pytest.raises(ShardError, match="is not there"):
            guarded(ahead.take).open()
        assert read(ahead) == "2"


def test_the_error_of_the_iterator_comes_behind_the_shards_before_it(server):
    def shards():
        yield from remote(2)
        raise ConnectionError("the coordinator is gone")

    server.ready.set()
    with server.ahead(shards()) as ahead:
        assert [read(ahead), read(ahead)] == ["0", "1"]
        for _ in range(2):
            with pytest.raises(ConnectionError, match="the coordinator is gone"):
                guarded(ahead.take)


def test_what_is_fetched_and_not_wanted_is_closed(server):
    server.ready.set()
    with server.ahead(remote(9)) as ahead:
        assert read(ahead) == "0"
        wait_until(lambda: server.open == ["0", "1"])
    wait_until(lambda: server.closed == ["0", "1"])


def test_what_is_being_fetched_when_it_is_closed_stops(server):
    server.let.add("0")
    with server.ahead(remote(9)) as ahead:
        assert read(ahead) == "0"
        wait_until(lambda: server.begun == ["0", "1"])
    with pytest.raises(StoppedError):
        guarded(ahead.take)
    wait_until(lambda: ahead._queue[0].is_over)
    assert server.open == ["0"]


def test_what_comes_after_all_when_nobody_wants_it_is_closed(server, monkeypatch):
    hang = Hang()
    monkeypatch.setattr(Watch, "give_up_if_stalled", hang.take)
    open_shard = server.open_shard

    def open_late(shard, should_stop):
        with pytest.raises(OSError, match="released"):
            hang.here()
        return open_shard(shard, lambda: False)

    monkeypatch.setattr(server, "open_shard", open_late)
    server.ready.set()
    with server.ahead(remote(1)) as ahead:
        upcoming = guarded(ahead.take)
        with pytest.raises(TimeoutError, match="nothing came for 30 s"):
            guarded(upcoming.open)
        hang.release()
        wait_until(lambda: server.closed == ["0"])


def test_a_stop_ends_every_wait(server):
    with server.ahead(remote(2)) as ahead:
        upcoming = guarded(ahead.take)
        threading.Timer(0, lambda: setattr(server, "stopping", True)).start()
        with pytest.raises(StoppedError):
            guarded(upcoming.open)
        with pytest.raises(StoppedError):
            guarded(ahead.take)


def test_the_disk_is_not_filled_by_what_is_fetched_ahead(server, sizes, disk):
    sizes.update({"0": 10, "1": 50, "2": 10})
    disk["room"] = 55
    server.let.add("0")
    with server.ahead(remote(4)) as ahead:
        assert read(ahead) == "0"
        wait_until(lambda: server.begun == ["0", "1"])
        ahead._depth = MAX_AHEAD
        wait_until(lambda: len(ahead._queue) == 2)  # the third one has no room beside the second
        assert not ahead._wants_another()
        server.let.update("12")
        assert read(ahead) == "1"
        wait_until(lambda: server.open[:3] == ["0", "1", "2"])


def test_what_never_has_room_is_opened_in_its_turn_and_says_so(server, sizes, disk):
    disk["room"] = 5
    sizes["1"] = 100
    server.errors["1"] = NoRoomError("does not fit")
    server.ready.set()
    with server.ahead(remote(3)) as ahead:
        assert read(ahead) == "0"
        upcoming = guarded(ahead.take)
        with pytest.raises(NoRoomError, match="does not fit"):
            guarded(upcoming.open)
        assert read(ahead) == "2"


def test_what_had_no_room_when_it_was_fetched_ahead_is_fetched_in_its_turn(server):
    server.errors["1"] = NoRoomError("does not fit")
    server.ready.set()
    with server.ahead(remote(2)) as ahead:
        with guarded(ahead.take).open():
            wait_until(lambda: ahead._queue and ahead._queue[0].is_over)
            del server.errors["1"]
        assert read(ahead) == "1"
    assert server.begun == ["0", "1", "1"]


def test_a_tar_of_unknown_size_is_fetched_in_its_turn(server, sizes):
    sizes["1"] = 0
    server.ready.set()
    with server.ahead(remote(3)) as ahead:
        with guarded(ahead.take).open():
            wait_until(lambda: len(ahead._queue) == 1)
            assert server.begun == ["0"]
        assert [read(ahead), read(ahead)] == ["1", "2"]
