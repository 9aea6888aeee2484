"""The dataset card, so that the Hub's viewer and `load_dataset` read it as it stands.

A run writes two marked pieces of it: the configurations in the YAML header, and what the captions were made with. Later
runs replace only what is between the marks. Users may change everything else.
"""

import re
from collections.abc import Mapping, Sequence

from recap_fast.write.output_folder import CARD, DATA_FILES, PARTIAL_FILES, OutputFolder
from recap_fast.write.rows import SCORES

_CONFIGS = "# recap-fast writes the lines from here\n{}# to here\n"
MAX_BYTES = 16 << 20
"""Largest card that is read."""
_FACTS = "<!-- recap-fast writes the lines from here -->\n{}<!-- to here -->\n"
_CARD = """---
{configs}tags:
- image-captioning
- recap-fast
---
# Captions by recap-fast

One Parquet file per input shard, one row per input image, in input order. `re_caption` is the generated caption,
`org_caption` the one that came with the image. A row whose `status` is not `ok` has no caption, and says why in
`error`. Where a run asks several prompts, or draws them, `captions` has all captions of the image; the first of them is
`re_caption`. `(shard, index)` tells which image it was, and `file_name` which file; `key`, `url`, `uid`, `sha256` and
`metadata` are as they came. While a run lasts, `partial` has the rows of shards that are not finished.

{facts}
```python
import datasets

captions = datasets.load_dataset("PATH_OF_THIS_FOLDER", split="train")
```

The captions are under the license of the model that wrote them. To publish them, add a `license` above, and run `hf
upload NAME/DATASET PATH_OF_THIS_FOLDER --repo-type dataset --exclude local.json --exclude "partial/**" --exclude
"workers/**" --exclude "decoding/**" --exclude report.html`: `local.json` has paths of the machine, the folders name
machines, and a report has images in it.
"""


def write_card(output: OutputFolder, facts: Mapping[str, str]) -> None:
    """Writes the card; if it is there already, only its marked pieces. A card without marks is the user's own."""
    rows = "".join(f"| {name} | {cell(value)} |\n" for name, value in facts.items())
    pieces = (_CONFIGS, _configs(output)), (_FACTS, f"\n| what | value |\n|---|---|\n{rows}\n")
    configs, table = (marks.format(content) for marks, content in pieces)
    if not _write_pieces(output, pieces):
        output.store.create(CARD, _CARD.format(configs=configs, facts=table).encode("utf-8", "surrogateescape"))


def write_configs(output: OutputFolder) -> None:
    """Writes the configurations anew, for files that have come since; a card that is not there is not made."""
    _write_pieces(output, [(_CONFIGS, _configs(output))])


def _write_pieces(output: OutputFolder, pieces: Sequence[tuple[str, str]]) -> bool:
    """Puts text between marks, where the card has these; False if there is no card."""
    try:
        content, _ = output.store.read(CARD, MAX_BYTES)
    except FileNotFoundError:
        return False
    except ValueError:  # something else has its name
        return True
    old = text = content.decode("utf-8", "surrogateescape")
    for marks, piece in pieces:
        begin, end = marks.split("{}")
        if (found := re.search(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", text, re.S)) is not None:
            text = text[: found.start()] + piece + text[found.end() :]
    if text != old:
        output.store.put(CARD, text.encode("utf-8", "surrogateescape"))
    return True


def _configs(output: OutputFolder) -> str:
    """The configurations. `load_dataset` fails if the first one has no files, so until a shard is finished, it has the
    rows of unfinished ones."""
    scores = "".join(
        f"- config_name: {kind}_scores\n  data_files: {output.score_files(kind)}\n"
        for kind in SCORES
        if output.has_scores(kind)
    )
    files = [DATA_FILES] if output.has_data else [DATA_FILES, PARTIAL_FILES]
    default = "".join(f"  - {pattern}\n" for pattern in files)
    return (
        f"configs:\n- config_name: default\n  data_files:\n{default}"
        f"- config_name: partial\n  data_files: {PARTIAL_FILES}\n{scores}"
    )


def cell(value: str) -> str:
    """The value on one line of the file, without characters that end a table's cell."""
    return "<br>".join(" ".join(line.split()) for line in value.splitlines() if line.strip()).replace("|", "\\|")
