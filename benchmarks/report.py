"""Seconds and memory of `recap-fast report`, by the number of rows; rows without inputs, so no images are read.

    python benchmarks/report.py --output benchmarks/results/DATE_MACHINE_report
    python benchmarks/report.py --rows 100000 --baseline --images

Each report is made by a process of its own, on two processors. `--baseline` adds reports of two outputs beside each
other, `--images` makes tars of small pictures, from which those of the gallery are read.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from inputs.captions import write_output
from inputs.report import write_report
from recap_fast.bench.report import provenance

MAX_SECONDS, MAX_BYTES = 60.0, 10**9
"""Of a million rows on two cores."""
NUM_CPUS = 2


@dataclass(frozen=True)
class Run:
    """A report that was made."""

    rows: int
    has_baseline: bool
    seconds: float
    cpu_s: float
    """Processor time, which depends less on what else the machine does."""
    peak_bytes: int
    """Resident memory of the process."""
    html_bytes: int


def make_report(rows: int, output: str, page: Path, baseline: str | None) -> Run:
    """Runs the command, start of Python included."""
    command = [sys.executable, "-m", "recap_fast", "report", output, "--html", str(page)]
    command += [] if baseline is None else ["--baseline", baseline]
    cpus = sorted(os.sched_getaffinity(0))[:NUM_CPUS]
    start = time.perf_counter()
    process = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, cpus), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"the report on {rows:,} rows ended with {process.returncode}")
    cpu_s = usage.ru_utime + usage.ru_stime
    run = Run(rows, baseline is not None, seconds, cpu_s, usage.ru_maxrss * 1024, page.stat().st_size)
    print(
        f"{rows:,} rows: {run.seconds:.1f} s, {run.cpu_s:.1f} s of processors, {run.peak_bytes / 1e9:.3f} GB",
        file=sys.stderr,
    )
    return run


def measure(args: argparse.Namespace) -> list[Run]:
    """The reports on outputs of each size, smallest first."""
    found = []
    for rows in sorted(args.rows):
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            output = write_output(folder, rows, images=args.images)
            baselines = [None]
            if args.baseline:
                baselines.append(write_output(folder / "other", rows, seed=1).address)
            for baseline in baselines:
                found += [make_report(rows, output.address, folder / "p.html", baseline) for _ in range(args.repeat)]
    return found


def table(runs: list[Run]) -> tuple[str, bool]:
    """The figures as markdown, and whether they are as wanted."""
    lines = ["| rows | baseline | seconds | CPU seconds | peak memory, GB | page, kB |", "|---|---|---|---|---|---|"]
    for run in runs:
        what = "yes" if run.has_baseline else "no"
        size = f"{run.peak_bytes / 1e9:.3f} | {run.html_bytes / 1e3:.0f}"
        lines.append(f"| {run.rows:,} | {what} | {run.seconds:.1f} | {run.cpu_s:.1f} | {size} |")
    million = [run for run in runs if run.rows == 1_000_000 and not run.has_baseline]
    is_met = all(run.seconds < MAX_SECONDS and run.peak_bytes < MAX_BYTES for run in million)
    wanted = f"Wanted for a million rows: under {MAX_SECONDS:.0f} s and {MAX_BYTES / 1e9:.0f} GB."
    return "\n".join([*lines, "", wanted]), is_met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--repeat", type=int, default=1, help="reports of each kind")
    parser.add_argument("--baseline", action="store_true", help="two outputs beside each other, too")
    parser.add_argument("--images", action="store_true", help="read the images of the gallery")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    args = parser.parse_args()
    runs = measure(args)
    text, is_met = table(runs)
    print(text)
    if args.output is not None:
        about = provenance(["python", *sys.argv])
        write_report(args.output, "A report on a million rows", about, {"runs": [asdict(run) for run in runs]}, text)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
