"""What `verify` finds, in short."""

from pathlib import Path

from recap_fast.api import verify


def faults_of(output: Path, *inputs: object) -> list[tuple[str, str]]:
    """Kind and sentence of each fault."""
    return [(fault.kind, fault.sentence) for fault in verify(output, [str(each) for each in inputs]).faults]
