"""One run, from what was asked to an exit code: checks everything that can be checked, opens the parts, runs them.

Nothing is loaded before the configuration, the engine directory, the inputs and the output folder are known to fit.
"""

import dataclasses
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any

from recap_fast import machine
from recap_fast.decode.decoder import Decoder, make_decoder
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import Engine, Statistics, open_engine
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.launch.config import RunConfig, fingerprint
from recap_fast.launch.reporter import Reporter, duration, failures, progress_fields
from recap_fast.pipeline.counters import Progress, Snapshot
from recap_fast.pipeline.pipeline import Pipeline, Stages
from recap_fast.records import Preprocess, Shard, ShardReport
from recap_fast.shards.expand import ShardSet, describe, expand
from recap_fast.shards.partition import part, resolve_part
from recap_fast.shards.reader import open_shard
from recap_fast.shards.sample import Columns
from recap_fast.write.card import write_card
from recap_fast.write.ledger import Ledger, Pending
from recap_fast.write.run_file import forget_unused, read_run_file, refuse_other_fingerprint
from recap_fast.write.schema import SCHEMA_VERSION

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_ERRORS, EXIT_GAP, EXIT_DRAINED = 0, 1, 2, 3, 4, 75
WINDOW_SLOTS = 4
"""Samples read and not yet written in order, in multiples of the slots: a caption of the longest kind sits in its slot
while some three of mean length come and go in each of the others."""


def run(config: RunConfig, reporter: Reporter) -> int:
    """Captions what is to be captioned and returns the exit code. Raises ConfigError, EngineError and OSError."""
    spec = EngineSpec.load(config.engine)
    columns = Columns(image=config.image_column, caption=config.caption_column)
    index, num = resolve_part(config.shard_index, config.num_shards, os.environ)
    if config.overwrite and num > 1:
        raise ConfigError(
            f"--overwrite with {num} processes: one would delete what the others have begun. Delete {config.output} "
            "first, then start them without it."
        )
    shard_set = expand(config.shards, columns)
    tokenizer = load_tokenizer(config.engine)
    own_limit = spec.limits.max_text_tokens if config.prompt is None else None
    if config.prompt is not None:
        spec = dataclasses.replace(spec, prompt=dataclasses.replace(spec.prompt, text=config.prompt))
    prompts = PromptEncoder(tokenizer, spec.prompt, config.max_field_tokens, own_limit)
    with closing(open_decoder(config, spec.preprocess)) as decoder:
        versions = machine.list_versions(spec.backend, decoder.name)
        marks = fingerprint(config, spec, decoder.name, SCHEMA_VERSION, versions)
        if config.dry_run:
            return _show_plan(config, marks, shard_set, (index, num), reporter)
        ledger = Ledger.open(config.output, marks, shard_set, overwrite=config.overwrite)
        mine = part(ledger.shards, index, num)
        pending = ledger.pending(mine, retry_failed=config.retry_failed, redo_changed=config.redo_changed)
        _announce(reporter, spec, decoder, pending, len(ledger.shards))
        if not pending:
            reporter.event("done", "Nothing to do: every shard is done.")
            return _conclude(ledger, mine, [], reporter, config)
        with closing(_open_engine(config, spec, prompts, reporter)) as engine:
            limit = config.options.max_new_tokens or spec.limits.max_new_tokens
            stages = Stages(
                open_shard=lambda shard: open_shard(shard, columns, lambda: pipeline.stopping),
                decoder=decoder,
                prompts=prompts,
                engine=engine,
                detokenize=tokenizer.detokenize,
                ledger=ledger,
                max_new_tokens=lambda _: limit,
            )
            progress = Progress(len(pending))
            window = WINDOW_SLOTS * engine.free_slots + 512
            pipeline = Pipeline(stages, progress, limit=config.limit, window=window)
            write_card(config.output, _card_facts(spec, decoder))
            with reporter, _signals(lambda: pipeline.drain(config.drain_seconds), reporter):
                reporter.start(progress)
                reports = pipeline.run([p.shard for p in pending])
        _summarize(reporter, progress.snapshot(), spec, decoder, engine.statistics)
    if pipeline.drained:
        reporter.event("drained", "Stopped by a signal; the same command goes on from here.")
        return EXIT_DRAINED
    return _conclude(ledger, mine, reports, reporter, config)


