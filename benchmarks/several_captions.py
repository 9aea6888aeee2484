"""What several captions of one image cost: four prompts of each image beside one prompt.

    python benchmarks/several_captions.py --output benchmarks/results/DATE_MACHINE_several-captions

The engine alone, from pixels in memory to token ids, on random weights. The prompts are as long as the engine's own, of
its tokens in another order, and no caption stops before its last token. Three ways take turns in one process: `one`
prompt an image, all prompts with the image `shared`, and all prompts `apart`, as if each came with an image of its own.
The first turns warm up and do not count. The captions of the last two must be equal, token for token, which holds in
float32. Processor time depends less on what else the machine does.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from inputs.models import make_checkpoint
from inputs.report import write_report
from inputs.shapes import SHAPES
from recap_fast.bench.report import provenance
from recap_fast.bench.synthetic import caption_lengths
from recap_fast.build.engine_directory import build_engine
from recap_fast.generate.engine import Engine, EngineOptions
from recap_fast.generate.prepared import PreparedEngine, generate_all
from recap_fast.records import Request

TARGET = 1.9
"""How many times as long four prompts of 64 tokens may take as one."""


@dataclass(frozen=True)
class Turn:
    """One pass over all images."""

    ms: float
    """An image."""
    cpu_ms: float
    """Processor time of this process, an image."""


@dataclass(frozen=True)
class Way:
    """One of the ways to caption the images."""

    engine: Engine
    num_images: int
    requests: list[Request]

    def run(self) -> tuple[Turn, list[list[int]]]:
        """What it took, and the captions in the order of the requests."""
        begun = time.perf_counter(), time.process_time()
        done = {c.id: c.token_ids.tolist() for c in generate_all(self.engine, self.requests)}
        seconds, cpu_s = time.perf_counter() - begun[0], time.process_time() - begun[1]
        turn = Turn(1e3 * seconds / self.num_images, 1e3 * cpu_s / self.num_images)
        return turn, [done[request.id] for request in self.requests]


def make_requests(prepared: PreparedEngine, num_prompts: int, lengths: Sequence[int]) -> list[Request]:
    """All prompts of noise images, with captions of `lengths` tokens; they share their images."""
    rng, side, requests = np.random.default_rng(0), prepared.spec.preprocess.image_size, []
    texts = [rng.permutation(prepared.prompts.text_ids({})[0]) for _ in range(num_prompts)]
    for first in range(0, len(lengths), num_prompts):
        pixels = rng.integers(0, 256, (3, side, side), dtype=np.uint8)
        requests += [
            Request(first + i, pixels, text, lengths[first + i], same_image_as=first if i else None)
            for i, text in enumerate(texts)
        ]
    return requests


def measure(args: argparse.Namespace, work: Path) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """The turns of each way, and what its engine says of itself."""
    build_engine("llava", make_checkpoint(args.size, work / "checkpoint"), work / "engine", precision=args.precision)
    prepared = PreparedEngine.read(work / "engine").with_spec(stop_ids=())
    count, rng = args.images * args.prompts, np.random.default_rng(0)
    lengths = caption_lengths(rng, count).tolist() if args.varied else [64] * count
    shared = make_requests(prepared, args.prompts, lengths)
    apart = [dataclasses.replace(request, same_image_as=None) for request in shared]
    options = EngineOptions(device=args.device, loop_stop=False, num_slots=args.num_slots)
    alone, together = (
        prepared.open(dataclasses.replace(options, captions_per_image=count)) for count in (1, args.prompts)
    )
    ways = {
        "one": Way(alone, args.images, shared[:: args.prompts]),
        "shared": Way(together, args.images, shared),
        "apart": Way(alone, args.images, apart),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for number in range(args.repeat + 1):
        captions = {}
        for name in sorted(ways, reverse=number % 2 == 1):
            turn, captions[name] = ways[name].run()
            print(f"{name}: {turn.ms:.1f} ms an image, {turn.cpu_ms:.1f} of processor time", file=sys.stderr)
            if number:
                turns[name].append(turn)
        if captions["shared"] != captions["apart"] and args.precision == "float32":
            raise SystemExit("captions of shared images are not those of images computed again")
    said = {name: way.engine.describe() for name, way in ways.items()}
    for engine in (alone, together):
        engine.close()
    return turns, said


def table(turns: dict[str, list[Turn]], num_prompts: int) -> tuple[str, float]:
    """The figures as markdown, and the ratio of `shared` to `one`."""
    lines = ["| way | ms an image, median | of each turn | CPU ms an image | over one | in CPU time |"]
    lines.append("|---|---|---|---|---|---|")
    wall, cpu = (
        {name: statistics.median(getattr(turn, field) for turn in each) for name, each in turns.items()}
        for field in ("ms", "cpu_ms")
    )
    for name, each in turns.items():
        listed = ", ".join(f"{turn.ms:.1f}" for turn in each)
        ratios = f"{wall[name] / wall['one']:.2f} | {cpu[name] / cpu['one']:.2f}"
        lines.append(f"| {name} | {wall[name]:.1f} | {listed} | {cpu[name]:.1f} | {ratios} |")
    pairs = statistics.median(s.ms / o.ms for s, o in zip(turns["shared"], turns["one"], strict=True))
    ratio = wall["shared"] / wall["one"]
    lines.append(
        f"\n{num_prompts} prompts cost {ratio:.2f} times one prompt by the medians, {pairs:.2f} by pairs. Of four "
        f"prompts at most {TARGET:g} is wanted."
    )
    return "\n".join(lines), ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="55m")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--prompts", type=int, default=4, help="of each image")
    parser.add_argument("--num-slots", type=int)
    parser.add_argument("--varied", action="store_true", help="captions of 16 to 128 tokens, instead of 64 each")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        turns, said = measure(args, Path(work))
    text, ratio = table(turns, args.prompts)
    print(text)
    if args.output is not None:
        found = {"ratio": ratio, "engines": said, "turns": {name: [*map(asdict, each)] for name, each in turns.items()}}
        write_report(args.output, "Several captions an image", provenance(["python", *sys.argv]), found, text)
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
