"""What a run was asked to do: one frozen record, checked when it is made; and what of it decides what rows say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recap_fast.captioner.config import CaptionConfig, CaptionOptions
from recap_fast.errors import ConfigError
from recap_fast.generate.spec import EngineSpec
from recap_fast.machine import list_versions


class RunOptions(CaptionOptions, total=False):
    """The options of `recap-fast run` besides its engine, shards and output, by the same names. None: the default."""

    image_column: str | None
    """Column of Parquet inputs with the image bytes; None: found by type."""
    caption_column: str | None
    """Column of Parquet inputs with the original caption."""
    limit: int | None
    """Stop after so many images; the shard it stops in stays unfinished."""
    overwrite: bool
    """Delete the captions that are there and begin anew."""
    retry_failed: bool
    """Do rows with an error again."""
    redo_changed: bool
    """Do shards again whose input has changed."""
    shard_index: int | None
    """This process's part, from 0; None: SLURM_ARRAY_TASK_ID, else all."""
    num_shards: int | None
    """Processes that share the work; None: SLURM_ARRAY_TASK_COUNT, else 1."""
    drain_seconds: float
    """Time to finish captions in flight after a signal."""
    max_error_rate: float
    """The outcome says so where a larger share of the images has no caption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(CaptionConfig):
    """`recap-fast run`, as typed. Paths are as given; patterns are not expanded."""

    shards: tuple[str, ...]
    output: Path
    image_column: str | None = None
    caption_column: str | None = None
    limit: int | None = None
    overwrite: bool = False
    retry_failed: bool = False
    redo_changed: bool = False
    shard_index: int | None = None
    num_shards: int | None = None
    drain_seconds: float = 60.0
    max_error_rate: float = 0.1

    def __post_init__(self) -> None:
        CaptionConfig.__post_init__(self)
        if not self.shards:
            raise ConfigError("--shards is missing: give a tar, a pattern such as '{00000..00099}.tar', or a folder.")
        if re.match(r"[a-z][a-z0-9+.-]+:/", str(self.output)):  # a Path has one slash where the URL has two
            raise ConfigError(
                f"--output {self.output}: captions go to a local folder; copy it to an object store when it is done."
            )
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: give a count of at least 1.")
        if self.drain_seconds < 0:
            raise ConfigError(f"--drain-seconds {self.drain_seconds}: give 0 or more.")
        if not 0.0 <= self.max_error_rate <= 1.0:
            raise ConfigError(f"--max-error-rate {self.max_error_rate}: give a share from 0 to 1.")


def fingerprint(config: RunConfig, spec: EngineSpec, decoder: str) -> Mapping[str, str | int | bool | None]:
    """All that decides what the rows of a run say, by name.

    `spec` is the engine's, with the run's question; `decoder` is the name of the one that is used. Two runs may share
    an output folder only where these are equal. What merely decides how fast rows are made (slots, threads, the device)
    is left out, and so is the pixel limit: with another one, `--retry-failed` may rescue rows.
    """
    from recap_fast.write.schema import SCHEMA_VERSION  # pyarrow: not for a config that is refused

    s, pre = config.options.sampling, spec.preprocess
    sampled = f"temperature {s.temperature}, top_k {s.top_k}, top_p {s.top_p}, seed {s.seed}"
    return {
        "versions": list_versions(spec.backend, decoder),
        "schema": SCHEMA_VERSION,
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
