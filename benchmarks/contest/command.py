"""recap-fast beside its peers: same checkpoint, same images, same output lengths, same thread count.

    python benchmarks/contest --python openvino=PATH vllm=PATH --output benchmarks/results/DATE_MACHINE_peers

Each contestant has its own process and virtual environment (README.md says how to make them). First each peer is tried
with several settings, one pass each; then the fastest of each and recap-fast run in turn. Loading and warm-up are not
timed. recap-fast is timed from tars to renamed Parquet files, the peers from JPEG bytes to token ids: they are charged
for decoding, resizing and generating, and not for reading tars, detokenising and writing. Exits with 1, and without a
ratio, unless all captions have their length and those in float32 are equal token for token.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from inputs.models import SIZES, make_checkpoint
from inputs.workload import MismatchError, fixed_lengths, make_workload, varied_lengths

from contest.comparison import Comparison, Contest, write_results
from contest.contestants import KINDS, OURS, Candidate, ContestantError, Process, check_installed, list_candidates
from contest.peers.protocol import Job

LENGTHS = {"fixed": fixed_lengths, "varied": varied_lengths}
PRECISIONS = ("float32", "bfloat16", "int8")
BEST = "best"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["6m"], help="random models to make")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint to use instead, in the Hub's layout")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=(*PRECISIONS, BEST),
        default=["float32"],
        help="a comparison for each; best: the fastest precision of each engine",
    )
    parser.add_argument("--peers", nargs="+", choices=[k for k in KINDS if k != OURS], default=["transformers"])
    parser.add_argument("--python", nargs="+", type=assignment, default=[], metavar="NAME=PATH", help="interpreters")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each contestant")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--num-slots", type=int, help="of recap-fast; the engine's default otherwise")
    parser.add_argument("--prefill-images", type=int, help="likewise")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    return parser.parse_args(arguments)


def assignment(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or name not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=PATH, with a name among {', '.join(KINDS)}")
    return name, path


def compare_all(args: argparse.Namespace) -> Iterator[Comparison]:
    """Every size, kind of lengths and precision in turn; each has its own temporary folder for each size."""
    pythons = {OURS: sys.executable, "transformers": sys.executable, **dict(args.python)}
    for name in args.peers:
        check_installed(name, pythons.get(name, sys.executable))
    for size in [None] if args.checkpoint else args.size:
        with tempfile.TemporaryDirectory(prefix="compare-") as folder:
            checkpoint = args.checkpoint or make_checkpoint(size, Path(folder, size))
            job = make_workload(Path(folder), checkpoint, args.images, threads=args.threads, device=args.device)

            def open_process(candidate: Candidate, job: Job = job) -> Process:
                job = dataclasses.replace(job, precision=candidate.precision, settings=candidate.settings)
                return Process(candidate, pythons.get(candidate.name, sys.executable), job)

            for kind in args.lengths:
                contest = Contest(open_process, LENGTHS[kind](args.images))
                for precision in args.precision:
                    candidates = choose_candidates(args, precision)
                    yield contest.compare(f"{checkpoint.name}, {precision}, {kind}", candidates, args.repeat)


def choose_candidates(args: argparse.Namespace, precision: str) -> dict[str, list[Candidate]]:
    """By engine, recap-fast first. Raises ContestantError where no peer has that precision."""
    own = {k: v for k in ("num_slots", "prefill_images") if (v := getattr(args, k)) is not None}
    wanted = PRECISIONS if precision == BEST else (precision,)
    found = {name: list_candidates(name, wanted, own) for name in (OURS, *args.peers)}
    found = {name: candidates for name, candidates in found.items() if candidates}
    if list(found) == [OURS]:
        raise ContestantError(f"none of {', '.join(args.peers)} has --precision {precision}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparisons and returns the exit code."""
    args = parse(arguments)
    found: list[Comparison] = []
    try:
        for comparison in compare_all(args):
            found.append(comparison)
            print(f"\n{comparison.table()}", flush=True)
    except (MismatchError, ContestantError) as error:
        print(f"contest: {error}", file=sys.stderr)
        return 1
    if args.output is not None:
        command = sys.argv if arguments is None else list(arguments)
        write_results(args.output, "recap-fast beside its peers", found, args.threads, command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
