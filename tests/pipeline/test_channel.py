"""The window; channels are tested with the pipeline."""

import threading

import pytest
from support import shard_files
from support.fake_runs import FakeRun, captions, expected_captions, write_shards
from support.guard import guarded, wait_until

from recap_fast.pipeline.channel import Window


def enters_at_once(window: Window, num_bytes: int) -> bool:
    """Whether there is room; where there is none, the window is of no use afterwards."""
    entered: list[bool] = []
    thread = threading.Thread(target=lambda: entered.append(window.enter(num_bytes)), daemon=True)
    thread.start()
    wait_until(lambda: entered or window._changed._waiters)
    has_room = bool(entered)
    window.cancel()
    thread.join()
    return has_room


@pytest.mark.parametrize(
    ("entered", "num_bytes", "has_room"),
    [
        ([], 5, True),
        ([], 1000, True),  # larger than the window, and alone
        ([40], 60, True),
        ([40], 61, False),
        ([1000], 0, False),
        ([1, 1], 0, True),
        ([1, 1, 1], 0, False),
    ],
)
def test_there_is_room_for_so_many_samples_and_bytes_or_for_one_sample(entered, num_bytes, has_room):
    window = Window(3, 100)
    for size in entered:
        assert guarded(lambda size=size: window.enter(size))
    assert window.content == (len(entered), sum(entered))
    assert enters_at_once(window, num_bytes) == has_room


@pytest.mark.parametrize("leaving", [(1, 30), (0, 50), (1, 0)])
def test_what_leaves_makes_room(leaving):
    window = Window(2, 100)
    for size in (30, 50):
        window.enter(size)
    window.leave(*leaving)
    assert enters_at_once(window, 20) == (leaving[0] == 1)


def test_nothing_enters_a_cancelled_window():
    window = Window(2, 100)
    window.cancel()
    assert not window.enter(1)


@pytest.mark.parametrize("window_bytes", [1, 20_000])
def test_what_is_in_flight_is_bounded_in_bytes_and_a_larger_sample_passes(tmp_path, window_bytes):
    sizes = [60, 1, 60]
    write_shards(tmp_path / "in", sizes)
    large = [(name, content + b" " * 30_000) for name, content in shard_files.webdataset_members(1, first=1000)]
    images = [(name, content) for name, content in shard_files.webdataset_members(1, first=1000) if "jpg" in name]
    shard_files.write_tar(tmp_path / "in" / "00001.tar", images + [each for each in large if "json" in each[0]])
    run = FakeRun(tmp_path / "in", tmp_path / "out", window_bytes=window_bytes)
    pipeline = run.pipeline()
    window, step = pipeline.reading.channels.window, run.engine.step
    seen: list[tuple[int, int]] = []

    def watched(**told):
        seen.append(window.content)
        return step(**told)

    run.engine.step = watched
    guarded(lambda: pipeline.run(run.pending))
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", sizes)
    assert all(num_samples == 1 or num_bytes <= window_bytes for num_samples, num_bytes in seen if num_samples)
    assert max(num_bytes for _, num_bytes in seen) > 30_000
    assert max(num_samples for num_samples, _ in seen) == 1 or window_bytes > 1
    assert window.content == (0, 0), "all that entered has left"
