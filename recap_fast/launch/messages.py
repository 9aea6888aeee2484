"""What a run says of itself, to people and to machines, before and after; and what its dataset card says."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from recap_fast.addresses import public_url
from recap_fast.captioner.captioner import Captioner
from recap_fast.errors import ExitCode
from recap_fast.launch.config import RunConfig
from recap_fast.launch.reporter import Reporter, duration, failures, progress_fields
from recap_fast.pipeline.counters import Snapshot
from recap_fast.records import Shard, ShardReport, show_left_out
from recap_fast.write.card import write_card
from recap_fast.write.ledger import Ledger, Pending
from recap_fast.write.output_folder import OutputFolder


def announce(reporter: Reporter, captioner: Captioner, pending: Sequence[Pending], total: int) -> None:
    spec, decoder = captioner.prepared.spec, captioner.decoder
    reasons = Counter(p.reason for p in pending)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    detail = "" if reasons.keys() <= {"new"} else f" ({listed})"
    reporter.event("shards", f"shards   {len(pending)} of {total} to do{detail}", pending=len(pending), total=total)
    reporter.event("decoder", f"decoder  {decoder.name}" + (f" ({decoder.note})" if decoder.note else ""))
    if spec.notice:
        reporter.event("notice", f"notice   {spec.notice}")


def summarize(reporter: Reporter, s: Snapshot, captioner: Captioner) -> None:
    spec, decoder = captioner.prepared.spec, captioner.decoder
    with_what = f"decoder {decoder.name}, backend {spec.backend}, {spec.precision}"
    fallbacks = f" ({decoder.num_fallbacks} by Pillow)" if decoder.num_fallbacks else ""
    text = (
        f"{s.captioned:,} captions{failures(s.failed)} in {duration(s.seconds)}: {s.images_per_s:.1f} images/s, "
        f"{s.tokens_per_caption:.1f} tokens a caption; {with_what}{fallbacks}"
    )
    parts = {"decoder": decoder.name, "backend": spec.backend, "precision": spec.precision}
    reporter.event("summary", text, **parts, **progress_fields(s), engine=dataclasses.asdict(captioner.statistics))


def conclude(
    ledger: Ledger, mine: Sequence[Shard], reports: Sequence[ShardReport], reporter: Reporter, config: RunConfig
) -> ExitCode:
    """Says what is left to do, and the outcome that goes with it; errors count over all shards that are done."""
    unfinished = sum(r.status == "interrupted" for r in reports)
    if unfinished:
        text = f"--limit ended {unfinished} shard{'s' * (unfinished > 1)} early; the next run goes on from there."
        reporter.event("limit", text)
    _say_what_is_left_out(reporter, reports)
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


def _say_what_is_left_out(reporter: Reporter, reports: Sequence[ShardReport]) -> None:
    left_out = sum((Counter(report.left_out) for report in reports), Counter[str]())
    if left_out:
        reporter.event("left_out", f"Some of the input has no row: {show_left_out(left_out)}.", left_out=dict(left_out))


def show_shard(shard: Shard) -> str:
    """An input as the user knows it."""
    url, files = public_url(shard.url), [file.path for file in shard.files if file is not None]
    if len(files) < 2:
        return f"{url}/{files[0]}" if files else url
    return f"{url} ({files[0]} and {len(files) - 1:,} more)"


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
