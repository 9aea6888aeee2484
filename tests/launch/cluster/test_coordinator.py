from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import examples
from support.coordination import Clock, FakeWorker, begin, make_shards, report

from recap_fast.launch.cluster.coordinator import MAX_DEATHS, MAX_SAID, RECOVERY_S, Coordinator
from recap_fast.launch.cluster.protocol import Memory, Saying


def test_shards_are_handed_out_in_order_one_at_a_time_until_none_is_left():
    coordinator = begin("a", "b", "c")
    first, second = FakeWorker("1"), FakeWorker("2")
    assert [first.takes(coordinator), second.takes(coordinator), first.takes(coordinator)] == ["a", "b", "c"]
    assert second.takes(coordinator) is None
    assert (coordinator.state().pending, coordinator.state().held) == (0, 3)


def test_what_a_dead_worker_held_goes_to_others_before_what_is_new():
    coordinator = begin("a", "b", "c", "d")
    first, second = FakeWorker("1"), FakeWorker("2")
    first.take(coordinator)
    first.take(coordinator)
    coordinator.lost("1", is_fault=False)
    assert {second.takes(coordinator), second.takes(coordinator)} == {"a", "b"}
    assert second.takes(coordinator) == "c"


def test_a_shard_that_was_given_before_is_said_to_be():
    coordinator = begin("a", "b")
    first, second = FakeWorker("1"), FakeWorker("2")
    assert not first.take(coordinator).again
    coordinator.lost("1", is_fault=False)
    assert second.take(coordinator).again
    assert not second.take(coordinator).again


def test_what_is_reported_is_handed_out_no_more_and_what_was_interrupted_is():
    coordinator = begin("a", "b")
    first, second = FakeWorker("1"), FakeWorker("2")
    first.take(coordinator)
    assert first.takes(coordinator, report("a", "truncated")) == "b"
    first.beat(coordinator, report("b", "interrupted"))
    coordinator.lost("1", is_fault=False)
    assert second.takes(coordinator) == "b"
    assert second.takes(coordinator, report("b")) is None
    assert (coordinator.state().pending, coordinator.state().held) == (0, 0)


def test_a_suspect_comes_last_alone_and_with_the_names_of_the_dead():
    coordinator = begin("a", "b")
    FakeWorker("1").take(coordinator)
    coordinator.lost("1", is_fault=True)
    second = FakeWorker("2")
    assert second.takes(coordinator) == "b"
    assert second.takes(coordinator) == "wait"
    answer = second.take(coordinator, report("b"))
    assert (second.holds, answer.dead, answer.again) == (["a"], ("owner of 1",), True)


def test_a_worker_with_a_suspect_is_given_nothing_else():
    coordinator = begin("a", "b")
    FakeWorker("1").take(coordinator)
    FakeWorker("2").take(coordinator)
    coordinator.lost("1", is_fault=True)
    third = FakeWorker("3")
    assert third.takes(coordinator) == "a"
    coordinator.lost("2", is_fault=False)
    assert third.takes(coordinator) == "wait"
    assert third.takes(coordinator, report("a")) == "b"


def test_after_three_deaths_a_shard_is_condemned_and_the_one_that_died_with_it_is_not():
    coordinator = begin("a", "b")
    first = FakeWorker("first")
    first.take(coordinator)
    first.take(coordinator)
    assert coordinator.lost("first", is_fault=True).deaths == {"a": 1, "b": 1}
    for deaths in range(2, MAX_DEATHS + 1):
        worker = FakeWorker(f"number {deaths}")
        name = worker.takes(coordinator)
        if name == "b":  # it does no harm
            assert worker.takes(coordinator, report("b")) == "a"
        lost = coordinator.lost(worker.name, is_fault=True)
        assert (lost.deaths, lost.condemned) == ({"a": deaths}, ("a",) * (deaths == MAX_DEATHS))
    assert FakeWorker("last").takes(coordinator) is None
    assert (coordinator.state().pending, coordinator.state().held) == (0, 0)


def test_deaths_of_nodes_count_for_nothing_and_are_forgiven_later():
    coordinator = begin("a")
    for number in range(5):
        FakeWorker(str(number)).take(coordinator)
        assert coordinator.lost(str(number), is_fault=False).deaths == {}
    FakeWorker("x").take(coordinator)
    coordinator.lost("x", is_fault=True)
    coordinator.forgive(("a", "unknown"))
    worker = FakeWorker("y")
    assert worker.takes(coordinator) == "a"
    assert coordinator.lost("y", is_fault=True).deaths == {"a": 1}


