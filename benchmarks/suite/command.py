"""One command for a machine, with a GPU or without: builds, checks, measures; a table last, JSON beside it.

    python benchmarks/suite --output benchmarks/results/DATE_MACHINE_gpu-suite
    python benchmarks/suite --only parity
    python benchmarks/suite --device cpu --size tiny        # shows on any machine that all parts run

Each part is a module of this folder and runs in a process of its own with a time limit, so that one that fails costs
no other. All of them together take less than `--minutes`: what does not fit any more is left out, and the table says
so. Exits with 1 where a part failed or was left out, or a figure missed its bar.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from inputs.card import describe_card, make_work_folder
from inputs.report import write_report
from recap_fast.bench.report import provenance
from suite.setting import RESUME, ROOT

PARTS = {
    "probe": 240,
    "build": 120,
    "parity": 150,
    "step": 270,
    "several": 90,
    "joycaption": 200,
    "end_to_end": 120,
    "ops": 90,
    "gemm": 60,
    "loader": 60,
    "agreement": 400,
}
"""In the order in which they run, what matters most first, with the most seconds that each may take."""
WORK_BYTES = 1 << 30
"""Of tars and small engines; the weights of the real size are drawn on the device."""
LAST_WORDS = 4000
"""Characters of a failed part's output that go into the JSON; the table has the last line."""
SETTINGS = ("device", "size", "num_slots", "prefill_images", "native", "expected")
Results = dict[str, dict[str, Any]]
"""What was found, by part."""


def run_part(part: str, setting: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """Runs a part in a process group of its own; what it found, seconds, and its last words where it failed.

    A part that ends with `RESUME` is started again, as long as it comes further, and goes on where it was.
    """
    file, start = Path(setting["work"]) / f"{part}.json", time.perf_counter()
    file.unlink(missing_ok=True)
    given = {**setting, "begun": time.time(), "limit_s": limit_s}
    with tempfile.TemporaryFile("w+") as log:
        code: int | None = RESUME
        while code == RESUME and (left := limit_s - (time.perf_counter() - start)) > 0:
            before = _size(file)
            code = _run_process(part, given, left, log)
            if code == RESUME and _size(file) == before:
                break
        log.seek(0)
        words = log.read()[-LAST_WORDS:]
    found: dict[str, Any] = {"lines": [], "details": {}}
    if file.is_file():  # what it found before it failed counts
        found = json.loads(file.read_text(encoding="utf-8"))
    error = None if code == 0 else f"stopped after {limit_s:.0f} s" if code is None else f"exit code {code}"
    seconds = round(time.perf_counter() - start, 1)
    return {**found, "seconds": seconds, "error": error, "output": words if error else ""}


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _run_process(part: str, setting: dict[str, Any], limit_s: float, log: IO[str]) -> int | None:
    """The exit code of a part; None where it had to be killed."""
    paths = [ROOT, ROOT / "benchmarks", ROOT / "demo"]
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*map(str, paths), *([inherited] if inherited else [])])
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "suite.run_part", part, json.dumps(setting)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        return process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_all(parts: Sequence[str], setting: dict[str, Any], minutes: float) -> Iterator[Results]:
    """Runs the parts in turn until the time is over; after each, all that was found so far."""
    end = time.monotonic() + 60 * minutes
    results: Results = {}
    for part in parts:
        left = end - time.monotonic()
        if left < 1:
            results[part] = {"lines": [], "details": {}, "seconds": 0.0, "error": "no time left", "output": ""}
        else:
            print(f"{part} ...", file=sys.stderr, flush=True)
            results[part] = run_part(part, setting, min(PARTS[part], left))
        yield results


def table(results: Results) -> str:
    """For people: what was found, what it had to be, and whether it was."""
    rows = [f"{'part':<13}{'what':<55}{'figure':>24}  bar", ""]
    for part, found in results.items():
        for name, line in zip([part, *[""] * len(found["lines"])], found["lines"], strict=False):
            verdict = {None: "", True: "met", False: "MISSED"}[line["met"]]
            ratio = f" ({line['ratio']:.2f})" if line.get("ratio") else ""
            rows.append(
                f"{name:<13}{line['what']:<55}{line['figure'] + ratio:>24}  {line['bar']:<13} {verdict}".rstrip()
            )
        if found["error"]:
            last = (found["output"].strip() or "said nothing").splitlines()[-1]
            rows.append(f"{part:<13}FAILED: {found['error']}: {last}")
    seconds = ", ".join(f"{part} {found['seconds']:.0f}" for part, found in results.items())
    has_ratios = any(line.get("ratio") for found in results.values() for line in found["lines"])
    legend = ["in brackets: the figure over what arithmetic.py expects"] if has_ratios else []
    return "\n".join([*rows, "", *legend, f"seconds: {seconds}"])


def is_good(results: Results) -> bool:
    """Whether every part ended well, and no figure is below its bar."""
    return all(not f["error"] and all(line["met"] is not False for line in f["lines"]) for f in results.values())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"instead of all: {', '.join(PARTS)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("real", "tiny"), default="real", help="real: the 8B models")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--num-slots", type=int, help="instead of the recipe's")
    parser.add_argument("--prefill-images", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--native", nargs="+", default=(), metavar="FOLDER", help="where native modules built elsewhere may be found"
    )
    parser.add_argument(
        "--expected", metavar="FILE", help="right tokens: WORK/expected.json of an earlier probe on a CPU"
    )
    parser.add_argument("--work", type=Path, help="a folder to keep engines and findings in; a temporary one otherwise")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite and returns the exit code."""
    args = parse(arguments)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    work = args.work or make_work_folder(WORK_BYTES if args.size == "real" else 0)
    work.mkdir(parents=True, exist_ok=True)
    setting = {name: getattr(args, name) for name in SETTINGS} | {"work": str(work)}
    command = ["python", *(sys.argv if arguments is None else arguments)]
    card, text, results = describe_card(), "", {}
    with ThreadPoolExecutor(1) as beside:
        about = beside.submit(provenance, command)  # imports torch, which takes seconds
        try:
            for results in run_all(args.only or list(PARTS), setting, args.minutes):
                text = f"card: {card}; clocks now: {describe_card()}\n\n{table(results)}"
                if args.output is not None:  # after every part, should the next one be the last
                    found = {"card": card, "parts": results}
                    write_report(args.output, "The GPU suite", about.result(), found, f"```\n{text}\n```")
        finally:
            if args.work is None:
                shutil.rmtree(work)
    print(text)
    return 0 if is_good(results) else 1
