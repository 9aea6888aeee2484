"""What a run on a Ray cluster costs beside the captions: the coordinator's time and memory, and the rate of workers.

    python benchmarks/cluster --output benchmarks/results/DATE_MACHINE_cluster
    python benchmarks/cluster --engine ENGINE --shards '/data/*.tar' --output benchmarks/results/DATE_MACHINE_cluster

Without an engine the coordinator alone is measured (coordinator.py); with one also real workers, beside plain processes
on the same images (rates.py). Needs Ray.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster import coordinator, rates
from inputs.report import write_report
from recap_fast.bench.report import provenance


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-shards", type=int, default=20_000, help="that are pending")
    parser.add_argument("--num-workers", type=int, default=1000, help="simulated ones, which only sleep")
    parser.add_argument("--num-clients", type=int, default=1, help="processes that simulate them")
    parser.add_argument("--engine", type=Path, help="engine directory for real workers")
    parser.add_argument("--shards", help="their images")
    parser.add_argument("--repeat", type=int, default=3, help="passes of real workers and plain processes, in turn")
    parser.add_argument("--output", type=Path, help="PATH.json and PATH.md are written")
    given = parser.parse_args(arguments)
    found = {
        "alone": coordinator.alone(given.num_shards, given.num_workers),
        "through_ray": coordinator.through_ray(given.num_shards, given.num_workers, given.num_clients),
    }
    if given.engine is not None:
        found["rates"] = rates.measure(given.engine, given.shards, given.repeat)
    lines = [f"- {name}: {figure:,.4g}" for part in found.values() for name, figure in part["figures"].items()]
    print("\n".join(lines))
    if given.output is not None:
        about = provenance(["python", "benchmarks/cluster", *(arguments or sys.argv[1:])])
        write_report(given.output, "A run on a cluster, beside the captions", about, found, "\n".join(lines))
    return 0
