"""Against tests that hang: what must happen at some time happens within ten minutes, however busy the machine is."""

import multiprocessing
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GUARD_S = 600.0


def guarded(action: Callable[[], Any]) -> Any:
    """What the action returns or raises; fails instead of hanging. Its thread keeps no process from ending."""
    outcome: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            outcome.put((action(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = outcome.get(timeout=GUARD_S)
    except queue.Empty:
        raise AssertionError(f"it has not ended within {GUARD_S:.0f} s") from None
    if error is not None:
        raise error
    return result


def wait_until(condition: Callable[[], object], what: Callable[[], str] = lambda: "it never came") -> None:
    """Returns when the condition holds."""
    end = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.005)


def wait_until_idle(process: int) -> None:
    """Returns when a process that has one thread sleeps: it has done all that it can until something happens."""
    stat = Path(f"/proc/{process}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", lambda: f"{process} never sleeps")


def threads() -> set[str]:
    """The threads of this process. One that was joined is among them until the system has cleared it away."""
    return {path.name for path in Path("/proc/self/task").iterdir()}


def wait_for_end_of_new(before: set[str]) -> None:
    """Returns when no thread is left but those of `before`."""
    wait_until(lambda: threads() <= before, lambda: f"threads {threads() - before} are left")


def in_processes(*actions: Callable[[], Any]) -> None:
    """Runs these at the same time, each in a process forked from this one, to their end; fails where one does."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(len(actions))
    processes = [context.Process(target=lambda action=action: (barrier.wait(), action())) for action in actions]
    for process in processes:
        process.start()
    for process in processes:
        process.join(GUARD_S)
    assert [process.exitcode for process in processes] == [0] * len(processes)
