"""Shows what the demo made: captions beside the truth, and the images that got none, with the reasons.

python demo/show.py CAPTIONS TRUTH.json
"""

import json
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq

SHOWN = 10


def show(captions: Path, truth_file: Path) -> None:
    """Prints ten captions spread over the rows, the failures, and how many captions are the whole truth."""
    truth: dict[str, str] = json.loads(truth_file.read_text(encoding="utf-8"))
    rows = [row for path in sorted(captions.glob("data/**/*.parquet")) for row in pq.read_table(path).to_pylist()]
    known = [row for row in rows if row["re_caption"] is not None and _name(row) in truth]
    for row in known[:: max(1, len(known) // SHOWN)][:SHOWN]:
        exact = row["re_caption"] == truth[_name(row)]
        print(f"\n{_name(row)}  alt text: {_short(row['org_caption'])}")
        _print("caption", row["re_caption"])
        _print("truth", "the same" if exact else truth[_name(row)])
    failed = [row for row in rows if row["status"] != "ok"]
    print(f"\n{len(failed)} of {len(rows)} images have no caption:")
    for row in failed:
        print(f"  {_name(row):<10}{row['status']:<16}{row['error']}")
    exact = sum(row["re_caption"] == truth[_name(row)] for row in known)
    print(f"\n{exact} of {len(known)} captions of drawn scenes are right, word for word ({exact / len(known):.1%}).\n")


def _name(row: dict) -> str:
    return f"{row['shard']}/{row['index']}"


def _short(text: str | None) -> str:
    return textwrap.shorten(text or "none", 80, placeholder=" ...")


def _print(label: str, text: str) -> None:
    print(textwrap.fill(text, 118, initial_indent=f"  {label:<9}", subsequent_indent=" " * 11))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    show(Path(sys.argv[1]), Path(sys.argv[2]))
