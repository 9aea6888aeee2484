"""What `recap-fast bench` was asked to do: one frozen record, checked when it is made."""

from dataclasses import dataclass, fields
from pathlib import Path

from recap_fast.captioner.config import CaptionConfig
from recap_fast.errors import ConfigError
from recap_fast.launch.config import RunConfig

STAGES = ("read", "decode", "generate", "write", "end-to-end")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig(CaptionConfig):
    """`recap-fast bench`, as typed."""

    shards: tuple[str, ...] = ()
    """As `run` takes them; none: made-up photographs."""
    stages: tuple[str, ...] = STAGES
    limit: int = 256
    """Images to measure with; they are held in memory."""
    repeat: int = 3
    image_size: tuple[int, int] = (512, 384)
    """Width and height of the made-up photographs."""

    def __post_init__(self) -> None:
        CaptionConfig.__post_init__(self)
        for name in ("limit", "repeat"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)}: give a count of at least 1.")
        if min(self.image_size) < 16:
            raise ConfigError(f"--image-size {'x'.join(map(str, self.image_size))}: give at least 16x16.")
        if unknown := sorted(set(self.stages) - set(STAGES)):
            raise ConfigError(f"--stage {unknown[0]}: there are {', '.join(STAGES)}.")

    def run_config(self, output: Path) -> RunConfig:
        """A run with these images, which begins anew whenever it is called."""
        shared = {f.name: getattr(self, f.name) for f in fields(CaptionConfig)}
        return RunConfig(
            **shared, shards=self.shards, output=output, limit=self.limit, overwrite=True, max_error_rate=1.0
        )
