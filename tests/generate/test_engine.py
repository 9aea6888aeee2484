"""What of a line of requests an engine gets."""

import itertools

import numpy as np
import pytest
from support.engines import FakeEngine

from recap_fast.generate.engine import next_requests
from recap_fast.generate.prepared import generate_all
from recap_fast.records import Request


def line(*sizes: int) -> list[Request]:
    """Requests of images, so many each, their ids counting on."""
    requests: list[Request] = []
    for size in sizes:
        lead = len(requests)
        requests += [
            Request(
                lead + i, np.zeros((3, 2, 2), np.uint8), np.zeros(1, np.int32), 1, same_image_as=lead if i else None
            )
            for i in range(size)
        ]
    return requests


@pytest.mark.parametrize(
    ("sizes", "room", "count"),
    [
        ((), 4, 0),
        ((1, 1, 1), 0, 0),
        ((1, 1, 1), 2, 2),
        ((1, 1, 1), 4, 3),
        ((2, 3), 4, 2),
        ((2, 3), 5, 5),
        ((4, 1), 3, 0),
        ((9,), 7, 0),
        ((9,), 8, 8),
        ((1, 9), 8, 1),
    ],
)
def test_requests_of_an_image_go_together_if_the_engine_has_as_many_slots(
    sizes: tuple[int, ...], room: int, count: int
) -> None:
    waiting = line(*sizes)
    assert next_requests(waiting, room, num_slots=8) == waiting[:count]


class Watched(FakeEngine):
    """Remembers what came together."""

    def __init__(self, num_slots: int):
        super().__init__(num_slots)
        self.given: list[list[int]] = []

    def submit(self, requests: list[Request]) -> None:
        self.given.append([request.id for request in requests])
        super().submit(requests)


def test_groups_are_not_torn_apart() -> None:
    engine, requests = Watched(5), line(3, 3, 1, 2, 7, 1)
    done = [completion.id for completion in generate_all(engine, iter(requests))]
    assert sorted(done) == list(range(17))
    assert engine.given[0] == [0, 1, 2]
    assert list(itertools.chain(*engine.given)) == list(range(17))
    torn = [r.id for r in requests if r.same_image_as is not None and any(ids[0] == r.id for ids in engine.given)]
    assert torn == [14], "the image of seven captions alone, after five of them"
