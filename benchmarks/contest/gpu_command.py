"""recap-fast beside vLLM on a GPU, at the size of LLaVA-LLaMA3-8B: one random checkpoint, one run, equal precision.

    python -m contest.gpu_command --python vllm=PATH --output benchmarks/results/DATE_MACHINE_vllm
    python -m contest.gpu_command --size 6m --device cpu --precision bfloat16     # shows that all of it runs

No network is needed. The checkpoint is made on the card and written to memory; both engines load it, recap-fast by way
of `build-engine`. recap-fast runs from tars of 512x384 JPEGs to renamed Parquet files; vLLM gets the same images
decoded, once of the vision tower's size, so that it has nothing to resize, and once as they are, as its users give them
to it. vLLM's settings are those that are fastest in a pass of their own. A start of vLLM takes a minute or two, and
there is one for each setting: `--setting` names the one to take. Exits with 1 where a contestant fails or a caption has
another length than was asked for.
"""

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from inputs.models import SIZES, make_checkpoint
from inputs.workload import RECIPE, MismatchError, find_engine, make_workload
from suite.command import describe_card, make_work_folder

from contest.command import LENGTHS, assignment
from contest.comparison import Comparison, Contest, write_results
from contest.contestants import OURS, Candidate, ContestantError, Process, check_installed
from contest.peers.protocol import Job
from recap_fast.generate.spec import EngineSpec

IMAGE_SIZE = 512, 384
BYTES = 48 << 30
"""Of a checkpoint of 8 B and an engine of it in each precision."""
RECIPES = {"bfloat16": "llava_llama3_8b", "fp8": "llava_llama3_8b_fp8"}
"""By precision: they know the card. Models of other sizes have none of their own."""
BUDGETS, CACHING, NUM_SEQS = (16384, 8192), (False, True), 1024
SETTINGS = {
    f"{budget}{'-prefix' if caching else ''}": {
        "max_num_batched_tokens": budget,
        "enable_prefix_caching": caching,
        "max_num_seqs": NUM_SEQS,
    }
    for caching in CACHING
    for budget in BUDGETS
}
"""Of vLLM: tokens in a step, and whether it looks for common prefixes."""
REFERENCE = "bfloat16"
WAYS = {"vllm": {"vllm": {"resized": True}, "vllm, originals": {"resized": False}}}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="8b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--precision", nargs="+", choices=RECIPES, default=list(RECIPES), help="a comparison for each")
    parser.add_argument("--kv-precision", choices=("auto", "fp8"), default="auto", help="of keys and values, of both")
    parser.add_argument("--lengths", choices=LENGTHS, default="varied")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="of vLLM, to try")
    parser.add_argument("--gpu-memory", type=float, default=0.45, help="share of the card's memory that vLLM takes")
    parser.add_argument("--num-slots", type=int, help="of recap-fast; the recipe's for the card otherwise")
    parser.add_argument("--prefill-images", type=int, help="likewise")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each contestant")
    parser.add_argument("--python", type=assignment, default=("vllm", sys.executable), metavar="vllm=PATH")
    parser.add_argument("--work", type=Path, help="a folder to keep checkpoint and engines in, for the next call")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    return parser.parse_args(arguments)


def compare_all(args: argparse.Namespace, work: Path) -> Iterator[Comparison]:
    """Every precision in turn, on the same images."""
    check_installed("vllm", args.python[1])
    job = prepare(args, work)

    def open_process(candidate: Candidate) -> Process:
        kv_precision = args.kv_precision if candidate.precision == "fp8" else "auto"
        changes = {"precision": candidate.precision, "kv_precision": kv_precision, "settings": candidate.settings}
        python = sys.executable if candidate.name == OURS else args.python[1]
        return Process(candidate, python, dataclasses.replace(job, **changes))

    own = {k: v for k in ("num_slots", "prefill_images") if (v := getattr(args, k)) is not None}
    contest = Contest(open_process, LENGTHS[args.lengths](args.images), Candidate(OURS, REFERENCE, own))
    for precision in args.precision:
        theirs = [
            Candidate("vllm", precision, {**SETTINGS[name], "gpu_memory_utilization": args.gpu_memory})
            for name in args.setting
        ]
        candidates = {OURS: [Candidate(OURS, precision, own)], "vllm": theirs}
        yield contest.compare(f"{args.size}, {precision}, {args.lengths}", candidates, args.repeat, WAYS)


def prepare(args: argparse.Namespace, work: Path) -> Job:
    """Makes the checkpoint and our engines, unless an earlier call has, and draws the images."""
    checkpoint, folder = work / args.size, work / f"{args.size}-contest"
    if not checkpoint.exists():
        partial = make_checkpoint(args.size, work / "partial", args.device, torch.bfloat16)
        partial.rename(checkpoint)
        if args.device == "cuda":
            torch.cuda.empty_cache()
    for name in ("shards", "images"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    for precision in {REFERENCE, *args.precision}:
        engine = find_engine(folder, checkpoint, precision, RECIPES[precision] if args.size == "8b" else RECIPE)
        spec = EngineSpec.load(engine)
        preprocess = dataclasses.replace(spec.preprocess, mode="crop")  # as vLLM's processor does it
        dataclasses.replace(spec, preprocess=preprocess).save(engine)
    return make_workload(
        folder,
        checkpoint,
        args.images,
        threads=args.threads,
        device=args.device,
        image_sizes=[IMAGE_SIZE],
        precision=REFERENCE,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparisons and returns the exit code."""
    args = parse(arguments)
    work = args.work or make_work_folder(BYTES if args.size == "8b" else 0)
    found: list[Comparison] = []
    try:
        for comparison in compare_all(args, work):
            found.append(comparison)
            print(f"\n{comparison.table()}", flush=True)
    except (MismatchError, ContestantError) as error:
        print(f"contest: {error}", file=sys.stderr)
        return 1
    finally:
        if args.work is None:
            shutil.rmtree(work)
        command = sys.argv if arguments is None else list(arguments)
        if args.output is not None and found:  # what was measured before a failure counts
            write_results(args.output, "recap-fast beside vLLM", found, args.threads, command, card=describe_card())
    return 0


if __name__ == "__main__":
    sys.exit(main())
