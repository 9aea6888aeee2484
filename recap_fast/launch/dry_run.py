"""`run --dry-run`: says what a run would do; loads nothing and writes nothing."""

from contextlib import closing

from recap_fast.addresses import public_url
from recap_fast.launch.config import RunConfig
from recap_fast.launch.plan import plan
from recap_fast.launch.reporter import Reporter
from recap_fast.records import Shard
from recap_fast.text import counted


def dry_run(config: RunConfig, reporter: Reporter) -> None:
    """Lists the shards that a run would do, and what --overwrite would delete. Raises ConfigError as `plan` does."""
    with closing(plan(config)) as made:
        pending, total, output = made.pending(), len(made.ledger.shards), made.ledger.output
        if made.ledger.is_fresh and (num := len(output.data_files())):
            text = f"--overwrite would delete the captions of {counted(num, 'shard')} in {output.root}."
            reporter.event("overwrite", text, shards=num)
        for shard, reason in ((p.shard, p.reason) for p in pending):
            found = f"{show_shard(shard)} -> {output.data(shard.name)} ({reason}{made.problem(shard)})"
            reporter.event("plan", found, shard=shard.name, reason=reason)
        text = f"{len(pending):,} of {counted(total, 'shard')} to do; nothing was written."
        reporter.event("dry_run", text, pending=len(pending), total=total)


def show_shard(shard: Shard) -> str:
    """An input as the user knows it."""
    url, files = public_url(shard.url), [file.path for file in shard.files if file is not None]
    if len(files) < 2:
        return f"{url}/{files[0]}" if files else url
    return f"{url} ({files[0]} and {len(files) - 1:,} more)"
