"""What a run was asked to do: one frozen record, checked when it is made. `cli` fills it, `launch` reads it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions

DEFAULT_MAX_FIELD_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """`recap-fast run`, as typed. Paths are as given; patterns are not expanded."""

    engine: Path
    shards: tuple[str, ...]
    output: Path
    options: EngineOptions = field(default_factory=EngineOptions)
    decoder: str = "auto"
    decode_threads: int = 1
    max_image_pixels: int
    """Images of more pixels are not decoded."""
    prompt: str | None = None
    """Asked instead of the engine's own question."""
    max_field_tokens: int = DEFAULT_MAX_FIELD_TOKENS
    image_column: str | None = None
    caption_column: str | None = None
    limit: int | None = None
    dry_run: bool = False
    overwrite: bool = False
    retry_failed: bool = False
    redo_changed: bool = False
    shard_index: int | None = None
    num_shards: int | None = None
    drain_seconds: float = 60.0
    max_error_rate: float = 0.1

    def __post_init__(self) -> None:
        if not self.shards:
            raise ConfigError("--shards is missing: give a tar, a pattern such as '{00000..00099}.tar', or a folder.")
        if re.match(r"[a-z][a-z0-9+.-]+:/", str(self.output)):  # a Path has one slash where the URL has two
            raise ConfigError(
                f"--output {self.output}: captions go to a local folder; copy it to an object store when it is done."
            )
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: give a count of at least 1.")
        if self.decode_threads < 1:
            raise ConfigError(f"--decode-threads {self.decode_threads}: give a count of at least 1.")
        if self.drain_seconds < 0:
            raise ConfigError(f"--drain-seconds {self.drain_seconds}: give 0 or more.")
        if not 0.0 <= self.max_error_rate <= 1.0:
            raise ConfigError(f"--max-error-rate {self.max_error_rate}: give a share from 0 to 1.")


def fingerprint(
    config: RunConfig, spec: Any, decoder: str, schema_version: int, versions: str
) -> Mapping[str, str | int | bool | None]:
    """All that decides what the rows of a run say, by name; `spec` is the engine's EngineSpec, with the run's question.

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


def default_decode_threads() -> int:
    """Half of the processors that this process may use: the others are for the engine, the reader and the writer."""
    return max(1, len(os.sched_getaffinity(0)) // 2)
