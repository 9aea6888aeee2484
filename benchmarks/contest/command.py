"""recap-fast beside its peers: same checkpoint, same images, same output lengths, same threads or the same card.

    python benchmarks/contest --python openvino=PATH vllm=PATH --output benchmarks/results/DATE_MACHINE_peers
    python benchmarks/contest --preset gpu --python vllm=PATH --output benchmarks/results/DATE_MACHINE_vllm

Each contestant has its own process and virtual environment (README.md says how to make them). First each peer is tried
with several settings, one pass each; then the fastest of each and recap-fast run in turn. Loading and warm-up are not
timed. recap-fast is timed from tars to renamed Parquet files, the peers from JPEG bytes to token ids: they are charged
for decoding, resizing and generating, and not for reading tars, detokenizing and writing. Exits with 1 where a
contestant fails, a caption has another length than was asked for, or those in float32 are not equal token for token.
"""

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from contest.comparison import Comparison, write_results
from contest.contest import Contest, MismatchError
from contest.contestants import Candidate, ContestantError, Process, check_installed, list_candidates
from contest.engines import make_job, put_images
from contest.kinds import KINDS, OURS
from contest.peers.protocol import Job
from contest.presets import BEST, MODEL_BYTES, PRESETS
from inputs.card import describe_card, make_work_folder
from inputs.models import make_checkpoint
from inputs.shapes import RECIPES, SHAPES
from inputs.workload import LENGTHS, LONGEST
from recap_fast.errors import RecapError

PRECISIONS = ("float32", "bfloat16", "int8", "fp8", "best")
LABELS = sorted({label for kind in KINDS.values() for d in kind.settings.values() for s in d.values() for label in s})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; what it does not say is the preset's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="what all other options are by default")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--size", nargs="+", choices=SHAPES, help="random models to make")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint to use instead, in the Hub's layout")
    parser.add_argument("--recipe", default="llava", help="of recap-fast's engines of that checkpoint")
    parser.add_argument("--shards", nargs="+", help="caption the first images of these; made-up ones otherwise")
    parser.add_argument("--images", type=int, help="how many")
    parser.add_argument("--lengths", nargs="+", choices=(*LENGTHS, "own"), help="own: up to recap-fast's stop token")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        help="a comparison for each; best: the fastest precision of each engine",
    )
    parser.add_argument("--kv-precision", choices=("auto", "fp8"), default="auto", help="of keys and values, with fp8")
    parser.add_argument("--peers", nargs="+", choices=[k for k in KINDS if k != OURS])
    parser.add_argument("--setting", nargs="+", choices=LABELS, default=[], help="of peers, to try; all otherwise")
    parser.add_argument("--gpu-memory", type=float, help="share of the card's memory that vLLM takes")
    parser.add_argument("--num-slots", type=int, help="of recap-fast; the engine's default otherwise")
    parser.add_argument("--prefill-images", type=int, help="likewise")
    parser.add_argument("--python", nargs="+", type=assignment, default=[], metavar="NAME=PATH", help="interpreters")
    parser.add_argument("--repeat", type=int)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each contestant")
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 where fewer captions are equal: 0.97")
    parser.add_argument("--work", type=Path, help="a folder to keep checkpoint and engines in, for the next call")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    parser.set_defaults(**PRESETS[parser.parse_args(arguments).preset].options)
    return parser.parse_args(arguments)


