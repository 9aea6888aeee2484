"""Executes a plan: opens the engine, runs the pipeline, says how it went and gives the result."""

import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from types import FrameType

from recap_fast.captioner.captioner import Captioner
from recap_fast.errors import ConfigError, ExitCode
from recap_fast.generate.engine import Statistics
from recap_fast.launch.config import RunConfig
from recap_fast.launch.plan import Plan, plan
from recap_fast.launch.reporter import Reporter, duration, failures, progress_fields
from recap_fast.launch.result import RunResult
from recap_fast.pipeline.counters import RunCounters, Snapshot
from recap_fast.pipeline.pipeline import Pipeline
from recap_fast.records import Shard, ShardReport
from recap_fast.shards.identity import identity
from recap_fast.shards.reader import open_shard
from recap_fast.write.card import write_card
from recap_fast.write.ledger import Ledger, Pending
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import forget_unused

WINDOW_SLOTS = 4
"""Samples read and not yet written in order, in multiples of the slots: a caption of the longest kind sits in its slot
while some three of mean length come and go in each of the others."""


def run(config: RunConfig, reporter: Reporter, *, drain_on_signals: bool = False) -> RunResult:
    """Captions what is to be captioned. Raises ConfigError, EngineError and OSError.

    `drain_on_signals`: SIGTERM, SIGINT and SIGUSR1 end the run in good order; only in the main thread.
    """
    with closing(plan(config)) as made:
        return execute(made, reporter, drain_on_signals=drain_on_signals)


def execute(plan: Plan, reporter: Reporter, *, drain_on_signals: bool = False) -> RunResult:
    """Does what was planned; see `run`."""
    config, captioner = plan.config, plan.captioner
    ledger = Ledger.open(plan.output, plan.fingerprint, plan.shard_set, identity, overwrite=config.overwrite)
    mine = plan.mine(ledger.shards)
    pending = ledger.pending(mine, retry_failed=config.retry_failed, redo_changed=config.redo_changed)
    counters = RunCounters(len(pending))
    _announce(reporter, captioner, pending, len(ledger.shards))
    if not pending:
        reporter.event("done", "Nothing to do: every shard is done.")
        outcome = _conclude(ledger, mine, [], reporter, config)
        return _result(config, outcome, [], counters.snapshot(), Statistics())
    _start(captioner, plan.output, reporter)
    pipeline = Pipeline(
        lambda shard, should_stop: open_shard(shard, plan.shard_set.columns, should_stop),
        captioner,
        ledger,
        counters,
        limit=config.limit,
        window=WINDOW_SLOTS * captioner.engine.free_slots + 512,
    )
    write_card(plan.output, _card_facts(captioner))
    signals = _signals(lambda: pipeline.drain(config.drain_seconds), reporter) if drain_on_signals else nullcontext()
    with reporter, signals:
        reporter.start(counters)
        reports = pipeline.run([p.shard for p in pending])
    snapshot, statistics = counters.snapshot(), captioner.engine.statistics
    _summarize(reporter, snapshot, captioner, statistics)
    if pipeline.drained:
        reporter.event("drained", "Stopped by a signal; the same command goes on from here.")
        return _result(config, ExitCode.DRAINED, reports, snapshot, statistics)
    outcome = _conclude(ledger, mine, reports, reporter, config)
    return _result(config, outcome, reports, snapshot, statistics)


def _result(
    config: RunConfig,
    outcome: ExitCode,
    reports: Sequence[ShardReport],
    snapshot: Snapshot,
    statistics: Statistics,
) -> RunResult:
    return RunResult(
        outcome=outcome, output=config.output, reports=tuple(reports), snapshot=snapshot, statistics=statistics
    )


def _start(captioner: Captioner, output: OutputFolder, reporter: Reporter) -> None:
    started = time.monotonic()
    try:
        captioner.start()
    except ConfigError:
        forget_unused(output)
        raise
    reporter.event("engine", f"engine   {captioner.engine.describe()}; ready in {time.monotonic() - started:.1f} s")


@contextmanager
def _signals(drain: Callable[[], None], reporter: Reporter) -> Iterator[None]:
    """While this lasts, SIGTERM, SIGINT and SIGUSR1 drain the run; a second one kills the process as if uncaught."""
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def on_signal(number: int, _: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_DFL)
        name = signal.Signals(number).name
        reporter.event("drain", f"{name}: finishing the captions in flight; a second signal stops at once", signal=name)
        drain()

    before = {each: signal.signal(each, on_signal) for each in handled}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _announce(reporter: Reporter, captioner: Captioner, pending: Sequence[Pending], total: int) -> None:
    spec, decoder = captioner.prepared.spec, captioner.decoder
    reasons = Counter(p.reason for p in pending)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    detail = "" if reasons.keys() <= {"new"} else f" ({listed})"
    reporter.event("shards", f"shards   {len(pending)} of {total} to do{detail}", pending=len(pending), total=total)
    reporter.event("decoder", f"decoder  {decoder.name}" + (f" ({decoder.note})" if decoder.note else ""))
    if spec.notice:
        reporter.event("notice", f"notice   {spec.notice}")


def _summarize(reporter: Reporter, s: Snapshot, captioner: Captioner, statistics: Statistics) -> None:
    spec, decoder = captioner.prepared.spec, captioner.decoder
    with_what = f"decoder {decoder.name}, backend {spec.backend}, {spec.precision}"
    fallbacks = f" ({decoder.num_fallbacks} by Pillow)" if decoder.num_fallbacks else ""
    text = (
        f"{s.captioned:,} captions{failures(s.failed)} in {duration(s.seconds)}: {s.images_per_s:.1f} images/s, "
        f"{s.tokens_per_caption:.1f} tokens a caption; {with_what}{fallbacks}"
    )
    parts = {"decoder": decoder.name, "backend": spec.backend, "precision": spec.precision}
    done = dataclasses.asdict(statistics)
    reporter.event("summary", text, **parts, **progress_fields(s), engine=done)


def _conclude(
    ledger: Ledger, mine: Sequence[Shard], reports: Sequence[ShardReport], reporter: Reporter, config: RunConfig
) -> ExitCode:
    """Says what is left to do, and the outcome that goes with it; errors count over all shards that are done."""
    unfinished = sum(r.status == "interrupted" for r in reports)
    if unfinished:
        reporter.event("limit", f"{unfinished} shards were begun and cut by --limit; the next run goes on from there.")
    broken = [r for r in reports if r.status in ("failed", "truncated")]
    for report in broken:
        reporter.event("shard", f"shard {report.shard} is {report.status}: {report.error}", status=report.status)
    if broken:
        text = f"{len(broken)} of {len(reports)} shards could not be read whole; the next run tries again."
        reporter.event("failure", text)
        return ExitCode.FAILURE
    done = [record for shard in mine if (record := ledger.record(shard.name))]
    rows, failed = sum(r.rows for r in done), sum(sum(r.failed.values()) for r in done)
    if rows and failed / rows > config.max_error_rate:
        reporter.event(
            "error_rate",
            f"{failed} of {rows} images have no caption ({failed / rows:.1%}), more than --max-error-rate "
            f"{config.max_error_rate:g}. The reasons are in the columns status and error of {config.output}.",
        )
        return ExitCode.ERROR_RATE
    return ExitCode.COMPLETE


def _card_facts(captioner: Captioner) -> dict[str, str]:
    spec = captioner.prepared.spec
    return {
        "engine": spec.name,
        "precision": spec.precision,
        "prompt": spec.prompt.text,
        "template": spec.prompt.template,
        "decoder": captioner.decoder.name,
    }
