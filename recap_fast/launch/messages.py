"""What a run says of itself, to people and to machines: what it does, and what it did; and what its card says."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from recap_fast.captioner.captioner import Captioner
from recap_fast.generate.engine import Statistics
from recap_fast.launch.progress_line import duration, failures, progress_fields
from recap_fast.launch.reporter import Reporter
from recap_fast.pipeline.counters import Snapshot
from recap_fast.text import counted
from recap_fast.write.card import write_card
from recap_fast.write.ledger import Pending
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.usage import rates, usage_of
from recap_fast.write.workers import Work


def say_part(reporter: Reporter, part: tuple[int, int], device: str | None = None) -> None:
    """Says which part of the shards this process does, and on which device, where it does not do all."""
    index, num = part
    if num > 1:
        where = f" on {device}" if device else ""
        reporter.event("part", f"part     {index + 1} of {num}{where}", part=index + 1, of=num, device=device)


def announce(reporter: Reporter, captioner: Captioner, pending: Sequence[Pending], total: int) -> None:
    """Says what will be done, and with what."""
    spec, decoder = captioner.prepared.spec, captioner.decoder
    reasons = Counter(p.reason for p in pending)
    listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    detail = "" if reasons.keys() <= {"new"} else f" ({listed})"
    reporter.event("shards", f"shards   {len(pending):,} of {total:,} to do{detail}", pending=len(pending), total=total)
    reporter.event("decoder", f"decoder  {decoder.name}" + (f" ({decoder.note})" if decoder.note else ""))
    _say_captions(reporter, captioner)
    if spec.notice:
        reporter.event("notice", f"notice   {spec.notice}")


def _say_captions(reporter: Reporter, captioner: Captioner) -> None:
    """Says what every image is asked if that is more than one prompt, and how tokens are chosen if not greedily."""
    prompts, s = captioner.prepared.prompts, captioner.config.options.sampling
    if not prompts.is_plain:
        names = [each.set or next(iter(each.questions)) for each in prompts.asked]
        shown = zip(names, prompts.asked, strict=True)
        listed = ", ".join(f"{name} (drawn for each image)" if each.set else name for name, each in shown)
        times = f", {prompts.num_captions} captions of each" if prompts.num_captions > 1 else ""
        reporter.event("prompts", f"prompts  {listed}{times}", prompts=names, num_captions=prompts.num_captions)
    if not s.is_greedy:
        own = captioner.prepared.spec.sampling
        is_own = (s.temperature, s.top_k, s.top_p) == (own.temperature, own.top_k, own.top_p)
        whose = "the engine's default; --temperature 0 is greedy" if is_own else f"seed {s.seed}"
        text = f"sampling temperature {s.temperature:g}, top_k {s.top_k}, top_p {s.top_p:g} ({whose})"
        reporter.event("sampling", text, temperature=s.temperature, top_k=s.top_k, top_p=s.top_p, seed=s.seed)


def summarize(
    reporter: Reporter, s: Snapshot, captioner: Captioner, output: OutputFolder, statistics: Statistics | None = None
) -> None:
    """Says what the run did, where its captions are, and which command lists the images that have none.

    `statistics` are those of the workers' engines, where the captioner's did nothing.
    """
    spec, decoder = captioner.prepared.spec, captioner.decoder
    fallbacks = f" ({decoder.num_fallbacks:,} by Pillow)" if decoder.num_fallbacks else ""
    with_what = f"decoder {decoder.name}, backend {spec.backend}, {spec.precision}{fallbacks}"
    speed = f": {s.images_per_s:.1f} images/s, {s.tokens_per_caption:.1f} tokens a caption" if s.captioned else ""
    made = counted(s.captioned, "caption")
    if not captioner.prepared.prompts.is_plain:
        made = f"{counted(s.captioned, 'image')} with {counted(s.generated, 'new caption')}"
    text = f"{made}{failures(s.failed)} in {duration(s.seconds)}{speed}; {with_what}"
    parts = {"decoder": decoder.name, "backend": spec.backend, "precision": spec.precision}
    engine = asdict(statistics or captioner.statistics)
    reporter.event("summary", text, **parts, **progress_fields(s), engine=engine)
    if s.kept:
        reporter.event("kept", f"The output keeps {counted(s.kept, 'row')} of earlier runs.", rows=s.kept)
    if s.cut:
        limit = captioner.prepared.max_new_tokens(captioner.config.options)
        were = "was" if s.cut == 1 else "were"
        text = f"{counted(s.cut, 'caption')} {were} cut at {limit} tokens (--max-new-tokens)."
        reporter.event("cut", text, captions=s.cut, max_new_tokens=limit)
    if s.shared:
        have = "has" if s.shared == 1 else "have"
        text = f"{counted(s.shared, 'image')} {have} what an identical one got (--no-dedup)."
        reporter.event("shared", text, captions=s.shared)
    if s.failed:
        command = f"recap-fast failures {shlex.quote(output.address)}"
        reporter.event("failures", f"Which images have no caption, and why: {command}", command=command)
    places = [f"{folder}{' (shards that are not finished)' * folder.endswith('partial')}" for folder in output.filled]
    if places:
        reporter.event("output", f"Captions are in {' and '.join(places)}.", output=output.address)


def say_held(reporter: Reporter, work: Work) -> None:
    """Says what an hour of the device has brought, all told."""
    usage = usage_of(work)
    for rate in rates(usage):
        held = " and ".join(f"{device} for {duration(used.seconds)}" for device, used in usage.items())
        rounded = round(rate.images_per_hour, 1)
        text = f"Held {held}, from the start of the process: {rate}."
        reporter.event(
            "held", text, usage={name: asdict(used) for name, used in usage.items()}, images_per_hour=rounded
        )


def describe(output: OutputFolder, captioner: Captioner) -> None:
    """Writes the dataset card: what the captions were made with."""
    spec = captioner.prepared.spec
    facts = {
        "engine": spec.name,
        "precision": spec.precision,
        "prompt": captioner.prepared.prompts.text,
        "template": spec.prompt.template,
        "decoder": captioner.decoder.name,
    }
    write_card(output, facts)
