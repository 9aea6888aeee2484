import pytest
import torch

from recap_fast.generate.torch_backend import threads
from recap_fast.generate.torch_backend.threads import (
    LONGEST_PAUSE_S,
    PAUSE_S,
    TRIAL_S,
    WINDOW_S,
    StepThreads,
    TeamSize,
)


def after(size, seconds, cpus):
    """The threads after one step that long, whose threads shared so many processors."""
    size.note(seconds, seconds * min(cpus, size.threads))
    return size.threads


@pytest.mark.parametrize(
    ("most", "cpus", "had", "threads"),
    [
        (2, 2, 2.0, 2),  # alone
        (2, 2, 1.7, 2),  # held up now and then
        (2, 2, 1.3, 1),  # beside one busy process
        (2, 2, 0.9, 1),  # beside one a processor
        (16, 16, 13.0, 16),
        (16, 16, 12.4, 12),
        (16, 16, 0.3, 1),
        (2, 1.5, 1.4, 2),  # nearly all of its quota
        (2, 1.5, 1.0, 1),
        (1, 2, 0.4, 1),
        (1, 0.5, 0.1, 1),
    ],
)
def test_no_more_threads_than_the_processors_that_they_had(most, cpus, had, threads):
    assert after(TeamSize(most, cpus), WINDOW_S, had) == threads


def test_one_slow_step_changes_nothing():
    size = TeamSize(2, 2)
    assert after(size, 0.1 * WINDOW_S, 0) == 2
    assert after(size, 0.9 * WINDOW_S, 2) == 2


def test_all_threads_are_tried_again_and_kept_once_the_processors_are_free():
    size = TeamSize(2, 2)
    assert after(size, WINDOW_S, 1) == 1
    assert after(size, 0.9 * PAUSE_S, 1) == 1
    assert after(size, 0.2 * PAUSE_S, 1) == 2
    assert after(size, 0.5 * TRIAL_S, 1) == 2  # too short to tell
    assert after(size, 9.5 * TRIAL_S, 2) == 2
    assert after(size, WINDOW_S, 2) == 2


@pytest.mark.parametrize(("trial_s", "pause_s"), [(TRIAL_S, 2.0), (0.2, 4.0), (1.0, 20.0), (7.0, LONGEST_PAUSE_S)])
def test_trials_in_vain_take_a_twentieth_of_the_time(trial_s, pause_s):
    size = TeamSize(2, 2)
    after(size, WINDOW_S, 1)
    after(size, PAUSE_S, 1)
    for _ in range(2):
        assert after(size, trial_s, 1) == 1
        assert after(size, 0.9 * pause_s, 1) == 1
        assert after(size, 0.2 * pause_s, 1) == 2


def test_after_a_trial_that_succeeded_the_next_pause_is_short_again():
    size = TeamSize(2, 2)
    after(size, WINDOW_S, 1)
    after(size, PAUSE_S, 1)
    assert after(size, 1.0, 1) == 1
    assert after(size, 20.5, 1) == 2
    assert after(size, TRIAL_S, 2) == 2
    assert after(size, WINDOW_S, 1) == 1
    assert after(size, PAUSE_S, 1) == 2


def test_a_step_has_its_threads_and_torch_gets_its_own_back(monkeypatch):
    monkeypatch.setattr(threads, "num_cpu_threads", lambda: 3)
    before = torch.get_num_threads()
    with StepThreads().use():
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
