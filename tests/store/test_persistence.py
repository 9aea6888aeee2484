"""How long and how often something is tried."""

from types import SimpleNamespace

import pytest

from recap_fast.store import persistence
from recap_fast.store.persistence import persistently


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have passed: pauses take no time, but are counted."""
    passed = [0.0]
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0.5)
    time = SimpleNamespace(monotonic=lambda: passed[0], sleep=lambda seconds: passed.append(passed.pop() + seconds))
    monkeypatch.setattr(persistence, "time", time)
    return passed


def failing(error, count=10**9):
    """An action that fails so often; how often it was called is its length."""
    calls = []

    def act():
        calls.append(1)
        if len(calls) <= count:
            raise error
        return "result"

    act.calls = calls
    return act


def test_it_is_tried_for_two_minutes_and_no_longer(clock):
    action = failing(ConnectionResetError("gone"))
    with pytest.raises(ConnectionError, match=r"^s3://b/x: gone, tried \d+ times$"):
        persistently(action, "s3://b/x")
    assert 90 < clock[0] <= persistence.PATIENCE_S
    assert 8 < len(action.calls) < 25


def test_what_comes_back_within_a_minute_is_waited_for(clock):
    assert persistently(failing(TimeoutError("gone"), 6), "s3://b/x") == "result"
    assert clock[0] < 60


def test_with_progress_the_time_begins_anew(clock):
    action = failing(ConnectionError("gone"), 100)
    assert persistently(action, "s3://b/x", progress=lambda: len(action.calls)) == "result"
    assert clock[0] < 100


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), KeyboardInterrupt()])
def test_what_is_not_of_the_store_is_raised_at_once(error, clock):
    action = failing(error)
    with pytest.raises(type(error)) as caught:
        persistently(action, "s3://b/x")
    assert caught.value is error
    assert len(action.calls) == 1


def test_what_is_not_there_is_not_tried_again(clock):
    action = failing(FileNotFoundError("Object at location x not found"))
    with pytest.raises(FileNotFoundError, match=r"^s3://b/x is not there$"):
        persistently(action, "s3://b/x")
    assert len(action.calls) == 1
