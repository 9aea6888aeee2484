"""Notes of processes at work, as those of other machines leave them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.workers import Work, note_name, write_note

ELSEWHERE = "another-host~12"
WORK: dict[str, Any] = {
    "host": "box",
    "pid": 12,
    "part": "1/1",
    "device": "NVIDIA H100",
    "is_gpu": True,
    "started_s": 1.5e9,
    "state": "running",
    "held_s": 1800.0,
}


def make_work(**changed: Any) -> Work:
    return Work(**{**WORK, **changed})


def leave_note(
    output: OutputFolder, work: Work, shards: Sequence[str], *, owner: str = ELSEWHERE, age_s: float = 0.0
) -> str:
    """Writes the note that a process has left so long ago in a local folder; returns its name."""
    name = note_name(shards, "00", owner)
    write_note(output.store, name, work)
    path = Path(output.store.shown(name))
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))
    return name
