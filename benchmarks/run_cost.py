"""What a change costs a run: `recap-fast run` of two checkouts on the same shards, in turn.

    git worktree add /tmp/before COMMIT && cp recap_fast/*.so /tmp/before/recap_fast/
    PYTHONPATH=. python benchmarks/run_cost.py --before /tmp/before --engine ENGINE --shards 'SHARDS/*.tar'

Needs a Python that has the dependencies and no recap-fast installed: PYTHONPATH chooses the checkout.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from inputs.report import write_report
from recap_fast.bench.report import provenance

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    seconds: float
    cpu_s: float
    images_per_s: float
    """Of its own summary."""


def run(checkout: Path, engine: str, shards: str, more: list[str]) -> Run:
    """Captions the shards into a folder that is gone afterwards."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "recap_fast", "run", "--engine", engine, "--shards", shards]
        command += ["--output", f"{folder}/out", "--log-format", "json", *more]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{checkout} ended with {done.returncode}: {done.stderr}")
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (summary,) = (event for event in events if event["event"] == "summary")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, cpu_s, summary["images_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the commit before the change")
    parser.add_argument("--engine", required=True)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    parser.add_argument("more", nargs="*", help="further options of run, behind --")
    args = parser.parse_args()
    checkouts = {"before": args.before.resolve(), "now": ROOT}
    found: dict[str, list[Run]] = {"before": [], "now": []}
    for turn in range(args.repeat):
        for name in sorted(checkouts, reverse=turn % 2 == 1):
            found[name].append(run(checkouts[name], args.engine, args.shards, args.more))
            print(f"{name}: {found[name][-1]}", file=sys.stderr)
    lines = ["| checkout | seconds | CPU seconds | images/s | of each run |", "|---|---|---|---|---|"]
    for name, runs in found.items():
        middle = [statistics.median(getattr(r, field) for r in runs) for field in ("seconds", "cpu_s", "images_per_s")]
        each = ", ".join(f"{r.images_per_s:.1f}" for r in runs)
        lines.append(f"| {name} | {middle[0]:.2f} | {middle[1]:.2f} | {middle[2]:.1f} | {each} |")
    pairs = list(zip(found["before"], found["now"], strict=True))
    rate = statistics.median(now.images_per_s / before.images_per_s for before, now in pairs)
    cpu = statistics.median(now.cpu_s / before.cpu_s for before, now in pairs)
    lines.append(f"\nNow {rate:.3f} of the images a second and {cpu:.3f} of the CPU time (medians of the pairs).")
    print(text := "\n".join(lines))
    if args.output is not None:
        raw = {name: [asdict(r) for r in runs] for name, runs in found.items()}
        write_report(args.output, "What a change costs a run", provenance(["python", *sys.argv]), raw, text)


if __name__ == "__main__":
    main()
