import pytest
from support.coordination import Clock

from recap_fast.errors import EngineError
from recap_fast.launch.cluster.judge import FORGIVEN_S, MAX_DEATHS_IN_A_ROW, MAX_FAILURES, Judge


def fail(judge, num, **told):
    for _ in range(num):
        judge.count("out of memory", **told)


def test_three_workers_that_break_in_a_row_end_the_run():
    judge = Judge()
    fail(judge, MAX_FAILURES - 1, deaths=(), is_broken=True)
    with pytest.raises(EngineError, match=r"3 workers in a row broke.*The last one: out of memory"):
        judge.count("out of memory", (1, 1), is_broken=True)


def test_a_shard_that_is_finished_shows_that_workers_work():
    judge = Judge()
    for _ in range(5):
        fail(judge, MAX_FAILURES - 1, deaths=(1,), is_broken=True)
        judge.finished("a")


def test_processes_that_die_with_a_suspect_are_explained_by_it():
    judge = Judge()
    fail(judge, 100, deaths=(2,), is_broken=False)
    fail(judge, MAX_DEATHS_IN_A_ROW - 1, deaths=(1, 2), is_broken=False)
    with pytest.raises(EngineError, match="12 workers in a row broke"):
        judge.count("killed", (1,), is_broken=False)


def test_deaths_are_remembered_until_the_shard_is_finished():
    judge = Judge()
    judge.blame("node", {"a": 1, "b": 1})
    judge.blame("node", {"a": 2})
    assert judge.deaths == {"a": 2, "b": 1}
    judge.finished("b")
    assert judge.deaths == {"a": 2}


def test_deaths_shortly_before_that_of_their_node_are_taken_back():
    clock = Clock()
    judge = Judge(clock)
    judge.blame("gone", {"a": 1})
    clock.now += FORGIVEN_S + 1
    judge.blame("gone", {"a": 2, "b": 1})
    judge.blame("alive", {"c": 1})
    assert judge.suspects_nodes
    assert set(judge.forgive({"gone"})) == {"a", "b"}
    assert judge.deaths == {"a": 1, "c": 1}
    assert judge.forgive({"gone"}) == ()
    clock.now += FORGIVEN_S + 1
    assert not judge.suspects_nodes
