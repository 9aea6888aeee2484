"""The dataset card, so that the Hub's viewer and `load_dataset` read it as it stands."""

import os
from collections.abc import Mapping
from pathlib import Path

from recap_fast import atomic
from recap_fast.write.output_folder import DATA_FILES, OutputFolder

_TITLE = "# Captions by recap-fast"
"""Tells a card of a run from a user's own."""
_CARD = """---
configs:
- config_name: default
  data_files: {data_files}
tags:
- image-captioning
- recap-fast
---
# Captions by recap-fast

One Parquet file per input shard, one row per input image, in input order. `re_caption` is the generated caption,
`org_caption` the one that came with the image. A row whose `status` is not `ok` has no caption, and says why in
`error`. `(shard, index)` tells which image it was, and `file_name` which file; `key`, `url`, `uid`, `sha256` and
`metadata` are as they came.

| what | value |
|---|---|
{rows}

```python
import datasets

captions = datasets.load_dataset("PATH_OF_THIS_FOLDER", split="train")
```
"""


def write_card(output: OutputFolder, facts: Mapping[str, str]) -> None:
    """Writes the card, unless the user has put a file of their own in its place."""
    path = output.card
    if os.path.lexists(path) and not is_own(path):
        return
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    atomic.atomic_write(path, _CARD.format(rows=rows, data_files=DATA_FILES).encode())


def is_own(path: Path) -> bool:
    """Whether what lies there is a card that a run has written."""
    return path.is_file() and _TITLE in path.read_text(encoding="utf-8", errors="replace")


def _cell(value: str) -> str:
    """One line in which no character ends the cell."""
    return " ".join(value.split()).replace("|", "\\|")
