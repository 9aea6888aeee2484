"""What a run says of itself, to people and to machines, before and after; and what its dataset card says."""

import dataclasses
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from recap_fast.captioner.captioner import Captioner
from recap_fast.errors import ExitCode
from recap_fast.launch.plan import Plan
from recap_fast.launch.progress_line import duration, failures, progress_fields
from recap_fast.launch.reporter import Reporter
from recap_fast.pipeline.counters import Snapshot
from recap_fast.records import ShardReport, show_left_out
from recap_fast.text import counted
from recap_fast.write.card import write_card
from recap_fast.write.ledger import Ledger, Pending
from recap_fast.write.names import some
from recap_fast.write.output_folder import OutputFolder

_BROKEN = ("failed", "truncated")
"""Of a shard that could not be read to its end."""


def announce(reporter: Reporter, captioner: Captioner, pending: Sequence[Pending], total: int) -> None:
    """Says what will be done, and with what."""
    spec, decoder = captioner.prepared.spec, captioner.decoder
    reasons = Counter(p.reason for p in pending)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    detail = "" if reasons.keys() <= {"new"} else f" ({listed})"
    reporter.event("shards", f"shards   {len(pending)} of {total} to do{detail}", pending=len(pending), total=total)
    reporter.event("decoder", f"decoder  {decoder.name}" + (f" ({decoder.note})" if decoder.note else ""))
    if spec.notice:
        reporter.event("notice", f"notice   {spec.notice}")


def summarize(reporter: Reporter, s: Snapshot, captioner: Captioner, output: OutputFolder) -> None:
    """Says what the run did, where its captions are, and which command lists the images that have none."""
    spec, decoder = captioner.prepared.spec, captioner.decoder
    fallbacks = f" ({decoder.num_fallbacks:,} by Pillow)" if decoder.num_fallbacks else ""
    with_what = f"decoder {decoder.name}, backend {spec.backend}, {spec.precision}{fallbacks}"
    speed = f": {s.images_per_s:.1f} images/s, {s.tokens_per_caption:.1f} tokens a caption" if s.captioned else ""
    text = f"{counted(s.captioned, 'caption')}{failures(s.failed)} in {duration(s.seconds)}{speed}; {with_what}"
    parts = {"decoder": decoder.name, "backend": spec.backend, "precision": spec.precision}
    engine = dataclasses.asdict(captioner.statistics)
    reporter.event("summary", text, **parts, **progress_fields(s), engine=engine)
    if s.kept:
        reporter.event("kept", f"The output keeps {counted(s.kept, 'row')} of earlier runs.", rows=s.kept)
    if s.cut:
        limit = captioner.prepared.max_new_tokens(captioner.config.options)
        were = "was" if s.cut == 1 else "were"
        text = f"{counted(s.cut, 'caption')} {were} cut at {limit} tokens (--max-new-tokens)."
        reporter.event("cut", text, captions=s.cut, max_new_tokens=limit)
    if s.failed:
        command = f"recap-fast failures {shlex.quote(str(output.root))}"
        reporter.event("failures", f"Which images have no caption, and why: {command}", command=command)
    reporter.event("output", f"Captions are in {_places(output)}.", output=str(output.root))


def _places(output: OutputFolder) -> str:
    """Where the captions are, of finished shards and of others."""
    places = [f"{output.root}/partial (shards that are not finished)"] if output.has_partial else []
    if output.has_data or not places:
        places.insert(0, f"{output.root}/data")
    return " and ".join(places)


def conclude(
    ledger: Ledger, plan: Plan, reports: Sequence[ShardReport], reporter: Reporter, *, nothing_to_do: bool
) -> ExitCode:
    """Says what is left to do, and the outcome that goes with it; errors count over all shards that are done."""
    mine = {shard.name for shard in plan.mine(ledger.shards)}
    _say_what_is_left_out(reporter, reports)
    records = {shard.name: ledger.record(shard.name) for shard in ledger.shards}
    done = [record for record in records.values() if record is not None]
    own = [record for record in done if record.shard in mine]
    broken = [record for record in own if record.status in _BROKEN]
    outcome = _say_what_failed(reporter, own, broken, len(mine), plan.config.max_error_rate)
    whole = {record.shard for record in done if record.status == "complete"}
    state = _state(plan, mine, whole, len(records), len(broken))
    if state is not None:
        text = f"Nothing to do: {state}" if nothing_to_do else f"{state[0].upper()}{state[1:]}"
        reporter.event("done", text, shards_done=len(whole), shards_total=len(records))
    return outcome


def report_result(reporter: Reporter, outcome: ExitCode, output: Path, s: Snapshot) -> None:
    """For machines: the outcome and the counts, in one line."""
    fields = {"exit_code": int(outcome), "output": str(output), **progress_fields(s)}
    reporter.result(outcome=outcome.name.lower(), **fields)


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
        return f"all {counted(total, 'shard')} are done." if total > 1 else "the shard is done."
    if not mine:
        return f"part {index + 1} of {num} has no shards: there are {total:,}."
    return f"part {index + 1} of {num} is done. In all, {len(whole):,} of {counted(total, 'shard')} are done."


def _say_what_is_left_out(reporter: Reporter, reports: Sequence[ShardReport]) -> None:
    left_out = sum((Counter(report.left_out) for report in reports), Counter[str]())
    if left_out:
        reporter.event("left_out", f"Some of the input has no row: {show_left_out(left_out)}.", left_out=dict(left_out))


def describe(output: OutputFolder, captioner: Captioner) -> None:
    """Writes the dataset card: what the captions were made with."""
    spec = captioner.prepared.spec
    facts = {
        "engine": spec.name,
        "precision": spec.precision,
        "prompt": spec.prompt.text,
        "template": spec.prompt.template,
        "decoder": captioner.decoder.name,
    }
    write_card(output, facts)
