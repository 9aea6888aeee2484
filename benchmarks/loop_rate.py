"""How often loop stop takes ordinary text for a loop: docstrings of Python's standard library, as a captioner's tokens.

    python benchmarks/loop_rate.py --tokenizer DIR --json benchmarks/results/DATE_loop-rate.json

`--tokenizer` is a folder with a tokenizer.json or a tiktoken tokenizer.model (llama-models ships Llama 3's). Each text
is cut into windows of 128 tokens, the length of a caption; a window counts once. Prose is what has no tables or code.
"""

import argparse
import ast
import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recap_fast.bench.report import provenance
from recap_fast.generate.loop_detector import LoopDetector
from recap_fast.generate.tokenizer import load_tokenizer

WINDOW, SHORTEST = 128, 32
NOT_PROSE = re.compile(r">>>|::|[=\-*_#~]{4}|^\s*[|+]", re.MULTILINE)


def docstrings() -> Iterator[str]:
    """Those over 200 characters, of modules, classes and functions."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # the library's own tests hold files that are wrong on purpose
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                continue
            if len(text := ast.get_docstring(node) or "") > 200:
                yield text


def count_loops(windows: Sequence[NDArray[np.int32]]) -> int:
    """The windows in which the detector finds a loop at some token."""
    detector, found = LoopDetector(len(windows)), np.zeros(len(windows), bool)
    for step in range(WINDOW):
        rows = np.array([i for i, w in enumerate(windows) if len(w) > step and not found[i]], np.int64)
        tokens = np.array([windows[i][step] for i in rows], np.int32)
        found[rows[detector.update(rows, tokens) > 0]] = True
    return int(found.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    texts = list(docstrings())
    rows = []
    for name, chosen in (("prose", [t for t in texts if not NOT_PROSE.search(t)]), ("all", texts)):
        ids = [tokenizer.encode(text) for text in chosen]
        cut = [i[n : n + WINDOW] for i in ids for n in range(0, len(i), WINDOW) if len(i) - n >= SHORTEST]
        loops = count_loops(cut)
        rows.append({"text": name, "windows": len(cut), "loops": loops})
        print(f"{name:<6}{len(cut):>8} windows {loops:>5} loops {loops / len(cut):>9.3%}")
    if args.json:
        about = provenance(["python", "benchmarks/loop_rate.py", *sys.argv[3:]])
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
