import pytest

from recap_fast.launch.cluster.fleet import BootTimes, Fleet


def fleet(**changed):
    return Fleet(**{"placed": 3, "starting": 0, "fits": 2, "pending": 100, **changed})


@pytest.mark.parametrize(
    ("changed", "least", "most", "wanted"),
    [
        ({}, 0, None, 3),  # what fits, and one more that an autoscaler sees
        ({"fits": 0}, 0, None, 1),
        ({"fits": 0}, 10, None, 7),
        ({"fits": 0}, 0, 8, 5),  # all at once
        ({"fits": 9}, 0, 8, 5),
        ({"placed": 9}, 0, 8, 0),
        ({"pending": 2}, 0, 8, 2),
        ({"pending": 2}, 10, None, 2),
        ({"pending": 2, "starting": 1}, 0, None, 1),  # the one that starts will take one
        ({"pending": 0}, 10, None, 0),
        ({"boot_s": 60.0, "rest_s": 59.0}, 10, None, 0),
        ({"boot_s": 60.0, "rest_s": 61.0}, 0, None, 3),
        ({"boot_s": 60.0, "rest_s": 1.0, "placed": 0}, 0, None, 3),  # nobody else is there
        ({"boot_s": 60.0}, 0, None, 3),
    ],
)
def test_how_many_workers_are_wanted(changed, least, most, wanted):
    assert fleet(**changed).wanted(least, most) == wanted


def test_those_that_wait_are_withdrawn_where_they_would_come_too_late():
    assert fleet(boot_s=60.0, rest_s=59.0).useful == 0
    assert fleet(pending=2).useful == 2


def test_the_usual_boot_time_is_the_median():
    times = BootTimes()
    assert (times.usual, len(times)) == (None, 0)
    for worker, seconds in (("1", 10.0), ("2", 90.0), ("3", 20.0), ("3", 21.0)):
        times.note(worker, seconds)
    assert (times.usual, len(times)) == (21.0, 3)
