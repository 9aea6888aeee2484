"""From what was asked to what will be done: checks everything that can be checked, loads nothing, writes nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from recap_fast import machine
from recap_fast.captioner.captioner import Captioner
from recap_fast.errors import ConfigError
from recap_fast.generate.spec import EngineSpec
from recap_fast.launch.config import RunConfig
from recap_fast.records import Columns, Shard
from recap_fast.shard_set import ShardSet
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity
from recap_fast.shards.partition import part, resolve_part
from recap_fast.write.ledger import Ledger, Pending
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import read_run_file, refuse_other_fingerprint
from recap_fast.write.schema import SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run that can be begun. `close` frees what it holds where it is not."""

    config: RunConfig
    captioner: Captioner
    """Its weights are not loaded."""
    fingerprint: Mapping[str, str | int | bool | None]
    """All that decides what the rows of the run say, by name."""
    shard_set: ShardSet
    """All shards of the run, named as in the output folder as it is now."""
    part: tuple[int, int]
    """This process's part and the number of parts."""

    @property
    def output(self) -> OutputFolder:
        """Where the captions go."""
        return OutputFolder(self.config.output)

    def mine(self, shards: tuple[Shard, ...]) -> list[Shard]:
        """Those of some shards that are this process's."""
        return part(shards, *self.part)

    def pending(self) -> list[Pending]:
        """The shards that are to be done, and why, as the output folder is now."""
        mine = self.mine(self.shard_set.shards)
        run = None if self.config.overwrite else read_run_file(self.output)
        if run is None:
            return [Pending(shard, "new") for shard in mine]
        ledger = Ledger(self.output, run, self.shard_set.shards, identity)
        return ledger.pending(mine, retry_failed=self.config.retry_failed, redo_changed=self.config.redo_changed)

    def close(self) -> None:
        """Frees the decoder, and the engine where it was opened."""
        self.captioner.close()


def plan(config: RunConfig) -> Plan:
    """Checks the engine directory, the prompt, the inputs, the decoder and the output folder. Raises ConfigError."""
    index, num = resolve_part(config.shard_index, config.num_shards, os.environ)
    if config.overwrite and num > 1:
        raise ConfigError(
            f"--overwrite with {num} processes: one would delete what the others have begun. Delete {config.output} "
            "first, then start them without it."
        )
    spec = EngineSpec.load(config.engine)
    shard_set = expand(config.shards, Columns(image=config.image_column, caption=config.caption_column))
    captioner = Captioner(config)
    try:
        decoder = captioner.decoder.name
        versions = machine.list_versions(spec.backend, decoder)
        marks = fingerprint(config, captioner.prepared.spec, decoder, SCHEMA_VERSION, versions)
        output = OutputFolder(config.output)
        known = None if config.overwrite else read_run_file(output)
        if known is not None:
            refuse_other_fingerprint(output, known.fingerprint, marks)
            shard_set = shard_set.below(known.root)
    except BaseException:
        captioner.close()
        raise
    return Plan(config=config, captioner=captioner, fingerprint=marks, shard_set=shard_set, part=(index, num))


def fingerprint(
    config: RunConfig, spec: EngineSpec, decoder: str, schema_version: int, versions: str
) -> Mapping[str, str | int | bool | None]:
    """All that decides what the rows of a run say, by name; `spec` is the engine's, with the run's question.

    Two runs may share an output folder only where these are equal. What merely decides how fast rows are made (slots,
    threads, the device) is left out, and so is the pixel limit: with another one, `--retry-failed` may rescue rows.
    """
    s, pre = config.options.sampling, spec.preprocess
    sampled = f"temperature {s.temperature}, top_k {s.top_k}, top_p {s.top_p}, seed {s.seed}"
    return {
        "versions": versions,
        "schema": schema_version,
        "engine": spec.name,
        **{f"engine.{name}": digest for name, digest in sorted(spec.files.items())},
        "precision": spec.precision,
        "kv_precision": spec.kv_precision,
        "template": spec.prompt.template,
        "prompt": spec.prompt.text,
        "max_field_tokens": config.max_field_tokens,
        "preprocess": f"{pre.mode} {pre.image_size}, mean {pre.mean}, std {pre.std}",
        "decoder": decoder,
        "image_column": config.image_column,
        "caption_column": config.caption_column,
        "stop_ids": ",".join(map(str, spec.stop_ids)),
        "max_new_tokens": config.options.max_new_tokens or spec.limits.max_new_tokens,
        "loop_stop": config.options.loop_stop,
        "sampling": "greedy" if s.temperature == 0 else sampled,
    }