def assignment(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or name not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=PATH, with a name among {', '.join(KINDS)}")
    return name, path


def compare_all(args: argparse.Namespace, work: Path) -> Iterator[Comparison]:
    """Every size, kind of lengths and precision in turn."""
    preset, pythons = PRESETS[args.preset], dict(args.python)
    for name in args.peers:
        check_installed(name, pythons.get(name, sys.executable))
    for size in [None] if args.checkpoint else args.size:
        title, job, num_images = prepare(args, work, size)

        def open_process(candidate: Candidate, job: Job = job, size: str | None = size) -> Process:
            changes = {
                "precision": candidate.precision,
                "kv_precision": args.kv_precision if candidate.precision == "fp8" else "auto",
                "recipe": choose_recipe(args, size, candidate.precision),
                "settings": candidate.settings,
                "gpu_memory": args.gpu_memory,
            }
            python = pythons.get(candidate.name, sys.executable)
            return Process(candidate, python, dataclasses.replace(job, **changes))

        for kind in args.lengths:
            lengths = [LONGEST] * num_images if kind == "own" else LENGTHS[kind](num_images)
            reference = Candidate(OURS, preset.reference, own_settings(args))
            contest = Contest(open_process, lengths, reference, job.stop_ids if kind == "own" else ())
            for precision in args.precision:
                candidates = choose_candidates(args, precision)
                yield contest.compare(f"{title}, {precision}, {kind}", candidates, args.repeat, preset.ways)


def prepare(args: argparse.Namespace, work: Path, size: str | None) -> tuple[str, Job, int]:
    """Makes checkpoint and images and an engine, unless an earlier call has; their title, the job, how many images."""
    preset = PRESETS[args.preset]
    checkpoint = args.checkpoint
    if checkpoint is None:
        checkpoint = work / size
        if not checkpoint.exists():
            make_checkpoint(size, work / "partial", args.device, getattr(torch, preset.reference)).rename(checkpoint)
            if args.device == "cuda":
                torch.cuda.empty_cache()
    folder = work / f"{checkpoint.name}-contest"
    folder.mkdir(parents=True, exist_ok=True)
    num_images = put_images(folder, args.images, preset.image_sizes, args.shards)
    recipe, mode = choose_recipe(args, size, preset.reference), preset.mode if size else None
    job = make_job(folder, checkpoint, preset.reference, recipe, mode, threads=args.threads, device=args.device)
    return checkpoint.name, job, num_images


def choose_recipe(args: argparse.Namespace, size: str | None, precision: str) -> str:
    """What recap-fast's engine is built by."""
    recipe: str = RECIPES.get(size or "", {}).get(precision, args.recipe)
    return recipe


def own_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Of recap-fast."""
    return {k: v for k in ("num_slots", "prefill_images") if (v := getattr(args, k)) is not None}


def choose_candidates(args: argparse.Namespace, precision: str) -> dict[str, list[Candidate]]:
    """By engine, recap-fast first. Raises ContestantError where no peer has that precision."""
    wanted = BEST[args.device] if precision == "best" else (precision,)
    found = {
        name: list_candidates(name, args.device, wanted, args.setting, own_settings(args))
        for name in (OURS, *args.peers)
    }
    found = {name: candidates for name, candidates in found.items() if candidates}
    if list(found) == [OURS]:
        raise ContestantError(f"none of {', '.join(args.peers)} has --precision {precision}")
    return found


def check_agreement(comparison: Comparison, at_least: float) -> None:
    """Raises MismatchError where a smaller share of a row's captions is that of the reference."""
    for name, entry in comparison.entries.items():
        if entry.agreement is not None and entry.agreement["equal_captions"] < at_least:
            share = entry.agreement["equal_captions"]
            raise MismatchError(f"{name}: {share:.1%} of its captions are those of the reference, not {at_least:.1%}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparisons and returns the exit code."""
    args = parse(arguments)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    work = args.work or make_work_folder(sum(MODEL_BYTES.get(size, 0) for size in args.size))
    found: list[Comparison] = []
    try:
        for comparison in compare_all(args, work):
            found.append(comparison)
            print(f"\n{comparison.table()}", flush=True)
            check_agreement(comparison, args.at_least)
    except (MismatchError, ContestantError, RecapError) as error:
        print(f"contest: {error}", file=sys.stderr)
        return 1
    finally:
        if args.work is None:
            shutil.rmtree(work)
        if args.output is not None and found:  # what was measured before a failure counts
            command = sys.argv if arguments is None else list(arguments)
            more = {"card": describe_card()} if args.device == "cuda" else {}
            write_results(args.output, "recap-fast beside its peers", found, args.threads, command, **more)
    return 0
