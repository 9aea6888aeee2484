"""A run in this process: opens the engine, runs the pipeline and says how it went."""

import time

from recap_fast.launch.conclusion import conclude, conclude_drained
from recap_fast.launch.joining import make_pipeline
from recap_fast.launch.messages import announce, describe, say_held, say_part, summarize
from recap_fast.launch.observers import Observers
from recap_fast.launch.plan import Plan
from recap_fast.launch.reporter import Reporter
from recap_fast.launch.result import RunResult
from recap_fast.launch.signals import Signals
from recap_fast.pipeline.counters import RunCounters
from recap_fast.write.ledger import Ledger, Pending


def caption(
    plan: Plan,
    ledger: Ledger,
    pending: list[Pending],
    reporter: Reporter,
    observers: Observers,
    signals: Signals | None,
) -> RunResult:
    """Captions these shards. Raises as `execute.run`."""
    num_rows, kept, config = plan.count_images(pending), plan.count_kept(ledger, pending), plan.config
    counters = RunCounters(
        len(pending), num_rows=num_rows, kept=kept, limit=config.limit, held_since=observers.held_since
    )
    mine = [shard.name for shard in plan.mine(ledger.shards)]
    with observers.informed(ledger.output, mine, counters.snapshot):
        _start(plan, ledger, pending, reporter)
        pipeline = make_pipeline(plan.captioner, ledger, counters, config)
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
    say_part(reporter, plan.part, captioner.check())
    announce(reporter, captioner, pending, len(ledger.shards))
    captioner.start()
    reporter.event("engine", f"engine   {captioner.engine.describe()}; ready in {time.monotonic() - started:.1f} s")
