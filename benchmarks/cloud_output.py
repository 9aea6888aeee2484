"""How much slower a run is that writes to an object store: beside one into a local folder, in turn, in one process.

    python benchmarks/cloud_output.py --output benchmarks/results/DATE_MACHINE_cloud-output
    python benchmarks/cloud_output.py --url s3://bucket/bench    # with the credentials of the environment

Without `--url` it starts moto's S3 server on this machine, which takes its share of the same processors. Images/s are
those of the median run, from the first shard opened to the last done-record written. All runs caption the same tars.
The processor time of our process does not depend as much on what else the machine does.
"""

import argparse
import contextlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inputs import models
from inputs.report import write_report
from inputs.shapes import SHAPES
from recap_fast.api import run
from recap_fast.bench.report import provenance
from recap_fast.bench.synthetic import write_tars
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ExitCode
from recap_fast.pipeline.counters import Snapshot
from recap_fast.store.opening import open_store

IMAGE_SIZES = [(256, 192), (192, 256), (160, 120)]
"""Width and height of the originals, in turn."""
SERVER = Path(__file__).parents[1] / "tests" / "support" / "s3_server.py"
TARGET = 0.95
"""Of the local folder's rate."""


@contextlib.contextmanager
def s3_on_this_machine() -> Iterator[str]:
    """The URL of a bucket of a new server, which the environment then names."""
    with subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:
        assert it.stdout is not None
        endpoint = it.stdout.readline().strip()
        os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        import boto3  # moto brings it

        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bench")
        yield "s3://bench/out"


@dataclass(frozen=True)
class Run:
    """One that has ended."""

    snapshot: Snapshot
    cpu_s: float
    """Processor time of this process."""

    @property
    def images_per_s(self) -> float:
        return self.snapshot.images_per_s

    @property
    def cpu_ms_per_image(self) -> float:
        return 1000 * self.cpu_s / self.snapshot.captioned


def caption(engine: Path, tars: Sequence[Path], output: str, tokens: int) -> Run:
    """One run into a new output, which is removed then."""
    begun = time.process_time()
    options: Any = {"decoder": "pillow", "loop_stop": False, "max_new_tokens": tokens, "device": "cpu", "dedup": False}
    result = run(engine, list(tars), output, **options)
    if result.outcome != ExitCode.COMPLETE:
        raise SystemExit(f"the run into {output} ended with {result.outcome.name}")
    cpu_s = time.process_time() - begun
    store = open_store(output)
    store.delete([file.name for file in store.list()])
    return Run(result.snapshot, cpu_s)


def measure(args: argparse.Namespace, work: Path, url: str) -> dict[str, list[Run]]:
    """The runs by where they write, in turn; the first of each kind warms up and does not count."""
    engine = work / "engine"
    build_engine("llava", models.make_checkpoint(args.size, work / "checkpoint"), engine, precision="float32")
    tars = write_tars(work / "tars", args.shards * args.images, IMAGE_SIZES, per_shard=args.images)
    found: dict[str, list[Run]] = {"local": [], "cloud": []}
    numbers = itertools.count()
    for _ in ("local", "cloud"):
        caption(engine, tars[:1], f"{url}/{next(numbers)}", args.tokens)
    for turn in range(args.repeat):
        for kind in ("local", "cloud") if turn % 2 == 0 else ("cloud", "local"):
            output = f"{url}/{next(numbers)}" if kind == "cloud" else str(work / "out")
            found[kind].append(caption(engine, tars, output, args.tokens))
            shutil.rmtree(work / "out", ignore_errors=True)
            done = found[kind][-1]
            print(f"{kind}: {done.images_per_s:.2f} images/s, {done.cpu_ms_per_image:.2f} ms", file=sys.stderr)
    return found


def table(found: dict[str, list[Run]]) -> tuple[str, float]:
    """The figures as markdown, and the ratio."""
    rates = {kind: statistics.median(each.images_per_s for each in runs) for kind, runs in found.items()}
    ratio = rates["cloud"] / rates["local"]
    pairs = [cloud.images_per_s / local.images_per_s for local, cloud in zip(*found.values(), strict=True)]
    lines = ["| output | images/s | of each run | CPU ms an image | writing thread busy |", "|---|---|---|---|---|"]
    for kind, runs in found.items():
        each = ", ".join(f"{run.images_per_s:.2f}" for run in runs)
        busy = statistics.median(run.snapshot.stage_s["write"] / run.snapshot.seconds for run in runs)
        cpu = statistics.median(run.cpu_ms_per_image for run in runs)
        lines.append(f"| {kind} | {rates[kind]:.2f} | {each} | {cpu:.2f} | {busy:.1%} |")
    lines += ["", f"Cloud over local: {ratio:.3f} by the medians, {statistics.median(pairs):.3f} by pairs."]
    return "\n".join([*lines, f"At least {TARGET} is wanted."]), ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="6m", help="of the model")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--images", type=int, default=500, help="of each shard")
    parser.add_argument("--tokens", type=int, default=64, help="of each caption")
    parser.add_argument("--repeat", type=int, default=3, help="runs into each")
    parser.add_argument("--url", help="prefix of a bucket to write to, instead of a server on this machine")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as stack:
        url = args.url or stack.enter_context(s3_on_this_machine())
        found = measure(args, Path(work), url)
    text, ratio = table(found)
    print(text)
    if args.output is not None:
        runs = {kind: [asdict(run) for run in runs] for kind, runs in found.items()}
        about = provenance(["python", *sys.argv])
        write_report(args.output, "Output in an object store", about, {"ratio": ratio, "runs": runs}, text)
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
