"""One command for a machine with a GPU and no network: builds, checks, measures; a table last, JSON beside it.

    python benchmarks/suite --output benchmarks/results/DATE_MACHINE_gpu-suite
    python benchmarks/suite --only parity
    python benchmarks/suite --device cpu --size tiny        # shows on any machine that all parts run

Each part (benchmarks/gpu/) runs in a process of its own with a time limit, so that one that fails costs no other. All
of them together take less than `--minutes`: what does not fit any more is left out, and the table says so. Exits with 1
where a part failed or a figure is below its bar.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite.setting import ROOT

PARTS = {
    "build": 120,
    "parity": 150,
    "step": 270,
    "end_to_end": 120,
    "ops": 90,
    "gemm": 60,
    "loader": 60,
    "transformers": 90,
    "trtllm": 240,
}
"""In the order in which they run, what matters most first, with the most seconds that each may take."""
SHARED_MEMORY = Path("/dev/shm")
ENGINE_BYTES = 32 << 30
"""Of the engines in both precisions, and tars, at the real size."""
NVIDIA_SMI = "name,driver_version,power.limit,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,memory.total"
LAST_WORDS = 4000
"""Characters of a failed part's output that go into the JSON; the table has the last line."""


def describe_card() -> str:
    """Name, driver, power limit and clocks of the cards, as nvidia-smi has them."""
    command = ["nvidia-smi", f"--query-gpu={NVIDIA_SMI}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "no nvidia-smi"
    return done.stdout.strip()


def run_part(part: str, setting: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """Runs a part in a process group of its own; what it found, seconds, and its last words where it failed."""
    paths = [ROOT, ROOT / "benchmarks", ROOT / "tests", ROOT / "demo"]
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*map(str, paths), *([inherited] if inherited else [])])
    command = [sys.executable, "-m", "suite.run_part", part, json.dumps(setting)]
    file, start = Path(setting["work"]) / f"{part}.json", time.perf_counter()
    file.unlink(missing_ok=True)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        words = log.read()[-LAST_WORDS:]
    found: dict[str, Any] = {"lines": [], "details": {}}
    if file.is_file():  # what it found before it failed counts
        found = json.loads(file.read_text(encoding="utf-8"))
    error = None if code == 0 else f"stopped after {limit_s:.0f} s" if code is None else f"exit code {code}"
    seconds = round(time.perf_counter() - start, 1)
    return {**found, "seconds": seconds, "error": error, "output": words if error else ""}


def run_all(parts: Sequence[str], setting: dict[str, Any], minutes: float) -> dict[str, Any]:
    """Runs the parts in turn until the time is over."""
    end, results = time.monotonic() + 60 * minutes, {}
    for part in parts:
        left = end - time.monotonic()
        if left < 1:
            results[part] = {"lines": [], "details": {}, "seconds": 0.0, "error": "no time left", "output": ""}
            continue
        print(f"{part} ...", file=sys.stderr, flush=True)
        results[part] = run_part(part, setting, min(PARTS[part], left))
    return results


def table(results: dict[str, Any]) -> str:
    """For people: what was found, what it had to be, and whether it was."""
    rows = []
    for part, found in results.items():
        for name, line in zip([part, *[""] * len(found["lines"])], found["lines"], strict=False):
            verdict = {None: "", True: "met", False: "MISSED"}[line["met"]]
            rows.append(f"{name:<13}{line['what']:<55}{line['figure']:>19}  {line['bar']:<13} {verdict}".rstrip())
        if found["error"]:
            last = (found["output"].strip() or "said nothing").splitlines()[-1]
            rows.append(f"{part:<13}FAILED: {found['error']}: {last}")
    seconds = ", ".join(f"{part} {found['seconds']:.0f}" for part, found in results.items())
    return "\n".join([*rows, "", f"seconds: {seconds}"])


def is_good(results: dict[str, Any]) -> bool:
    """Whether every part ended well, and no figure is below its bar."""
    return all(not f["error"] and all(line["met"] is not False for line in f["lines"]) for f in results.values())


def make_work_folder(num_bytes: int) -> Path:
    """A temporary folder with room for so much, in memory where that is large; 0 for what is small anyway."""
    roomy = num_bytes and SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > num_bytes
    return Path(tempfile.mkdtemp(prefix="gpu-suite-", dir=SHARED_MEMORY if roomy else None))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("real", "tiny"), default="real")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--num-slots", type=int, help="instead of the recipe's")
    parser.add_argument("--prefill-images", type=int)
    parser.add_argument("--work", type=Path, help="a folder to keep engines and findings in; a temporary one otherwise")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite and returns the exit code."""
    args = parse(arguments)
    work = args.work or make_work_folder(ENGINE_BYTES if args.size == "real" else 0)
    work.mkdir(parents=True, exist_ok=True)
    setting = {name: getattr(args, name) for name in ("device", "size", "num_slots", "prefill_images")}
    card = describe_card()
    try:
        results = run_all(args.only or list(PARTS), {**setting, "work": str(work)}, args.minutes)
    finally:
        if args.work is None:
            shutil.rmtree(work)
    text = f"card: {card}; clocks now: {describe_card()}\n\n{table(results)}"
    print(text)
    if args.output is not None:
        write_results(args.output, text, card, results, sys.argv if arguments is None else list(arguments))
    return 0 if is_good(results) else 1


def write_results(output: Path, text: str, card: str, results: dict[str, Any], command: Sequence[str]) -> None:
    """Writes what was printed as markdown, and all of it as JSON."""
    sys.path.insert(0, str(ROOT))
    from recap_fast.bench.report import provenance

    about = provenance(["python", *command])
    content = {**about, "card": card, "parts": results}
    output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    output.with_suffix(".md").write_text(
        f"# The GPU suite\n\n- command: `python {' '.join(command)}`\n- commit: {about['commit']}\n"
        f"- versions: {versions}\n\n```\n{text}\n```\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    sys.exit(main())
