import logging
from dataclasses import replace

import pytest
from support.coordination import FakeWorker, begin, report
from support.guard import wait_until

from recap_fast.launch.cluster.link import MAX_SAID, Forwarding, Link
from recap_fast.launch.cluster.protocol import Answer, Saying, Tally
from recap_fast.pipeline.counters import RunCounters


class Told:
    """A line to a coordinator that keeps what was said; where it breaks, nothing is answered."""

    def __init__(self, coordinator):
        self.coordinator, self.messages, self.is_broken = coordinator, [], False

    def take(self, message):
        return self._call(self.coordinator.take, message)

    def beat(self, message):
        return self._call(self.coordinator.beat, message)

    def _call(self, method, message):
        self.messages.append(message)
        if self.is_broken:
            raise ConnectionError("broken on purpose")
        return method(message)


@pytest.fixture
def line():
    return Told(begin("a", "b", "c"))


@pytest.fixture
def drained():
    return []


@pytest.fixture
def link(line, drained):
    return Link(line, FakeWorker("1").message(), lambda: 5.0, drained.append)


def test_shards_come_one_at_a_time_and_what_was_given_is_said_with_the_next_call(link, line):
    names = [shard.name for shard, _ in link.shards(lambda: True)]
    assert names == ["a", "b", "c"]
    assert [message.holds for message in line.messages] == [(), ("a",), ("a", "b"), ("a", "b", "c")]
    assert line.messages[0].age_s == 5.0


def test_no_shard_is_asked_for_before_there_is_room(link, line):
    room = iter([False, False, True, False, True, True, True])
    assert len(list(link.shards(lambda: next(room)))) == 3
    assert next(room, None) is None


def test_reports_are_said_once_and_their_shards_are_held_no_more(link, line):
    news = [[], [report("a")], [], []]
    link.new_reports = lambda: news.pop(0)
    shards = link.shards(lambda: True)
    next(shards)
    next(shards)
    next(shards)
    said = [([each.shard for each in message.reports], message.holds) for message in line.messages]
    assert said == [([], ()), (["a"], ()), ([], ("b",))]


def test_one_that_was_started_again_is_told_all_reports(link, line):
    shards = link.shards(lambda: True)
    next(shards)
    link.report(report("a"))
    next(shards)
    line.coordinator = begin("c", ended=("a", "b"))
    next(shards)
    next(shards, None)
    next(shards, None)
    assert [[each.shard for each in message.reports] for message in line.messages] == [[], ["a"], [], ["a"]]


def test_the_names_of_loose_images_do_not_cross(link, line):
    link.report(replace(report("a"), files={"x.jpg": "1:2"}))
    list(link.shards(lambda: True))
    assert line.messages[0].reports[0].files == {}


def test_draining_ends_the_shards_and_says_how_long_there_is(link, line, drained):
    line.coordinator.drain(3.0)
    assert list(link.shards(lambda: True)) == []
    assert drained == [3.0]


def test_it_waits_where_a_shard_may_come_later(link, line):
    answers = [Answer(instance="x", wait=True, pause_s=0.0), Answer(instance="x")]
    line.take = lambda message: answers.pop(0)
    assert list(link.shards(lambda: True)) == []
    assert answers == []


def test_log_records_go_with_the_next_call_and_the_oldest_are_dropped(link, line):
    logger = logging.getLogger("recap_fast.of_a_worker")
    handler = Forwarding(link)
    logger.addHandler(handler)
    try:
        logger.warning("shard %s: %s", "a", "https://me:secret@host/a.tar")
        logger.error("it broke", exc_info=ValueError("bad"))
    finally:
        logger.removeHandler(handler)
    list(link.shards(lambda: True))
    first, second = line.messages[0].said
    assert (first.level, first.logger) == (logging.WARNING, "recap_fast.of_a_worker")
    assert "secret" not in first.text
    assert second.text == "it broke\nValueError: bad"
    assert line.messages[1].said == ()
    for number in range(MAX_SAID + 5):
        link.say(Saying(30, "x", str(number)))
    line.coordinator = begin()
    list(link.shards(lambda: True))
    assert [saying.text for saying in line.messages[-1].said] == [str(5 + number) for number in range(MAX_SAID)]


def test_it_beats_from_the_beginning_to_the_end_with_what_is_known_last(link, line):
    tally = Tally(snapshot=RunCounters(0).snapshot())
    with link.beating():
        link.describe(boot_s=7.0, engine="an engine")
        link.tally = lambda: tally
        link.report(report("a"))
    last = line.messages[-1]
    assert (last.boot_s, last.engine, last.tally) == (7.0, "an engine", tally)
    assert [each.shard for message in line.messages for each in message.reports] == ["a"]
    assert list(link.shards(lambda: True)) == []


def test_without_a_coordinator_the_worker_ends(link, line, drained):
    line.is_broken = True
    beating = link.beating()
    beating.__enter__()
    wait_until(lambda: drained)
    with pytest.raises(ConnectionError):
        beating.__exit__(None, None, None)
    assert drained == [0.0]
