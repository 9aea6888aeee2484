"""What a run will take: worked examples, and numbers that cannot be."""

import pytest

from recap_fast.errors import ConfigError
from recap_fast.launch.estimate import Estimate, estimate
from recap_fast.launch.remaining import Done
from recap_fast.launch.speeds import Speed
from recap_fast.records import Selection
from recap_fast.shards.census import Census, Extrapolation, Tally

EXAMPLE = Census(
    counted={"stats": Tally(9_000, 90_000_000, 4_500_000_000_000)},
    estimated=(Extrapolation(Tally(1_000, 10_000_000, 500_000_000_000), Tally(16, 160_000, 8_000_000_000), 0.01),),
    unreadable=Tally(8, 0, 12),
    problems=(),
)
SPEED = Speed(100.0, "as given")


def made(**changed):
    given = {"census": EXAMPLE, "done": Done(), "speed": SPEED, "workers": 8, "price_per_hour": 2.5}
    return Estimate(**{**given, **changed})


def test_a_worked_example():
    found = made()
    assert found.census.total == Tally(10_008, 100_000_000, 5_000_000_000_012)
    # 100 million images at 100 a second are 1,000,000 s; 8 workers have 1,250 of 10,000 shards each
    assert found.gpu_hours == pytest.approx(1_000_000 / 3600)
    assert found.seconds == pytest.approx(125_000)
    # 277.8 hours at $2.50
    assert found.dollars == pytest.approx(694.44, abs=0.01)
    assert found.dollars_per_million == pytest.approx(6.9444, abs=0.0001)
    assert found.output_bytes == 215 * 100_000_000


@pytest.mark.parametrize(("workers", "rounds"), [(1, 10), (3, 4), (9, 2), (10, 1), (1000, 1)])
def test_a_shard_is_done_by_one_worker(workers, rounds):
    census = Census(counted={"footer": Tally(10, 1_000, 50)}, estimated=(), unreadable=Tally(), problems=())
    assert made(census=census, workers=workers).seconds == pytest.approx(rounds * 1.0)


def test_a_row_is_as_long_as_those_that_are_done():
    found = made(done=Done(shards=2, rows=50, size_bytes=20_000))
    assert (found.row_bytes, found.output_bytes) == (400.0, 400 * 100_000_000)


def test_what_follows_from_an_unknown_number_is_unknown():
    unknown = made(speed=None)
    assert (unknown.gpu_hours, unknown.seconds, unknown.dollars, unknown.dollars_per_million) == (None,) * 4
    assert unknown.output_bytes > 0
    free = made(price_per_hour=None)
    assert free.gpu_hours is not None
    assert (free.dollars, free.dollars_per_million) == (None, None)


def test_where_nothing_is_left_nothing_is_taken():
    nothing = made(census=Census(counted={}, estimated=(), unreadable=Tally(), problems=()))
    assert (nothing.gpu_hours, nothing.seconds, nothing.dollars, nothing.output_bytes) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, "--workers 0: give a count of at least 1."),
        ({"price_per_hour": -1.0}, "--price-per-hour -1: give dollars, 0 or more."),
        ({"price_per_hour": float("nan")}, "--price-per-hour nan: give dollars, 0 or more."),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_listed(given, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        estimate(["/nowhere"], Selection(), **given)