def _open_engine(config: RunConfig, spec: EngineSpec, prompts: PromptEncoder, reporter: Reporter) -> Engine:
    started = time.monotonic()
    options = dataclasses.replace(config.options, max_text_tokens=prompts.max_text_tokens)
    try:
        engine = open_engine(config.engine, spec, options, prompts.prefix_ids.tolist())
    except ConfigError:
        forget_unused(config.output)
        raise
    reporter.event("engine", f"engine   {engine.describe()}; ready in {time.monotonic() - started:.1f} s")
    return engine


def open_decoder(config: RunConfig, preprocess: Preprocess) -> Decoder:
    """The decoder that was asked for; DALI decodes on the GPU where the engine runs on one."""
    on_cpu = config.options.device == "cpu" or config.decoder == "pillow"
    return make_decoder(
        config.decoder,
        preprocess,
        max_image_pixels=config.max_image_pixels,
        num_threads=config.decode_threads,
        device_id=None if on_cpu else _gpu(config.options.device),
    )


def _gpu(device: str) -> int | None:
    """The number of the GPU that the engine will run on; None for a CPU and for what the engine will refuse."""
    import torch

    try:
        found = torch.device("cuda" if device == "auto" else device)
    except RuntimeError:
        return None
    return (found.index or 0) if found.type == "cuda" and torch.cuda.is_available() else None


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


def _show_plan(
    config: RunConfig, marks: Mapping[str, Any], shard_set: ShardSet, index_num: tuple[int, int], reporter: Reporter
) -> int:
    """Lists what `run` would do, from what is in the output folder, which stays as it is; refuses what it would."""
    known = None if config.overwrite else read_run_file(config.output)
    if known is not None:
        refuse_other_fingerprint(config.output, known.fingerprint, marks)
        shard_set = shard_set.below(known.root)
    mine = part(shard_set.shards, *index_num)
    pending = [Pending(shard, "new") for shard in mine]
    if known is not None:
        ledger = Ledger(config.output, known, shard_set.shards)
        pending = ledger.pending(mine, retry_failed=config.retry_failed, redo_changed=config.redo_changed)
    for shard, reason in ((p.shard, p.reason) for p in pending):
        target = config.output / "data" / f"{shard.name}.parquet"
        reporter.event("plan", f"{describe(shard)} -> {target} ({reason})", shard=shard.name, reason=reason)
    num, total = len(pending), len(shard_set.shards)
    reporter.event("dry_run", f"{num} of {total} shards to do; nothing was written.", pending=num, total=total)
    return EXIT_OK


def _announce(reporter: Reporter, spec: EngineSpec, decoder: Decoder, pending: Sequence[Pending], total: int) -> None:
    reasons = Counter(p.reason for p in pending)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    detail = "" if reasons.keys() <= {"new"} else f" ({listed})"
    reporter.event("shards", f"shards   {len(pending)} of {total} to do{detail}", pending=len(pending), total=total)
    reporter.event("decoder", f"decoder  {decoder.name}" + (f" ({decoder.note})" if decoder.note else ""))
    if spec.notice:
        reporter.event("notice", f"notice   {spec.notice}")


def _summarize(reporter: Reporter, s: Snapshot, spec: EngineSpec, decoder: Decoder, statistics: Statistics) -> None:
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
) -> int:
    """Says what is left to do, and the exit code that goes with it; errors count over all shards that are done."""
    unfinished = sum(r.status == "interrupted" for r in reports)
    if unfinished:
        reporter.event("limit", f"{unfinished} shards were begun and cut by --limit; the next run goes on from there.")
    broken = [r for r in reports if r.status in ("failed", "truncated")]
    for report in broken:
        reporter.event("shard", f"shard {report.shard} is {report.status}: {report.error}", status=report.status)
    if broken:
        text = f"{len(broken)} of {len(reports)} shards could not be read whole; the next run tries again."
        reporter.event("failure", text)
        return EXIT_FAILURE
    done = [record.report for shard in mine if (record := ledger.record(shard.name))]
    rows, failed = sum(r.rows for r in done), sum(sum(r.failed.values()) for r in done)
    if rows and failed / rows > config.max_error_rate:
        reporter.event(
            "error_rate",
            f"{failed} of {rows} images have no caption ({failed / rows:.1%}), more than --max-error-rate "
            f"{config.max_error_rate:g}. The reasons are in the columns status and error of {ledger.output}.",
        )
        return EXIT_ERRORS
    return EXIT_OK


def _card_facts(spec: EngineSpec, decoder: Decoder) -> dict[str, str]:
    return {
        "engine": spec.name,
        "precision": spec.precision,
        "prompt": spec.prompt.text,
        "template": spec.prompt.template,
        "decoder": decoder.name,
    }
