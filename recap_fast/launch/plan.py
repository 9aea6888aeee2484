"""Plans a run: checks everything that can be checked, loads nothing and writes nothing."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from recap_fast.captioner.captioner import Captioner
from recap_fast.errors import ConfigError, ShardError
from recap_fast.launch.config import RunConfig, command_name, fingerprint
from recap_fast.records import Shard
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity, image_versions
from recap_fast.shards.partition import resolve_part
from recap_fast.write.ledger import Ledger, Pending
from recap_fast.write.opening import Wanted
from recap_fast.write.output_folder import OutputFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run that can begin. Whoever does not begin it calls `close`."""

    config: RunConfig
    captioner: Captioner
    """Its weights are not loaded."""
    ledger: Ledger
    """Not opened: nothing is written for it. Its shards are named as in the output folder as it is now."""
    part: tuple[int, int]
    """This process's part and the number of parts."""

    def mine(self, shards: tuple[Shard, ...]) -> list[Shard]:
        """The shards, out of these, that belong to this process."""
        index, num = self.part
        return list(shards[index::num])

    def pending(self) -> list[Pending]:
        """The shards that this process has to do, and why, as the output folder is now."""
        return self.ledger.pending(self.mine(self.ledger.shards))

    def prune(self, ledger: Ledger, pending: list[Pending]) -> tuple[int, list[Pending]]:
        """Removes the rows of pruned images. Returns how many, and the shards that are still to be done."""
        from recap_fast.write.pruning import prune  # pyarrow: only where something is pruned

        return prune(ledger, pending) if any(each.reason == "pruned" for each in pending) else (0, pending)

    @staticmethod
    def count_images(pending: Sequence[Pending]) -> int | None:
        """The number of images, if all shards are folders. Others must be opened to know it: None."""
        if any(each.shard.kind != "folder" for each in pending):
            return None
        return sum(file is not None for each in pending for file in each.shard.files)

    def count_kept(self, ledger: Ledger, pending: Sequence[Pending]) -> int:
        """Rows of this process's shards that are done already."""
        names = {each.shard.name for each in pending}
        records = ledger.records([shard for shard in self.mine(ledger.shards) if shard.name not in names])
        return sum(record.rows for record in records if record is not None)

    def problem(self, shard: Shard) -> str | None:
        """Why an input cannot be read, as far as a look at it tells; None if it can."""
        try:
            self.ledger.wanted.version_of(shard)
        except ShardError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Frees the decoder, and the engine if it is open."""
        self.captioner.close()


@contextmanager
def without_collections() -> Iterator[None]:
    """Switches Python's garbage collector off in its block.

    The names of a large folder are hundreds of thousands of objects that all stay, and the collector would go through
    them again and again: for 100,000 images that took 0.7 s of 4.3.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _part(config: RunConfig) -> tuple[int, int]:
    """A cluster's workers share all shards, wherever the driver was started."""
    if config.ray is not None:
        return 0, 1
    return resolve_part(config.part, config.shard_index, config.num_shards, os.environ)


@without_collections()
def plan(config: RunConfig) -> Plan:
    """Checks the engine directory, the prompt, the inputs, the decoder and the output folder. Raises ConfigError."""
    index, num = _part(config)
    if config.overwrite and num > 1:
        raise ConfigError(
            f"--overwrite with part {index + 1} of {num}: one process would delete what the others have begun. Delete "
            f"{config.output} first, then start all {num} without --overwrite."
        )
    output = OutputFolder.at(config.output)
    captioner = Captioner(config)
    try:
        wanted = Wanted(
            fingerprint=(marks := fingerprint(config, captioner.prepared.spec, captioner.decoder.name)),
            inputs=expand(config.shards, config.selection, output.row_folders),
            version_of=identity,
            versions_of=image_versions,
            prune=config.prune,
            relocate=config.relocate,
            accept_changed=config.accept_changed,
            overwrite=command_name(config, marks) if config.overwrite else None,
        )
        ledger = Ledger(output, wanted, config.retry_failed, config.redo_changed).find()
    except BaseException:
        captioner.close()
        raise
    return Plan(config=config, captioner=captioner, ledger=ledger, part=(index, num))
