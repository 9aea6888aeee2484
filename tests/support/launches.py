"""`launch.run` in this process: its config, what it said and how it ended."""

import json
from pathlib import Path

from recap_fast.generate.engine import EngineOptions
from recap_fast.launch.config import RunConfig


class Outcome:
    """What a run said and how it ended."""

    def __init__(self, code: int, text: str):
        self.code, self.events = code, [json.loads(line) for line in text.splitlines()]

    def __getitem__(self, name: str) -> str:
        """The messages of the events of this name."""
        return "\n".join(event["message"] for event in self.events if event["event"] == name)

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


def make_config(tiny_engine: Path, inputs: Path, **changed) -> RunConfig:
    given = {
        "engine": tiny_engine,
        "shards": (f"{inputs}/*.tar",),
        "output": inputs.parent / "out",
        "decoder": "pillow",
        "max_image_pixels": 10**6,
        "options": EngineOptions(device="cpu", max_new_tokens=4),
    }
    return RunConfig(**{**given, **changed})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
