"""Executes a plan: opens the engine, runs the pipeline, says how it went and gives the result."""

import time
from contextlib import closing

from recap_fast.errors import ConfigError
from recap_fast.launch.conclusion import conclude, conclude_drained
from recap_fast.launch.config import RunConfig
from recap_fast.launch.messages import announce, describe, say_held, say_part, summarize
from recap_fast.launch.observers import Observers
from recap_fast.launch.plan import Plan, plan, without_collections
from recap_fast.launch.reporter import Reporter
from recap_fast.launch.result import RunResult
from recap_fast.launch.signals import Signals
from recap_fast.pipeline.counters import RunCounters
from recap_fast.pipeline.pipeline import Pipeline
from recap_fast.write.ledger import Ledger, Pending

WINDOW_SLOTS = 4
"""Samples read and not yet written in order, in multiples of the slots: a caption of the longest kind sits in its slot
while some three of mean length come and go in each of the others."""


def run(config: RunConfig, reporter: Reporter, signals: Signals | None = None) -> RunResult:
    """Captions what is to be captioned. Raises ConfigError, InputError, EngineError and OSError.

    `signals` that are handled drain the run; Stopped where one comes before there is anything to drain. Where they are,
    the process is the run's own, and its device counts as held since the process began.
    """
    with closing(plan(config)) as made:
        return execute(made, reporter, signals)


def execute(plan: Plan, reporter: Reporter, signals: Signals | None = None) -> RunResult:
    """Does what was planned; see `run`."""
    with closing(Observers(plan, reporter, is_own_process=signals is not None)) as observers:
        return _execute(plan, reporter, signals, observers)


def _execute(plan: Plan, reporter: Reporter, signals: Signals | None, observers: Observers) -> RunResult:
    with without_collections():
        ledger = plan.ledger.open()
    num_pruned, pending = plan.prune(ledger, ledger.pending(plan.mine(ledger.shards)))
    if num_pruned:
        rows = "1 row of an image that is gone" if num_pruned == 1 else f"{num_pruned:,} rows of images that are gone"
        reporter.event("pruned", f"pruned   {rows}", rows=num_pruned)
    if not pending:
        return conclude(plan, ledger, (), None, reporter)
    num_rows, kept = plan.count_images(pending), plan.count_kept(ledger, pending)
    counters = RunCounters(
        len(pending), num_rows=num_rows, kept=kept, limit=plan.config.limit, held_since=observers.held_since
    )
    mine = [shard.name for shard in plan.mine(ledger.shards)]
    with observers.informed(ledger.output, mine, counters.snapshot):
        return _caption(plan, ledger, pending, counters, reporter, observers, signals)


def _caption(
    plan: Plan,
    ledger: Ledger,
    pending: list[Pending],
    counters: RunCounters,
    reporter: Reporter,
    observers: Observers,
    signals: Signals | None,
) -> RunResult:
    """Captions these shards."""
    _start(plan, ledger, pending, reporter)
    pipeline = _make_pipeline(plan, ledger, counters)
    describe(ledger.output, plan.captioner)
    if signals is not None:
        signals.drain_with(pipeline.drain)
    with reporter.progress(counters), observers.watching(pipeline):
        reports = pipeline.run([p.shard for p in pending])
    describe(ledger.output, plan.captioner)  # once more: other shards are finished now
    summarize(reporter, counters.snapshot(), plan.captioner, ledger.output)
    say_held(reporter, observers.work())
    if pipeline.drained:
        return conclude_drained(plan, reports, counters, reporter)
    return conclude(plan, ledger, reports, counters, reporter)


def _start(plan: Plan, ledger: Ledger, pending: list[Pending], reporter: Reporter) -> None:
    started, captioner = time.monotonic(), plan.captioner
    try:
        say_part(reporter, plan.part, captioner.check())
        announce(reporter, captioner, pending, len(ledger.shards))
        captioner.start()
    except ConfigError:
        ledger.forget_unused()
        raise
    reporter.event("engine", f"engine   {captioner.engine.describe()}; ready in {time.monotonic() - started:.1f} s")


def _make_pipeline(plan: Plan, ledger: Ledger, counters: RunCounters) -> Pipeline:
    window = WINDOW_SLOTS * plan.captioner.engine.free_slots + 512
    return Pipeline(plan.open_shard, plan.captioner, ledger, counters, limit=plan.config.limit, window=window)
