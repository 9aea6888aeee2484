"""Files of results: what a command printed as markdown, and all that it found as JSON."""

import json
from pathlib import Path
from typing import Any


def write_report(output: Path, title: str, about: dict[str, Any], found: dict[str, Any], body: str) -> None:
    """Writes PATH.json and PATH.md. `about` is where the figures come from, `recap_fast.bench.report.provenance`."""
    output.with_suffix(".json").write_text(json.dumps({**about, **found}, indent=1) + "\n", encoding="utf-8")
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    output.with_suffix(".md").write_text(
        f"# {title}\n\n- command: `{' '.join(about['command'])}`\n- commit: {about['commit']}\n"
        f"- versions: {versions}\n\n{body}\n",
        encoding="utf-8",
    )