def test_a_suspect_goes_to_the_node_where_the_last_process_died_with_it_if_a_worker_is_there():
    coordinator = begin("a", "b")
    FakeWorker("1", "here").take(coordinator)
    coordinator.lost("1", is_fault=True)
    near, far = FakeWorker("2", "here"), FakeWorker("3", "there")
    near.take(coordinator)
    assert far.takes(coordinator) is None
    assert near.takes(coordinator, report("b")) == "a"
    coordinator.lost("2", is_fault=False)
    assert far.takes(coordinator) == "a"


def test_what_a_worker_says_that_it_holds_is_what_it_holds():
    coordinator = begin("a", "b")
    worker = FakeWorker("1")
    worker.take(coordinator)
    worker.holds.clear()  # the answer was lost on its way
    assert worker.takes(coordinator) == "a"


def test_one_that_was_taken_for_dead_is_told_to_end():
    coordinator = begin("a")
    worker = FakeWorker("1")
    worker.take(coordinator)
    coordinator.lost("1", is_fault=False)
    answer = worker.take(coordinator)
    assert (answer.shard, answer.wait, answer.drain_s) == (None, False, 0.0)
    assert FakeWorker("2").takes(coordinator) == "a"


def test_losing_a_worker_twice_counts_once():
    coordinator = begin("a")
    FakeWorker("1").take(coordinator)
    assert coordinator.lost("1", is_fault=True).deaths == {"a": 1}
    assert coordinator.lost("1", is_fault=True, holds=("a",)).deaths == {}


def test_draining_ends_all_workers_or_some():
    clock = Clock()
    coordinator = begin("a", "b", "c", clock=clock)
    first, second = FakeWorker("1"), FakeWorker("2")
    first.take(coordinator)
    second.take(coordinator)
    coordinator.drain(10.0, ["1", "unknown"])
    clock.now += 4
    answer = first.take(coordinator)
    assert (answer.shard, answer.wait, answer.drain_s) == (None, False, 6.0)
    assert second.beat(coordinator).drain_s is None
    coordinator.drain(5.0)
    clock.now += 9
    assert second.takes(coordinator) is None
    assert second.beat(coordinator).drain_s == 0.0


def test_workers_call_more_seldom_where_they_are_many():
    coordinator = begin()
    pauses = [FakeWorker(str(number)).beat(coordinator).pause_s for number in range(1000)]
    assert (pauses[0], pauses[-1]) == (1.0, 5.0)


def test_the_driver_is_told_once_what_workers_say_and_of_that_no_more_than_it_can_bear():
    coordinator = begin("a")
    worker = FakeWorker("1")
    worker.take(coordinator)
    said = tuple(Saying(30, "logger", str(number)) for number in range(MAX_SAID - 1))
    for _ in range(2):
        coordinator.beat(replace(worker.message(), said=said))
    worker.beat(coordinator, report("a"))
    heard = coordinator.state().heard["1"]
    assert [each.shard for each in heard.reports] == ["a"]
    assert len(heard.said) == MAX_SAID
    assert heard.message == worker.message()
    assert coordinator.state().heard == {}


class TestOneThatWasStartedAgain:
    def test_hands_out_nothing_before_it_has_learned(self):
        coordinator = Coordinator(Clock())
        coordinator.add(make_shards("a"))
        assert coordinator.state().is_lost
        assert FakeWorker("1").takes(coordinator) == "wait"
        assert coordinator.lost("1", is_fault=True) is None

    def test_hears_the_living_before_it_hands_out_anything(self):
        knew = FakeWorker("1", holds=("a",)).message()
        coordinator = begin("a", "b", workers={"1": knew})
        other = FakeWorker("2")
        assert other.takes(coordinator) == "wait"
        assert FakeWorker("1", holds=("a", "b")).takes(coordinator) is None  # it was given b before the other died
        assert other.takes(coordinator) is None

    def test_waits_only_so_long_and_believes_the_driver_then(self):
        clock = Clock()
        coordinator = begin("a", "b", clock=clock, workers={"1": FakeWorker("1", holds=("a",)).message()})
        other = FakeWorker("2")
        clock.now += RECOVERY_S
        assert [other.takes(coordinator), other.takes(coordinator)] == ["b", None]

    def test_does_not_wait_for_one_that_died_meanwhile(self):
        coordinator = begin("a", "b", workers={"1": FakeWorker("1", holds=("a",)).message()})
        other = FakeWorker("2")
        other.take(coordinator)
        assert coordinator.lost("1", is_fault=True).deaths == {"a": 1}
        assert [other.takes(coordinator), other.takes(coordinator)] == ["b", "wait"]

    def test_knows_deaths_ends_and_what_was_given(self):
        coordinator = begin("a", "b", "c", "d", ended=("a",), given=("b", "c"), deaths={"c": 2}, gone=("1",))
        assert FakeWorker("1").beat(coordinator).drain_s == 0.0
        worker = FakeWorker("2")
        answers = [worker.take(coordinator), worker.take(coordinator)]
        assert worker.holds == ["b", "d"]
        assert [answer.again for answer in answers] == [True, False]
        assert worker.takes(coordinator, report("b"), report("d")) == "c"
        assert coordinator.lost("2", is_fault=True).condemned == ("c",)

    def test_what_it_has_given_to_two_ends_once(self):
        coordinator = begin("a", "b")
        late = FakeWorker("1", holds=("a",))
        other = FakeWorker("2")
        assert other.takes(coordinator) == "a"
        late.beat(coordinator)
        late.beat(coordinator, report("a"))
        assert other.takes(coordinator) == "b"
        other.beat(coordinator, report("a"), report("b"))
        assert (coordinator.state().pending, coordinator.state().held) == (0, 0)


