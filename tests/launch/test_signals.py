import ctypes
import os
import signal
import threading
from pathlib import Path

import pytest
from support.guard import GUARD_S

from recap_fast.launch import signals as signals_module
from recap_fast.launch.signals import HANDLED, Signals, Stopped


def handlers():
    return [signal.getsignal(number) for number in HANDLED]


def in_a_process(action):
    """The exit code of a forked process that does this; negative for a signal."""
    process = os.fork()
    if not process:
        signal.alarm(int(GUARD_S))
        try:
            action()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def hang(*send):
    """In C, where the main thread sees no signal: these come when it is there."""
    kills = "".join(f"kill -{int(number)} $PPID; " for number in send)
    wait = "for _ in $(seq 9999); do kill -0 $PPID 2> /dev/null || exit; sleep 0.05; done"
    ctypes.CDLL(None).system((kills + wait).encode())


@pytest.mark.parametrize("number", HANDLED)
def test_the_first_signal_drains_and_the_next_has_its_old_effect(number):
    drained, said, before = [], [], handlers()
    with Signals(7.0) as signals:
        signals.say = lambda event, text, **fields: said.append((event, text, fields))
        signals.drain_with(drained.append)
        signal.raise_signal(number)
        assert drained == [7.0]
        assert handlers() == [signal.SIG_DFL] * 3
    assert handlers() == before
    name = signal.Signals(number).name
    text = f"{name}: finishing the captions in flight; a second signal stops at once"
    assert said == [("drain", text, {"signal": name})]


def test_a_signal_before_there_is_anything_to_drain_stops():
    before = handlers()
    with pytest.raises(Stopped), Signals(7.0):
        signal.raise_signal(signal.SIGTERM)
    assert handlers() == before


def test_a_stop_that_a_library_has_swallowed_comes_again():
    drained = []
    with Signals(7.0) as signals:
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            signals.drain_with(drained.append)
    assert drained == []


def test_a_process_that_hangs_ends_in_time_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(signals_module, "GRACE_S", 0.05)
    monkeypatch.setattr(signals_module, "SAY_S", GUARD_S)  # a busy machine may take a second for a file

    def run():
        with Signals(0.05) as signals:
            signals.say = lambda event, text, **_: (tmp_path / event).write_text(text)
            signals.drain_with(lambda _: None)
            hang(signal.SIGTERM)

    assert in_a_process(run) == 75
    assert (tmp_path / "drained").read_text() == "Stopped by a signal; the same command goes on from here."


def test_a_second_signal_ends_a_process_that_hangs():
    def run():
        with Signals(GUARD_S):
            hang(signal.SIGTERM, signal.SIGUSR1)

    assert in_a_process(run) in (128 + signal.SIGTERM, 128 + signal.SIGUSR1)  # the system has no order among them


def num_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_stays_behind():
    descriptors, threads = num_descriptors(), threading.active_count()
    for _ in range(20):
        with Signals(1.0):
            pass
    for thread in threading.enumerate():
        if thread.name == "recap-signals":
            thread.join(GUARD_S)
    assert num_descriptors() <= descriptors
    assert threading.active_count() <= threads
