"""benchmarks/workload.py: the lengths, the check that makes a comparison worth something, and recap-fast's run."""

import statistics

import pytest
import workload


def test_fixed_lengths_are_64():
    assert workload.fixed_lengths(3) == [64, 64, 64]


def test_varied_lengths_are_log_normal_and_clipped():
    lengths = workload.varied_lengths(20_000)
    assert (min(lengths), max(lengths)) == (16, 128)
    assert statistics.median(lengths) == pytest.approx(44, abs=1)
    assert statistics.mean(lengths) == pytest.approx(44 * 2.718 ** (0.55**2 / 2), rel=0.05)


def test_varied_lengths_are_the_same_each_time():
    assert workload.varied_lengths(50) == workload.varied_lengths(50)
    assert workload.varied_lengths(50) != workload.varied_lengths(50, seed=1)


def test_check_accepts_equal_captions():
    workload.check("x", [[1, 2], [3]], [2, 1], [[1, 2], [3]])


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([[1, 2]], "x returned 1 captions for 2 images"),
        ([[1], [3]], "x, image 0: 1 tokens, 2 were asked for"),
        ([[1, 2], [3, 4]], "x, image 1: 2 tokens, 1 were asked for"),
        ([[1, 9], [3]], "x, image 0: token 1 is 9, in the first captions it is 2"),
    ],
)
def test_check_refuses_what_differs(captions, message):
    with pytest.raises(workload.MismatchError, match=message):
        workload.check("x", captions, [2, 1], [[1, 2], [3]])
