"""What a run is asked to do: one frozen record, checked when it is made. Which of its settings decide the rows."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from recap_fast.addresses import public_url, scrub
from recap_fast.captioner.config import CaptionConfig, CaptionOptions
from recap_fast.errors import ConfigError
from recap_fast.generate.prompts import Asked, choose, is_plain, text_of
from recap_fast.generate.spec import EngineSpec
from recap_fast.machine import list_versions
from recap_fast.records import ACCEPTABLE, FAILURES, SCHEMA_VERSION, Selection
from recap_fast.shards.remote.access import absolute

_RELOCATION = re.compile(r"(.+?)=([/~.].*|[a-zA-Z][a-zA-Z0-9+.-]*://.*)")
_SELECTION = tuple(field.name for field in fields(Selection))


class RunOptions(CaptionOptions, total=False):
    """The options of `recap-fast run` apart from engine, shards and output, by the same names. None is the default."""

    image_column: str | None
    """Column of Parquet inputs with the image bytes; None: found by type."""
    caption_column: str | None
    """Column of Parquet inputs with the original caption."""
    limit: int | None
    """Stop after so many images; the shard it stops in stays unfinished."""
    dedup: bool
    """Caption images of the same bytes once, where captions are greedy; each row has the caption."""
    overwrite: bool
    """Delete what other commands have written; the same command goes on where it was stopped."""
    images: Literal["first", "all"]
    """Which images have a row if a sample has several: the first, or all."""
    image_key: str | None
    """The image that has a row if a sample has several: its extension in a tar, its column in a Parquet file."""
    retry_failed: str | Sequence[str]
    """Retry the images whose rows have one of these statuses, 'truncated,corrupt'; 'all' stands for every error."""
    redo_changed: bool
    """Caption shards again whose input has changed; in folders only the images that have changed."""
    prune: bool
    """Remove the rows of images that are gone from their folder."""
    relocate: Sequence[str]
    """Folders of inputs that were moved, each as 'OLD=NEW'."""
    accept_changed: str | Sequence[str]
    """Settings that may differ from those of the rows that are there: 'decoder', 'versions'."""
    part: str | None
    """Which part to caption, '3/8' for part 3 of 8; None: what torchrun or Slurm give this process, or all."""
    shard_index: int | None
    """Instead of `part`: the part, counted from 0; together with `num_shards`."""
    num_shards: int | None
    """Instead of `part`: the number of parts."""
    ray: str | None
    """Run on a Ray cluster: its address, 'auto' for the one of this machine, 'local' to start one here; None: in this
    process. Once for all workers: not with `part`."""
    min_workers: int
    """Workers to ask the cluster for in any case, also where there is no room for them yet."""
    max_workers: int | None
    """Workers at most; None: as many as there is room for."""
    ray_worker_cpus: int
    """CPUs to ask for with each worker."""
    runtime_env: Path | None
    """JSON file with Ray's runtime environment for the workers."""
    drain_seconds: float
    """Time to finish captions in flight after a signal."""
    read_timeout: float
    """A read that brings no data for so many seconds is given up."""
    metrics_port: int | None
    """Port on which Prometheus reads the run's metrics; 0 takes a free one."""
    max_error_rate: float
    """If a larger share of the images has no caption, the outcome is ERROR_RATE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(CaptionConfig):
    """The options of `recap-fast run` as they were typed. Patterns are not expanded."""

    shards: tuple[str, ...]
    output: str
    """A local folder, or a URL of an object store."""
    image_column: str | None = None
    caption_column: str | None = None
    limit: int | None = None
    dedup: bool = True
    overwrite: bool = False
    images: Literal["first", "all"] = "first"
    image_key: str | None = None
    retry_failed: tuple[str, ...] = ()
    redo_changed: bool = False
    prune: bool = False
    relocate: tuple[tuple[str, str], ...] = ()
    accept_changed: tuple[str, ...] = ()
    part: str | None = None
    shard_index: int | None = None
    num_shards: int | None = None
    ray: str | None = None
    min_workers: int = 0
    max_workers: int | None = None
    ray_worker_cpus: int = 1
    runtime_env: Path | None = None
    drain_seconds: float = 60.0
    read_timeout: float = 30.0
    metrics_port: int | None = None
    max_error_rate: float = 0.1

    def __post_init__(self) -> None:
        CaptionConfig.__post_init__(self)
        if not self.shards:
            raise ConfigError("--shards is missing: give a tar, a pattern such as '{00000..00099}.tar', or a folder.")
        if self.images != "first" and self.image_key is not None:
            raise ConfigError("--images all and --image-key: give one of them.")
        _check_names("--retry-failed", self.retry_failed, ("all", *FAILURES))
        _check_names("--accept-changed", self.accept_changed, ACCEPTABLE)
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: give a count of at least 1.")
        _check_cluster(self)
        if self.drain_seconds < 0:
            raise ConfigError(f"--drain-seconds {self.drain_seconds}: give 0 or more.")
        if not self.read_timeout > 0:
            raise ConfigError(f"--read-timeout {self.read_timeout}: give a number of seconds above 0.")
        if self.metrics_port is not None and not 0 <= self.metrics_port < 1 << 16:
            raise ConfigError(f"--metrics-port {self.metrics_port}: give a port up to 65535, or 0 for a free one.")
        if not 0.0 <= self.max_error_rate <= 1.0:
            raise ConfigError(f"--max-error-rate {self.max_error_rate}: give a share from 0 to 1.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """As `CaptionConfig.of`. A list may also be a text with commas."""
        flat = dict(given)
        for name in ("retry_failed", "accept_changed"):
            flat[name] = _words(flat.get(name) or ())
        flat["relocate"] = tuple(relocation(text) for text in flat.get("relocate") or ())
        return super(RunConfig, cls).of(flat)

    @property
    def selection(self) -> Selection:
        """Which images of a shard are captioned."""
        return Selection(self.image_column, self.caption_column, self.images, self.image_key)


def _check_cluster(config: RunConfig) -> None:
    """Raises ConfigError where the options of a cluster contradict each other or others."""
    least, most, device = config.min_workers, config.max_workers, config.options.device
    if config.ray is None:
        given = {"--min-workers": least, "--max-workers": most, "--runtime-env": config.runtime_env}
        if names := [name for name, value in given.items() if value]:
            raise ConfigError(f"{names[0]} is for Ray: give --ray ADDRESS, auto or local with it.")
        return
    if config.part is not None or config.shard_index is not None or config.num_shards is not None:
        raise ConfigError("--part and --ray: the workers of a cluster share all shards, so leave --part out.")
    if config.ray.startswith("ray://"):
        raise ConfigError(
            f"--ray {public_url(config.ray)}: Ray's client has no workers of ours. Start the command on a machine of "
            "the cluster with --ray auto, or by `ray job submit`."
        )
    if ":" in device:
        raise ConfigError(f"--device {device} and --ray: Ray gives each worker its GPU. Give --device cuda, or none.")
    if least < 0 or (most is not None and most < max(1, least)):
        raise ConfigError(
            f"--min-workers {least} and --max-workers {most}: give counts of which the first is not the larger one."
        )
    if config.ray_worker_cpus < 1:
        raise ConfigError(f"--ray-worker-cpus {config.ray_worker_cpus}: give a count of at least 1.")


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    words = given.split(",") if isinstance(given, str) else given
    return tuple(word.strip() for word in words if word.strip())


def relocation(text: str) -> tuple[str, str]:
    """The two folders of 'OLD=NEW'. Raises ConfigError for other texts.

    A folder such as `date=2026` has a '=' of its own: NEW begins where a path or a URL does, else after the first '='.
    """
    match = _RELOCATION.fullmatch(text) or re.fullmatch(r"([^=]+)=(.+)", text)
    if match is None:
        raise ConfigError(f"--relocate {scrub(text)}: give the old folder, '=' and the new one.")
    old, new = match.groups()
    return public_url(absolute(old)), public_url(absolute(new))


def parse_statuses(option: str, text: str) -> tuple[str, ...]:
    """Statuses of rows without a caption, from a text with commas. Raises ConfigError for unknown ones."""
    statuses = _words(text)
    _check_names(option, statuses, FAILURES)
    return statuses


def _check_names(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{option} {name}: give one of {', '.join(known)}.{hint}")


def fingerprint(config: RunConfig, spec: EngineSpec, decoder: str) -> Mapping[str, Any]:
    """All settings that decide what the rows of a run say, by name. Runs may share an output folder if these are equal.

    `spec` is the engine's. `decoder` is the name of the decoder in use. Settings that only decide how fast rows are
    made (slots, threads, the device, dedup) are left out. So is the pixel limit: with another one, `--retry-failed` may
    rescue rows. Raises ConfigError for prompts that are unknown and sampling that cannot be.
    """
    s, pre = config.of_engine(spec).options.sampling, spec.preprocess
    asked = choose(spec.prompt, config.prompt)
    sampled = f"temperature {s.temperature}, top_k {s.top_k}, top_p {s.top_p}, seed {s.seed}"
    return {
        "versions": list_versions(spec.backend, decoder),
        "schema": SCHEMA_VERSION,
        "engine": spec.name,
        **{f"engine.{name}": digest for name, digest in sorted(spec.files.items())},
        "precision": spec.precision,
        "kv_precision": spec.kv_precision,
        "template": spec.prompt.template,
        **_prompts(asked, config.num_captions, s.seed),
        "max_field_tokens": config.max_field_tokens,
        "preprocess": f"{pre.mode} {pre.image_size}, mean {pre.mean}, std {pre.std}"
        + (f", {pre.resample}" if pre.resample != "bicubic" else ""),
        "decoder": decoder,
        **{name: getattr(config, name) for name in _SELECTION},
        "background": config.background,
        "stop_ids": ",".join(map(str, spec.stop_ids)),
        "max_new_tokens": config.options.max_new_tokens or spec.limits.max_new_tokens,
        "loop_stop": config.options.loop_stop,
        "sampling": "greedy" if s.temperature == 0 else sampled,
    }


def _prompts(asked: Sequence[Asked], num_captions: int, seed: int) -> dict[str, Any]:
    """The questions; where rows have a list of captions, also what `write/caption_lists.py` reads."""
    prompt = {"prompt": text_of(asked, num_captions)}
    if is_plain(asked, num_captions):
        return prompt
    return prompt | {"prompts": [each.as_json(seed) for each in asked], "num_captions": num_captions}


def selection_of(marks: Mapping[str, Any]) -> Selection:
    """Which images of a shard the run with this fingerprint captioned."""
    return Selection(**{name: marks[name] for name in _SELECTION})


def command_name(config: RunConfig, marks: Mapping[str, Any]) -> str:
    """A name for a command that writes to a folder, made from its settings and its inputs.

    It stays the same after an upgrade of libraries, and on a machine with another decoder.
    """
    patterns = [public_url(pattern) for pattern in config.shards]
    settings = {**{name: value for name, value in marks.items() if name not in ACCEPTABLE}, "decoder": config.decoder}
    return hashlib.sha256(json.dumps([settings, patterns]).encode()).hexdigest()[:32]
