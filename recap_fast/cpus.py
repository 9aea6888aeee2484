"""How many processors this process may use."""

import os


def default_decode_threads() -> int:
    """Half of the processors that this process may use: the others are for the engine, the reader and the writer."""
    return max(1, len(os.sched_getaffinity(0)) // 2)
