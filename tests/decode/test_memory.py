import threading

import pytest
from support.guard import GUARD_S

from recap_fast.decode import memory


def hold(sizes):
    """How many pixels were held at most while so many threads held one size each, and how many threads at once."""
    now, most = [], []
    lock, go = threading.Lock(), threading.Event()

    def work(size):
        with memory.holding(size):
            with lock:
                now.append(size)
                most.append((sum(now), len(now)))
            go.wait(0.01)
            with lock:
                now.remove(size)

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD_S)
    return max(most)


def test_large_images_are_decoded_one_at_a_time():
    size = memory.MAX_PIXELS
    assert hold([size] * 3) == (size, 1)
    assert hold([2 * size] * 2) == (2 * size, 1)
    assert hold([size // 2, size // 2 + 1, size // 2, 0, 1])[0] <= size


def test_nothing_waits_for_no_pixels():
    with memory.holding(3 * memory.MAX_PIXELS), memory.holding(0):
        pass


def test_room_comes_back_after_an_error():
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"), memory.holding(memory.MAX_PIXELS):
            raise ValueError("broken")
