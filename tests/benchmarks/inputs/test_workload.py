"""inputs/workload.py: lengths, and how far captions agree."""

import statistics

import pytest

from inputs import workload


def test_varied_lengths_are_log_normal_and_clipped():
    lengths = workload.varied_lengths(20_000)
    assert (min(lengths), max(lengths)) == (16, 128)
    assert statistics.median(lengths) == pytest.approx(44, abs=1)
    assert statistics.mean(lengths) == pytest.approx(44 * 2.718 ** (0.55**2 / 2), rel=0.05)


def test_varied_lengths_are_the_same_each_time():
    assert workload.varied_lengths(50) == workload.varied_lengths(50)
    assert workload.varied_lengths(50) != workload.varied_lengths(50, seed=1)


def test_agreement_counts_equal_captions_and_the_tokens_before_a_difference():
    found = workload.agreement([[1, 2, 3], [4, 9, 6], [7]], [[1, 2, 3], [4, 5, 6], [8]])
    assert found == {"equal_captions": 1 / 3, "mean_equal_tokens": (3 + 1 + 0) / 3}


def test_agreement_counts_captions_that_end_too_early():
    found = workload.agreement([[1, 2, 3], [1, 2], [4, 5]], [[1, 2, 3], [1, 2, 3], [4, 6]])
    assert found == {"equal_captions": pytest.approx(1 / 3), "mean_equal_tokens": pytest.approx((3 + 2 + 1) / 3)}
