"""How a run ended: its last words to people and to machines, and its result."""

import shlex
from collections import Counter
from collections.abc import Sequence

from recap_fast.errors import ExitCode
from recap_fast.generate.engine import Statistics
from recap_fast.launch.plan import Plan
from recap_fast.launch.reporter import Reporter
from recap_fast.launch.result import RunResult, count_flags
from recap_fast.launch.signals import STOPPED
from recap_fast.pipeline.counters import Progress, RunCounters, Snapshot
from recap_fast.records import ShardReport
from recap_fast.text import counted, show_left_out
from recap_fast.write.ledger import Ledger
from recap_fast.write.names import some
from recap_fast.write.output_folder import OutputFolder

_BROKEN = ("failed", "truncated")
"""Of a shard that could not be read to its end."""


def conclude(
    plan: Plan,
    ledger: Ledger,
    reports: Sequence[ShardReport],
    counters: Progress | None,
    reporter: Reporter,
    statistics: Statistics | None = None,
) -> RunResult:
    """Says what failed, over all shards that are done, and what is left to do. No `counters`: nothing was to do.

    `statistics` are those of the workers' engines, where the plan's did nothing.
    """
    mine = {shard.name for shard in plan.mine(ledger.shards)}
    _say_what_is_left_out(reporter, reports)
    _say_flags(reporter, ledger.output, reports)
    records = ledger.records(ledger.shards)
    done = [record for record in records if record is not None]
    own = [record for record in done if record.shard in mine]
    broken = [record for record in own if record.status in _BROKEN]
    outcome = _say_what_failed(reporter, own, broken, len(mine), plan.config.max_error_rate)
    whole = {record.shard for record in done if record.status == "complete"}
    state = _state(plan, mine, whole, len(records), len(broken))
    if state is not None:
        text = f"Nothing to do: {state}" if counters is None else f"{state[0].upper()}{state[1:]}"
        reporter.event("done", text, shards_done=len(whole), shards_total=len(records))
    counters = counters or RunCounters(0, kept=sum(record.rows for record in own))
    engine = statistics or plan.captioner.statistics
    return _result(plan, reports, counters.snapshot(), engine, reporter, outcome, len(records) - len(whole))


def conclude_drained(
    plan: Plan,
    reports: Sequence[ShardReport],
    counters: Progress,
    reporter: Reporter,
    statistics: Statistics | None = None,
) -> RunResult:
    """Says that a signal stopped the run. What is left is not counted: that may take longer than there is time."""
    _say_flags(reporter, plan.ledger.output, reports)
    reporter.event("drained", STOPPED)
    engine = statistics or plan.captioner.statistics
    return _result(plan, reports, counters.snapshot(), engine, reporter, ExitCode.DRAINED, None)


def _result(
    plan: Plan,
    reports: Sequence[ShardReport],
    snapshot: Snapshot,
    statistics: Statistics,
    reporter: Reporter,
    outcome: ExitCode,
    shards_left: int | None,
) -> RunResult:
    output = plan.ledger.output
    result = RunResult(
        outcome=outcome,
        shards_left=shards_left,
        output=output.address,
        captions=tuple(output.filled),
        reports=tuple(reports),
        snapshot=snapshot,
        statistics=statistics,
    )
    reporter.result(**result.as_json())
    return result


def _say_flags(reporter: Reporter, output: OutputFolder, reports: Sequence[ShardReport]) -> None:
    """Says how many rows of the shards that are finished have each flag, and which command shows them."""
    rows, flags = sum(report.rows for report in reports), count_flags(reports)
    if flags:
        shown = ", ".join(f"{num:,} {flag} ({num / rows:.1%})" for flag, num in flags.items())
        command = f"recap-fast report {shlex.quote(output.address)}"
        text = f"Flags of the {counted(rows, 'row')} in shards that this run finished: {shown}. `{command}` shows them."
        reporter.event("flags", text, rows=rows, flags=flags, command=command)


def _say_what_failed(
    reporter: Reporter, done: Sequence[ShardReport], broken: Sequence[ShardReport], num_shards: int, max_rate: float
) -> ExitCode:
    rows, failed = sum(report.rows for report in done), sum(sum(report.failed.values()) for report in done)
    is_too_many = failed > max_rate * rows
    if is_too_many:
        have = "has" if rows == 1 else "have"
        share = f"({failed / rows:.1%}), more than --max-error-rate {max_rate:g}"
        reporter.event("error_rate", f"{failed:,} of {counted(rows, 'image')} {have} no caption {share}.")
    if broken:
        names = some([report.shard for report in broken])
        text = f"{len(broken):,} of {counted(num_shards, 'shard')} could not be read whole: {names}."
        shards = {report.shard: {"status": report.status, "error": report.error} for report in broken}
        reporter.event("failure", f"{text} The next run tries again.", shards=shards)
        return ExitCode.FAILURE
    return ExitCode.ERROR_RATE if is_too_many else ExitCode.COMPLETE


def _state(plan: Plan, mine: set[str], whole: set[str], total: int, num_broken: int) -> str | None:
    """How far the work is; None where shards that could not be read are all that is left, which is said already."""
    index, num = plan.part
    if left := len(mine - whole) - num_broken:
        way = "another process may be at work on them" if plan.config.limit is None else "run without --limit to go on"
        return f"{counted(left, 'shard')} {'is' if left == 1 else 'are'} not finished: {way}."
    if num_broken:
        return None
    if len(whole) == total:
        return f"all {counted(total, 'shard')} are done." if total > 1 else "everything is done."
    if not mine:
        return f"part {index + 1} of {num} has no shards: there are {total:,}."
    return f"part {index + 1} of {num} is done. In all, {len(whole):,} of {counted(total, 'shard')} are done."


def _say_what_is_left_out(reporter: Reporter, reports: Sequence[ShardReport]) -> None:
    left_out = sum((Counter(report.left_out) for report in reports), Counter[str]())
    if left_out:
        reporter.event("left_out", f"Some of the input has no row: {show_left_out(left_out)}.", left_out=dict(left_out))
