"""Which images a sample has."""

import numpy as np

from recap_fast.score.sample import Sample

ROWS = np.arange(1_000_000)


def test_it_has_about_so_many_and_the_same_ones_each_time():
    chosen = Sample(10_000, 7).chosen("00000", ROWS, len(ROWS))
    assert abs(chosen.sum() - 10_000) < 300  # three standard deviations; the numbers are always the same
    assert np.array_equal(chosen, Sample(10_000, 7).chosen("00000", ROWS, len(ROWS)))
    parts = [Sample(10_000, 7).chosen("00000", part, len(ROWS)) for part in np.array_split(ROWS, 7)]
    assert np.array_equal(chosen, np.concatenate(parts))


def test_another_seed_or_shard_has_others():
    first = Sample(500_000, 7).chosen("00000", ROWS, len(ROWS))
    for other in (Sample(500_000, 8).chosen("00000", ROWS, len(ROWS)), Sample(500_000, 7).chosen("1", ROWS, len(ROWS))):
        assert abs((first == other).mean() - 0.5) < 0.002


def test_a_larger_sample_has_all_of_a_smaller_one():
    small, large = (Sample(number).chosen("a", ROWS, len(ROWS)) for number in (1000, 5000))
    assert small.sum() == (small & large).sum()


def test_more_than_there_are_is_all():
    assert Sample(2000).chosen("a", ROWS[:1000], 1000).all()
    assert Sample(2000).expected(300, 1000) == 300
    assert Sample(100).expected(500, 1000) == 50
    assert Sample(1).chosen("a", ROWS[:0], 0).shape == (0,)
