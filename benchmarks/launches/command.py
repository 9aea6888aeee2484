"""Counts the kernels that a step of an engine launches on a GPU, and the bytes that they move. Needs no GPU.

    python benchmarks/launches --precision fp8 --kv-precision fp8
    python benchmarks/launches --output benchmarks/results/DATE_fake-h100_launches

The whole step runs on torch's fake tensors of an H100, which have shapes and types and no numbers (fake_card.py).
recorder.py says what counts as a kernel, and which bytes. All slots are running, and each caption is half done.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from inputs.report import write_report
from inputs.shapes import SHAPES
from launches.fake_card import MAX_TEXT_TOKENS, NUM_PREFIX, FakeStep, fake_card, make_spec
from launches.recorder import Operation, Reach, Recorder
from recap_fast.bench.report import provenance
from recap_fast.generate.spec import EngineSpec

VARIANTS = (("bfloat16", "auto"), ("fp8", "auto"), ("fp8", "fp8"), ("int8", "auto"))
"""Precision, and that of keys and values."""


@dataclass(slots=True)
class Total:
    """Launches and bytes of all operations of a name in a step."""

    launches: int = 0
    num_bytes: int = 0


Step = dict[str, Total]
"""Totals by the name of the operation, most launches first. The last, `total`, is the sum."""


def count(spec: EngineSpec, tokens: int) -> dict[str, Step]:
    """Counts a mixed and a decode-only step of an engine whose captions have so many tokens."""
    prompt = NUM_PREFIX + spec.vision.num_image_tokens + MAX_TEXT_TOKENS
    reach = Reach(decode_positions=prompt + tokens // 2, num_images=spec.limits.prefill_images, prompt_positions=prompt)
    steps = {}
    recorder = Recorder(reach)
    with fake_card(recorder.launch):
        step = FakeStep(spec)
        recorder.cache = step.cache
        for name in ("mixed", "decode"):
            step.run(mixed=name == "mixed")  # not counted: the first run tries kernels out
            recorder.operations.clear()
            with recorder:
                step.run(mixed=name == "mixed")
            steps[name] = add_up(recorder.operations)
    return steps


def add_up(operations: Sequence[Operation]) -> Step:
    """Totals by name, and of all."""
    found: Step = defaultdict(Total)
    for operation in operations:
        for total in (found[operation.name], found["total"]):
            total.launches += operation.launches
            total.num_bytes += operation.num_bytes
    return dict(sorted(found.items(), key=lambda item: (item[0] == "total", -item[1].launches, item[0])))


def table(steps: dict[str, Step]) -> str:
    """The totals of the steps as text, side by side."""
    names = [*dict.fromkeys(name for step in steps.values() for name in step if name != "total"), "total"]
    lines = [f"{'operation':<32}" + "".join(f"{name:>10}{'GB':>10}" for name in steps)]
    for name in names:
        cells = [step.get(name, Total()) for step in steps.values()]
        lines.append(f"{name:<32}" + "".join(f"{cell.launches:>10}{cell.num_bytes / 1e9:>10.3f}" for cell in cells))
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="8b", help="of the model")
    parser.add_argument("--precision", choices=dict.fromkeys(p for p, _ in VARIANTS), help="all without it")
    parser.add_argument(
        "--kv-precision", choices=("auto", "fp8"), default="auto", help="of keys and values; with --precision"
    )
    parser.add_argument("--num-slots", type=int, default=448, help="captions in the making")
    parser.add_argument("--prefill-images", type=int, default=8, help="images that join in a mixed step")
    parser.add_argument("--tokens", type=int, default=65, help="length of the captions")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts, prints, writes, and returns the exit code."""
    args = parse(arguments)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    variants = VARIANTS if args.precision is None else ((args.precision, args.kv_precision),)
    found = {}
    for precision, kv_precision in variants:
        spec = make_spec(args.size, precision, kv_precision, args.num_slots, args.prefill_images)
        name = precision + (", FP8 cache" if kv_precision == "fp8" else "")
        found[name] = count(spec, args.tokens)
        print(f"{name}\n\n{table(found[name])}\n")
    if args.output is not None:
        write(args.output, found, ["python", *(sys.argv if arguments is None else arguments)])
    return 0


def write(output: Path, found: dict[str, dict[str, Step]], command: Sequence[str]) -> None:
    """Writes what is printed as markdown, and the same with bytes as JSON."""
    counts = {
        variant: {name: {kind: asdict(total) for kind, total in step.items()} for name, step in steps.items()}
        for variant, steps in found.items()
    }
    tables = "\n\n".join(f"## {variant}\n\n```\n{table(steps)}\n```" for variant, steps in found.items())
    what = "No GPU ran this. Launches of each operation, and the GB that it reads and writes at least."
    title = "Launches of a step, counted on a fake H100"
    write_report(output, title, provenance(command), {"steps": counts}, f"{what}\n\n{tables}")