class Cluster(RuleBasedStateMachine):
    """Workers and coordinators that come and go at any moment, and a driver that hears of it."""

    NAMES = tuple("abcdefgh")

    @initialize(poison=st.sets(st.sampled_from(NAMES), max_size=2))
    def start(self, poison):
        self.poison, self.clock = poison, Clock()
        self.coordinator = begin(*self.NAMES, clock=self.clock)
        self.workers: dict[str, FakeWorker] = {}
        self.known: dict[str, tuple] = {}
        self.gone, self.ended, self.deaths, self.count, self.made = [], set(), {}, 0, {}

    def listen(self):
        state = self.coordinator.state()
        for name, heard in state.heard.items():
            if name in self.workers:
                self.known[name] = heard.message
            for each in heard.reports:
                if each.status == "complete":
                    self.ended.add(each.shard)
                    self.deaths.pop(each.shard, None)
        return state

    @rule(node=st.sampled_from(("x", "y")))
    def hire(self, node):
        if len(self.workers) < 4:
            self.count += 1
            self.workers[str(self.count)] = FakeWorker(str(self.count), node)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), num_finished=st.integers(0, 2))
    def work(self, data, num_finished):
        """A worker finishes some of what it has and asks for more; one with a shard that kills dies of it."""
        worker = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        if self.poison.intersection(worker.holds):
            self.bury(worker, is_fault=True)
            return
        done = worker.holds[:num_finished]
        for name in done:
            self.made[name] = self.made.get(name, 0) + 1
        worker.take(self.coordinator, *map(report, done))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def lose_node(self, data):
        self.bury(self.workers[data.draw(st.sampled_from(sorted(self.workers)))], is_fault=False)

    def bury(self, worker, is_fault):
        self.listen()
        del self.workers[worker.name]
        message = self.known.pop(worker.name, None)
        holds = message.holds if message else ()
        while (lost := self.coordinator.lost(worker.name, is_fault=is_fault, holds=holds)) is None:
            self.teach()
        self.gone.append(worker.name)
        self.deaths.update(lost.deaths)
        self.ended.update(lost.condemned)
        assert self.poison.issuperset(lost.condemned)

    @rule()
    def lose_coordinator(self):
        self.coordinator = Coordinator(self.clock)

    @rule()
    def supervise(self):
        if self.listen().is_lost:
            self.teach()

    def teach(self):
        self.coordinator.add(make_shards(*(name for name in self.NAMES if name not in self.ended)))
        self.coordinator.learn(
            Memory(
                workers=dict(self.known),
                ended=tuple(self.ended),
                given=(),
                deaths={name: deaths for name, deaths in self.deaths.items() if name not in self.ended},
                gone=tuple(self.gone),
            )
        )

    @rule()
    def wait(self):
        self.clock.now += RECOVERY_S

    @invariant()
    def a_suspect_is_alone(self):
        for worker in self.workers.values():
            if any(self.deaths.get(name, 0) > 1 for name in worker.holds):
                assert len(worker.holds) == 1

    def teardown(self):
        """From any state on, workers that live bring the run to its end, without what kills."""
        for _ in range(200):
            if self.listen().is_lost:
                self.teach()
            self.wait()
            if not self.workers:
                self.hire("x")
            for worker in list(self.workers.values()):
                if self.poison.intersection(worker.holds):
                    self.bury(worker, is_fault=True)
                    continue
                answer = worker.take(self.coordinator, *map(report, list(worker.holds)))
                if answer.shard is None and not answer.wait:
                    self.bury(worker, is_fault=False)
            state = self.listen()
            if not state.is_lost and state.pending + state.held == 0:
                break
        else:
            pytest.fail("the run does not end")
        assert self.ended == set(self.NAMES)


Cluster.TestCase.settings = settings(examples.share(2.0), stateful_step_count=40)
TestCluster = Cluster.TestCase
