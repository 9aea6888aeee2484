"""Real workers of one core each beside plain processes on the same images, in turn.

A rate is captions over the time from the first image that any process reads to the last caption. Loading is not in it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

WAYS = ("2 plain processes", "2 Ray workers", "1 plain process", "1 Ray worker")


def measure(engine: Path, shards: str, repeat: int) -> dict[str, Any]:
    """Rates of all ways, `repeat` times in turn."""
    passes: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeat):
        for way in WAYS:
            passes[way].append(_rate(way, engine, shards))
    rate = {way: median(found) for way, found in passes.items()}
    figures = {f"{way}: images/s": rate[way] for way in WAYS}
    figures["2 Ray workers: share of 2 plain processes"] = rate[WAYS[1]] / rate[WAYS[0]]
    figures["2 Ray workers: a worker's share of 1 worker"] = rate[WAYS[1]] / 2 / rate[WAYS[3]]
    figures["2 plain processes: a process's share of 1 process"] = rate[WAYS[0]] / 2 / rate[WAYS[2]]
    return {"figures": figures, "passes": passes}


def _rate(way: str, engine: Path, shards: str) -> float:
    num = int(way[0])
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "recap_fast", "run", "--engine", str(engine), "--shards", shards]
        command += ["--output", output, "--device", "cpu", "--log-format", "json", "--no-dedup"]
        if "Ray" in way:
            several = [[*command, "--ray", "local", "--max-workers", str(num)]]
        else:
            several = [[*command, "--part", f"{n + 1}/{num}", "--decode-threads", "1"] for n in range(num)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(each, stderr=subprocess.PIPE, text=True, env=environment, bufsize=1) for each in several
        ]
        ends = [_end(process.communicate()[1]) for process in processes]
    begun, ended = min(begin for begin, _, _ in ends), max(end for _, end, _ in ends)
    return sum(captioned for _, _, captioned in ends) / (ended - begun)


def _end(log: str) -> tuple[float, float, int]:
    """When a process read its first image and when it had its last caption, since 1970; and its captions."""
    summary = next(event for event in map(json.loads, log.splitlines()) if event["event"] == "summary")
    return summary["time"] - summary["seconds"], summary["time"], summary["captioned"]
