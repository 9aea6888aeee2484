"""`run --dry-run`: says what a run would do; loads nothing and writes nothing."""

from contextlib import closing

from recap_fast.addresses import public_url
from recap_fast.launch.config import RunConfig
from recap_fast.launch.messages import say_part
from recap_fast.launch.plan import plan
from recap_fast.launch.reporter import Reporter
from recap_fast.records import Shard
from recap_fast.shards.patience import side_by_side
from recap_fast.text import counted

NUM_THREADS = 16
"""Look at inputs at the same time: a store takes tens of milliseconds for each."""


def dry_run(config: RunConfig, reporter: Reporter) -> None:
    """Lists the shards that a run would do, and what --overwrite would delete. Raises ConfigError as `plan` does."""
    with closing(plan(config)) as made:
        say_part(reporter, made.part)
        pending, total, output = made.pending(), len(made.ledger.shards), made.ledger.output
        if made.ledger.is_fresh and (num := sum(1 for _ in output.data_files())):
            text = f"--overwrite would delete the captions of {counted(num, 'shard')} in {output.address}."
            reporter.event("overwrite", text, shards=num)
        problems = side_by_side(lambda each: made.problem(each.shard), pending, NUM_THREADS)
        for each, problem in zip(pending, problems, strict=True):
            why = each.reason if problem is None else f"{each.reason}, but it {problem}"
            text = f"{show_shard(each.shard)} -> {output.store.shown(output.data(each.shard.name))} ({why})"
            reporter.event("plan", text, shard=each.shard.name, reason=each.reason, problem=problem)
        num_bad = len(problems) - problems.count(None)
        bad = f", {num_bad:,} of which cannot be read" if num_bad else ""
        text = f"{len(pending):,} of {counted(total, 'shard')} to do{bad}; nothing was written."
        reporter.event("dry_run", text, pending=len(pending), total=total, unreadable=num_bad)


def show_shard(shard: Shard) -> str:
    """An input as the user knows it."""
    url, files = public_url(shard.url), [file.path for file in shard.files if file is not None]
    if len(files) < 2:
        return f"{url}/{files[0]}" if files else url
    return f"{url} ({files[0]} and {len(files) - 1:,} more)"
