import threading

import pytest
from support.guard import GUARD_S

from recap_fast.score.ahead import StalledError, ahead, mapped


def counting(until, made=None):
    for number in range(until):
        if made is not None:
            made.append(number)
        yield number


def test_all_items_come_in_order():
    assert list(ahead(counting(1000), 3, "x")) == list(range(1000))
    assert list(ahead(counting(0), 3, "x")) == []


def test_an_error_comes_behind_the_items_before_it():
    def failing():
        yield 1
        yield 2
        raise ValueError("no more")

    found = []
    with pytest.raises(ValueError, match="no more"):
        found.extend(ahead(failing(), 1, "x"))
    assert found == [1, 2]


def test_no_more_than_so_many_wait():
    made, taken = [], ahead(counting(100), 3, "x")
    items = ahead(counting(100, made), 3, "x")
    for number in range(20):
        assert next(items) == next(taken) == number
        assert len(made) <= number + 1 + 3 + 1  # taken, waiting, and one that waits for room


def test_the_generator_is_closed_where_the_caller_takes_no_more():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = ahead(endless(), 2, "x")
    assert next(items) == 1
    items.close()
    assert closed.wait(GUARD_S)


def test_what_brings_nothing_is_given_up():
    release = threading.Event()

    def hanging():
        yield 1
        release.wait(GUARD_S)

    items = ahead(hanging(), 2, "x", timeout_s=0.05)
    try:
        with pytest.raises(StalledError, match=r"nothing came for 0.05 s \(--read-timeout\)"):
            list(items)
    finally:
        release.set()


def test_what_several_threads_make_comes_in_order():
    assert list(mapped(lambda number: number * number, range(100), 3)) == [n * n for n in range(100)]
    assert list(mapped(str, [], 3)) == []


def test_so_many_threads_work_at_the_same_time():
    together = threading.Barrier(3)

    def meet(number):
        together.wait(GUARD_S)
        return number

    assert list(mapped(meet, range(6), 3)) == list(range(6))


def test_no_more_items_are_taken_than_threads_work_on_or_wait_for():
    taken = []
    made = mapped(lambda number: number, counting(100, taken), 3)
    for number in range(20):
        assert next(made) == number
        assert len(taken) <= number + 1 + 6


def test_an_error_of_an_action_comes_in_its_place():
    def fail_at_two(number):
        if number == 2:
            raise ValueError("two")
        return number

    found = []
    with pytest.raises(ValueError, match="two"):
        found.extend(mapped(fail_at_two, range(9), 2))
    assert found == [0, 1]
