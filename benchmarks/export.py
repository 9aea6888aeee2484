"""How fast `recap-fast export` is: new tars beside `cp` of the same ones, in turn; and a million rows as jsonl and csv.

    python benchmarks/export.py --output benchmarks/results/DATE_MACHINE_export
    python benchmarks/export.py --rows     # only what needs no tars

Tars are as img2dataset writes them, with images of 30 to 50 kB. Both commands begin with tars that are not in memory,
and end when all is on the disk (`sync FILE`), because data sets are larger than memory. With `--cached` the tars are in
memory, and `cp` leaves the writing to the system: what counts then is the speed of memory and of processors.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from inputs.captions import FINGERPRINT, write_output
from inputs.report import write_report
from recap_fast.arrow_core import core
from recap_fast.atomic import sha256_of
from recap_fast.bench.report import provenance
from recap_fast.records import OutputFile, Shard, ShardReport
from recap_fast.shards.identity import identity
from recap_fast.write.done_record import write_record
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import RunFile, find_versions, write_run_file
from recap_fast.write.schema import SCHEMA

IMAGE_BYTES = 30_000, 50_000
TARGET = 0.7
"""Of the speed of cp."""
CAPTION = "The image shows a small cat that sleeps on a red sofa beside a window. " * 4
LAUNCHER = """
import json, os, resource, sys, time
begun, null = time.perf_counter(), os.open(os.devnull, os.O_WRONLY)
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
seconds, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]), file=sys.stderr)
sys.exit(code)
"""
"""Starts a command from a small process: a child counts the memory of the one that it was started from as its own."""


@dataclass(frozen=True)
class Run:
    """A command that has ended."""

    seconds: float
    cpu_s: float
    """Of all its processes."""
    max_rss_mib: float
    """Of the largest of them."""


def command(words: Sequence[str | Path]) -> Run:
    """Runs one to its end."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *map(str, words)]
    done = subprocess.run(launcher, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{words[0]} ended with {done.returncode}: {done.stderr}")
    return Run(*json.loads(done.stderr.splitlines()[-1]))


def write_tars(folder: Path, num: int, samples: int) -> OutputFolder:
    """Writes `folder`/in with so many tars, and `folder`/out with a caption for each sample; returns the latter."""
    output, shards = OutputFolder.at(folder / "out"), {}
    output.store.make_root()
    for number in range(num):
        name = f"{number:05d}"
        shards[name] = shard = Shard(name, str(folder / f"in/{name}.tar"), "tar")
        digests = write_tar(Path(shard.url), number * samples, samples)
        read = identity(shard)
        rows = [
            {"shard": name, "index": index, "key": f"{number * samples + index:09d}", "sha256": digest, "status": "ok"}
            | {"re_caption": CAPTION, "org_caption": "a cat", "input_version": read.text, "flags": []}
            for index, digest in enumerate(digests)
        ]
        with output.store.draft(output.data(name)) as draft:
            with core.ParquetWriter(draft, SCHEMA, max_row_group_rows=800, key_value_metadata={}) as writer:
                for first in range(0, samples, 800):
                    writer.write(pa.RecordBatch.from_pylist(rows[first : first + 800], schema=SCHEMA))
            made = OutputFile(sha256_of(draft), draft.stat().st_size)
            output.store.publish(draft, output.data(name))
        report = ShardReport(shard=name, status="complete", input=read, output=made, finished_ns=1)
        write_record(output, report.with_rows(Counter(ok=samples), Counter()))
    run = RunFile(FINGERPRINT, str(folder / "in"), {name: shard.url for name, shard in shards.items()})
    write_run_file(output, run, find_versions(output))
    return output


def write_tar(path: Path, first: int, samples: int) -> list[str]:
    """The SHA-256 of each image of a new tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn, digests = random.Random(first), []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(first, first + samples):
            image, key = drawn.randbytes(drawn.randint(*IMAGE_BYTES)), f"{number:09d}"
            digests.append(hashlib.sha256(image).hexdigest())
            fields = {
                "url": f"https://images.example/{key}.jpg",
                "caption": "a cat",
                "key": key,
                "status": "success",
                "error_message": None,
                "width": 512,
                "height": 384,
                "original_width": 800,
                "original_height": 600,
                "exif": "{}",
                "sha256": digests[-1],
                "uid": hashlib.md5(key.encode()).hexdigest(),
            }
            for suffix, content in (("jpg", image), ("json", json.dumps(fields).encode()), ("txt", b"a cat")):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return digests


def evict(paths: Sequence[Path]) -> None:
    """Brings files to the disk and out of memory."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def beside_cp(work: Path, repeat: int, *, cached: bool) -> dict[str, list[Run]]:
    """The runs of both, in turn."""
    tars, target = sorted((work / "in").glob("*.tar")), work / "target"
    copying = ["cp", *tars, target] if cached else ["sh", "-c", 'cp "$@" && shift $(($# - 1)) && sync "$1"/*.tar', "sh"]
    export = [sys.executable, "-m", "recap_fast", "export", work / "out", "--to", "webdataset", "--target", target]
    commands = {"cp": copying if cached else [*copying, *tars, target], "export": export}
    found: dict[str, list[Run]] = {"cp": [], "export": []}
    for turn in range(repeat):
        for kind in sorted(found, reverse=turn % 2 == 1):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            os.sync()
            if not cached:
                evict(tars)
            found[kind].append(command(commands[kind]))
            print(f"{kind}: {found[kind][-1]}", file=sys.stderr)
    shutil.rmtree(target)
    return found


def of_rows(work: Path, counts: Sequence[int]) -> dict[str, list[Run]]:
    """The export of so many rows as jsonl and as csv."""
    found: dict[str, list[Run]] = {}
    for count in counts:
        output = write_output(work / f"{count}", count)
        for kind in ("jsonl", "csv"):
            words = [sys.executable, "-m", "recap_fast", "export", output.address, "--to", kind]
            found[f"{count:,} rows as {kind}"] = [command([*words, "--target", work / kind])]
            shutil.rmtree(work / kind)
        shutil.rmtree(work / f"{count}")
    return found


def table(found: dict[str, list[Run]], num_bytes: int) -> str:
    """The runs as markdown."""
    lines = ["| command | seconds | of each run | MB/s | CPU s | largest process |", "|---|---|---|---|---|---|"]
    for kind, runs in found.items():
        seconds, each = statistics.median(r.seconds for r in runs), ", ".join(f"{r.seconds:.2f}" for r in runs)
        cpu, rss = statistics.median(r.cpu_s for r in runs), max(r.max_rss_mib for r in runs)
        rate = f"{num_bytes / seconds / 1e6:,.0f}" if kind in ("cp", "export") else ""
        lines.append(f"| {kind} | {seconds:.2f} | {each} | {rate} | {cpu:.2f} | {rss:,.0f} MiB |")
    return "\n".join(lines)


def ratio_of(found: dict[str, list[Run]]) -> float:
    """The speed of export over that of cp: the median of the pairs."""
    return statistics.median(
        cp.seconds / export.seconds for cp, export in zip(found["cp"], found["export"], strict=True)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tars", type=int, default=4)
    parser.add_argument("--samples", type=int, default=10_000, help="of each tar")
    parser.add_argument("--repeat", type=int, default=5, help="runs of cp and of export")
    parser.add_argument("--cached", action="store_true", help="tars in memory, and cp without sync")
    parser.add_argument("--rows", type=int, nargs="*", default=None, help="only these numbers of rows as jsonl and csv")
    parser.add_argument("--work", type=Path, help="folder for the files, on the disk to measure")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    args = parser.parse_args()
    raw: dict[str, Any] = {"load average at the start": os.getloadavg()[0]}
    text, ratio = "", TARGET
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        if args.rows is None:
            write_tars(work, args.tars, args.samples)
            num_bytes = sum(path.stat().st_size for path in (work / "in").glob("*.tar"))
            found = beside_cp(work, args.repeat, cached=args.cached)
            ratio = ratio_of(found)
            text = f"{table(found, num_bytes)}\n\nExport makes {ratio:.2f} of the speed of cp (median of the pairs)."
        else:
            found = of_rows(work, args.rows or (100_000, 1_000_000))
            text = table(found, 0)
    raw |= {"ratio": ratio, "runs": {kind: [asdict(run) for run in runs] for kind, runs in found.items()}}
    print(text)
    if args.output is not None:
        write_report(args.output, "Export", provenance(["python", *sys.argv]), raw, text)
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
