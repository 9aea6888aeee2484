"""A run in this process: its config, what it said and what it came to."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from recap_fast.generate.engine import EngineOptions
from recap_fast.launch.config import RunConfig
from recap_fast.launch.execute import run
from recap_fast.launch.reporter import Reporter
from recap_fast.launch.result import RunResult
from recap_fast.pipeline.counters import RunCounters, Snapshot


class Recorder(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(None)
        self.said: list[tuple[str, str]] = []

    def event(self, name: str, text: str, **_: Any) -> None:
        self.said.append((name, text))

    def progress(self, counters: RunCounters) -> AbstractContextManager[None]:
        self.begun = counters.snapshot()
        return super().progress(counters)


class Launch:
    """A run that has ended."""

    def __init__(self, config: RunConfig):
        self._recorder = Recorder()
        self.result: RunResult = run(config, self._recorder)
        self.outcome = self.result.outcome

    @property
    def begun(self) -> Snapshot:
        """How far the run was before its first shard was opened."""
        return self._recorder.begun

    def __getitem__(self, name: str) -> str:
        """What was said under this name."""
        return "\n".join(text for said, text in self._recorder.said if said == name)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self._recorder.said]


def make_config(tiny_engine: Path, inputs: Path, **changed) -> RunConfig:
    given = {
        "engine": tiny_engine,
        "shards": (f"{inputs}/*.tar",),
        "output": inputs.parent / "out",
        "decoder": "pillow",
        "decode_threads": 1,
        "max_image_pixels": 10**6,
        "options": EngineOptions(device="cpu", max_new_tokens=4),
    }
    if isinstance(changed.get("prompt"), str):
        changed["prompt"] = (changed["prompt"],)
    return RunConfig(**{**given, **changed})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
