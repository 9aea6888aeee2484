"""A worker with a real engine, in this process: its line to the coordinator is the coordinator itself."""

import logging
from contextlib import closing
from dataclasses import replace

import pytest
from support.guard import wait_until
from support.launches import Launch, make_config
from support.runs import read_done, read_rows, write_pictures

from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.launch.cluster.coordinator import Coordinator
from recap_fast.launch.cluster.protocol import Memory, pack
from recap_fast.launch.cluster.task import Task
from recap_fast.launch.cluster.worker import Worker
from recap_fast.launch.plan import plan
from recap_fast.machine import cpu_model
from recap_fast.write.merge import read_made_with

NUM_SHARDS, NUM_SAMPLES = 5, 6


class Work:
    """An opened output, a coordinator with its shards, and workers."""

    def __init__(self, config):
        with closing(plan(config)) as planned:
            self.ledger = planned.ledger.open()
        self.shards = [each.shard for each in self.ledger.pending()]
        self.task = Task.of(config, self.ledger, decoder="pillow", on_gpus=False)
        self.tell()

    def tell(self, **known):
        """Starts a coordinator that knows this."""
        self.coordinator = Coordinator()
        self.coordinator.add({shard.name: pack(shard) for shard in self.shards})
        self.coordinator.learn(replace(Memory(workers={}, ended=(), given=(), deaths={}, gone=()), **known))

    def work(self, name="1", task=None):
        """Has a worker do what there is; its outcome, and what the driver hears."""
        self.worker = Worker(task or self.task, self.coordinator, name, "node")
        outcome = self.worker.run()
        return outcome, self.coordinator.state().heard[name]


@pytest.fixture(autouse=True)
def own_logger():
    """A worker has a process, and its logger, to itself."""
    logger = logging.getLogger("recap_fast")
    before = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = before


@pytest.fixture
def inputs(tmp_path):
    return write_pictures(tmp_path / "in", NUM_SHARDS, NUM_SAMPLES, bad=(2,))


@pytest.fixture
def config(tiny_engine, inputs):
    return make_config(tiny_engine, inputs, ray="local")


@pytest.fixture
def work(config):
    return Work(config)


def test_it_captions_what_it_is_given_as_one_process_does(work, tiny_engine, inputs, tmp_path):
    outcome, heard = work.work()
    assert (outcome.error, outcome.failure) == (None, None)
    assert outcome.statistics.images == NUM_SHARDS * (NUM_SAMPLES - 1)
    assert [(each.shard, each.status) for each in heard.reports] == [
        (f"{n:05d}", "complete") for n in range(NUM_SHARDS)
    ]
    assert heard.message.holds == ()
    assert heard.message.engine.startswith("torch")
    assert 0 < heard.message.boot_s <= heard.message.age_s
    tally = heard.message.tally
    assert (tally.new_shards, tally.new_rows, tally.kept) == (NUM_SHARDS, NUM_SHARDS * NUM_SAMPLES, 0)
    assert (tally.snapshot.rows, tally.snapshot.failed) == (NUM_SHARDS * NUM_SAMPLES, {"not_an_image": NUM_SHARDS})
    Launch(make_config(tiny_engine, inputs, output=str(tmp_path / "alone")))
    assert read_rows(tmp_path / "out") == read_rows(tmp_path / "alone")
    (made_with,) = read_made_with(tmp_path / "out/data/00000.parquet")
    assert [made_with] == read_made_with(tmp_path / "alone/data/00000.parquet")
    assert made_with["machine"].startswith(cpu_model())


def test_what_another_one_had_is_looked_for_first_and_counted_once(work, tmp_path):
    finished, begun, *new = (shard.name for shard in work.shards)
    work.tell(ended=(begun, *new))
    work.work("1")
    record = read_done(tmp_path / "out", finished)
    work.tell(given=(finished, begun))
    _, heard = work.work("2")
    assert {each.shard for each in heard.reports} == {finished, begun, *new}
    assert read_done(tmp_path / "out", finished) == record  # nobody has made it again
    tally = heard.message.tally
    assert (tally.new_shards, tally.new_rows) == (len(new), len(new) * NUM_SAMPLES)
    assert tally.snapshot.rows == (1 + len(new)) * NUM_SAMPLES


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"background": "white"}, "background: None in the run, 'white' here"), ({"prompt": ("What?",)}, "prompt: ")],
)
def test_one_that_would_make_other_rows_ends_the_run(work, changed, named):
    outcome, heard = work.work(task=replace(work.task, config=replace(work.task.config, **changed)))
    assert isinstance(outcome.error, ConfigError)
    assert "a worker would make other rows than the run:" in str(outcome.error)
    assert named in str(outcome.error)
    assert heard.message.holds == ()


def test_an_engine_that_is_not_there_ends_the_run(work, tmp_path):
    config = replace(work.task.config, engine=tmp_path / "nowhere")
    outcome, _ = work.work(task=replace(work.task, config=config))
    assert isinstance(outcome.error, ConfigError)
    assert "nowhere" in str(outcome.error)


@pytest.mark.parametrize(
    ("error", "failure"), [(EngineError("no memory"), "no memory"), (TypeError("x"), "TypeError: x")]
)
def test_one_that_breaks_says_why_and_what_it_held(work, monkeypatch, error, failure):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(TorchEngine, "step", broken)
    outcome, heard = work.work()
    assert (outcome.error, outcome.failure) == (None, failure)
    assert heard.reports
    assert {each.status for each in heard.reports} == {"interrupted"}
    assert [saying.text.splitlines()[0] for saying in heard.said] == ["a worker broke"] * isinstance(error, TypeError)


def test_it_drains_when_it_is_told_to_and_others_go_on(work, tmp_path, monkeypatch):
    step = TorchEngine.step

    def last_step(engine, **more):
        pipeline = work.worker._pipeline
        wait_until(lambda: pipeline.drained or len(work.worker._counters.snapshot().gauges.open_shards) > 1)
        work.worker.drain(60.0)
        return step(engine, **more)

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "step", last_step)
        outcome, heard = work.work("1")
    assert (outcome.error, outcome.failure) == (None, None)
    assert "interrupted" in {each.status for each in heard.reports}
    assert work.coordinator.state().pending > 0
    work.coordinator.lost("1", is_fault=False)
    work.work("2")
    assert len(read_rows(tmp_path / "out")) == NUM_SHARDS * NUM_SAMPLES


def test_one_that_is_told_to_end_before_its_engine_is_open_takes_nothing(work):
    work.coordinator.drain(60.0)
    outcome, heard = work.work()
    assert (outcome.error, outcome.failure, heard.reports) == (None, None, [])
    assert work.coordinator.state().pending == NUM_SHARDS


def test_what_it_warns_of_reaches_the_driver(work, inputs):
    (inputs / "00003.tar").write_bytes(b"no tar")
    _, heard = work.work()
    assert "00003" in " ".join(saying.text for saying in heard.said)
    assert {each.shard for each in heard.reports if each.status == "failed"} == {"00003"}


def test_a_limit_is_the_workers(config):
    work = Work(replace(config, limit=8))
    _, heard = work.work()
    assert heard.message.tally.snapshot.rows == 8
    assert [each.status for each in heard.reports] == ["complete", "interrupted"]
