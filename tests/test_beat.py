import threading

from support.guard import wait_until

from recap_fast.beat import every


def test_it_is_done_again_and_again_and_at_last_in_one_thread():
    threads, done = [], []
    with every(0.001, lambda: threads.append(threading.get_ident()), lambda: done.append(threading.get_ident()), "x"):
        wait_until(lambda: len(threads) >= 3)
        assert not done
    before = len(threads)
    assert done == [threads[0]] == [*set(threads)]
    assert len(threads) == before


def test_a_short_block_is_done_at_last_alone():
    done = []
    with every(1e6, lambda: done.append("again"), lambda: done.append("last"), "x"):
        pass
    assert done == ["last"]


def test_it_is_done_at_once_on_request():
    done = []
    with every(1e6, lambda: done.append(1), lambda: done.append("last"), "x") as now:
        for number in (1, 2):
            now()
            wait_until(lambda number=number: len(done) == number)
    assert done == [1, 1, "last"]


def test_an_error_of_the_system_is_one_warning_and_does_not_end_it(caplog):
    tried = []

    def fail():
        tried.append(1)
        raise OSError("no room")

    with every(0.001, fail, fail, "the note cannot be written"):
        wait_until(lambda: len(tried) >= 3)
    assert [record.getMessage() for record in caplog.records] == ["the note cannot be written: no room"]


def test_what_hangs_at_last_is_left_behind():
    gate = threading.Event()
    with every(1e6, gate.wait, gate.wait, "x", end_s=0.01):
        pass
    gate.set()
