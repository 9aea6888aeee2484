import threading

import pytest
from support.guard import GUARD_S, wait_until
from support.hangs import Hang

from recap_fast.errors import StoppedError
from recap_fast.shards import patience as patience_module
from recap_fast.shards.patience import (
    Watch,
    check_stop,
    patience,
    patiently,
    pause,
    progress,
    read_timeout,
    side_by_side,
    start,
)


@pytest.fixture
def hang():
    found = Hang()
    yield found
    found.release()


@pytest.fixture
def clock(monkeypatch):
    """What time it is."""
    now = [0.0]
    monkeypatch.setattr(patience_module.time, "monotonic", lambda: now[0])
    return now


def test_what_an_action_returns_or_raises_comes_through():
    assert patiently(lambda: 5) == 5
    assert patiently(lambda: None) is None
    with pytest.raises(KeyError, match="mine"):
        patiently(lambda: {}["mine"])
    with pytest.raises(KeyboardInterrupt):
        patiently(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_what_hangs_is_left_behind(hang):
    before = set(threading.enumerate())
    with patience(0.01), pytest.raises(TimeoutError, match=r"^nothing came for 0\.01 s$"):
        patiently(hang.here)
    (left,) = set(threading.enumerate()) - before
    assert left.daemon
    hang.release()
    left.join(GUARD_S)


def test_a_stop_ends_a_wait(hang):
    with patience(should_stop=lambda: hang.count > 0), pytest.raises(StoppedError, match="the run is stopping"):
        patiently(hang.here)
    with patience(should_stop=lambda: True):
        with pytest.raises(StoppedError):
            patiently(lambda: pytest.fail("it has begun"))
        with pytest.raises(StoppedError):
            pause(GUARD_S)
        with pytest.raises(StoppedError):
            check_stop()


def test_patience_holds_within_and_in_threads_that_are_started_there():
    assert read_timeout() == 30
    with patience(5):
        assert read_timeout() == patiently(read_timeout) == 5
        with patience(should_stop=lambda: False):
            assert read_timeout() == 5
    assert read_timeout() == 30


def test_a_watch_sees_whether_anything_comes(clock):
    watch = Watch(10)
    for now, stalled in ((10, False), (10.1, True)):
        clock[0] = now
        assert watch.give_up_if_stalled() == stalled
    with pytest.raises(StoppedError), watch.paused():
        pytest.fail("it was given up")


def test_progress_and_pauses_count(clock):
    watch = Watch(10)
    clock[0] = 9
    watch.progress()
    clock[0] = 19
    assert not watch.give_up_if_stalled()
    with watch.paused():
        clock[0] = 100
        assert not watch.give_up_if_stalled()
    clock[0] = 110
    assert not watch.give_up_if_stalled()
    clock[0] = 111
    assert watch.give_up_if_stalled()
    watch.progress()
    assert watch.give_up_if_stalled(), "what is given up is not taken back"


def test_progress_is_that_of_the_thread(clock):
    watch = Watch(10)
    clock[0] = 9
    start(progress, watch, "test").join(GUARD_S)
    clock[0] = 19
    assert not watch.give_up_if_stalled()


def test_a_wait_within_a_wait_has_the_only_deadline(monkeypatch, hang, clock):
    watches = []

    class Listed(Watch):
        def __init__(self, seconds):
            super().__init__(seconds)
            watches.append(self)

        def give_up_if_stalled(self):
            return super().give_up_if_stalled() if self is watches[0] else hang.count > 0

    def stall():
        wait_until(lambda: watches[0]._paused, lambda: "the outer wait goes on")
        clock[0] = 1000  # long after the outer deadline
        hang.here()

    monkeypatch.setattr(patience_module, "Watch", Listed)
    with pytest.raises(RuntimeError, match="inner"):
        patiently(lambda: fail_when_given_up(stall))
    assert len(watches) == 2


def fail_when_given_up(action):
    try:
        patiently(action)
    except TimeoutError:
        raise RuntimeError("inner") from None


def test_many_are_done_side_by_side_in_their_order():
    assert side_by_side(lambda n: n * n, range(100), 7) == [n * n for n in range(100)]
    assert side_by_side(str, [], 7) == []
    together = threading.Barrier(3)
    assert side_by_side(lambda _: together.wait(GUARD_S) >= 0, range(3), 3) == [True] * 3
    with patience(5):
        assert side_by_side(lambda _: read_timeout(), range(3), 2) == [5] * 3


def test_an_error_or_a_stop_ends_all_of_them(hang):
    def fail(n):
        if n == 2:
            raise KeyError("mine")
        return hang.here() if n == 1 else n

    with pytest.raises(KeyError, match="mine"):
        side_by_side(fail, range(10**6), 2)
    with pytest.raises(StoppedError), patience(should_stop=lambda: hang.count > 1):
        side_by_side(hang.here, range(10), 3)
    assert hang.count <= 4
