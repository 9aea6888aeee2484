"""What several captions of one image cost: four prompts of each image beside one prompt, and beside four images.

    python benchmarks/several_captions.py --output benchmarks/results/DATE_MACHINE_several-captions

The engine alone, from pixels in memory to token ids, on random weights. No caption stops before its last token. Three
ways take turns in one process: `one` prompt an image, all prompts with the image `shared`, and all prompts `apart`, as
if each came with an image of its own. The first turns warm up and do not count. The captions of the last two must be
equal, token for token, which holds in float32.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inputs.models import make_checkpoint
from inputs.report import write_report
from inputs.shapes import SHAPES
from recap_fast.bench.report import provenance
from recap_fast.bench.synthetic import caption_lengths
from recap_fast.build.engine_directory import build_engine
from recap_fast.generate.engine import Engine, EngineOptions
from recap_fast.generate.prepared import PreparedEngine, generate_all
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.records import Request

QUESTIONS = (
    "Please generate a detailed caption of this image. Please be as descriptive as possible.",
    "Describe this image in one short sentence.",
    "Which objects are in this image? Name them, separated by commas.",
    "What are the colors, the light and the style of this image?",
)
TARGET = 1.9
"""How many times as long the prompts together may take as one."""


@dataclass(frozen=True)
class Way:
    """One of the ways to caption the images."""

    engine: Engine
    requests: list[Request]

    def run(self) -> tuple[float, list[list[int]]]:
        """Seconds, and the captions in the order of the requests."""
        begin = time.perf_counter()
        done = {c.id: c.token_ids.tolist() for c in generate_all(self.engine, self.requests)}
        return time.perf_counter() - begin, [done[request.id] for request in self.requests]


def prepare(folder: Path) -> tuple[PreparedEngine, list[NDArray[np.int32]]]:
    """An engine that has room for all questions and that nothing stops, and the questions' tokens."""
    prepared = PreparedEngine.read(folder).with_spec(stop_ids=())
    given = prepared.spec.prompt
    prompts = [PromptEncoder(prepared.tokenizer, dataclasses.replace(given, text=text)) for text in QUESTIONS]
    longest = max(prompts, key=lambda prompt: prompt.max_text_tokens)
    return dataclasses.replace(prepared, prompts=longest), [prompt.text_ids({})[0] for prompt in prompts]


def make_requests(side: int, texts: list[NDArray[np.int32]], lengths: Sequence[int]) -> list[Request]:
    """All texts behind each noise image, with captions of `lengths` tokens; they share their image."""
    rng, count, requests = np.random.default_rng(0), len(texts), []
    num_images = len(lengths) // count
    for image in range(num_images):
        pixels, first = rng.integers(0, 256, (3, side, side), dtype=np.uint8), image * count
        for i, text in enumerate(texts):
            lead = first if i else None
            requests.append(Request(first + i, pixels, text, lengths[first + i], same_image_as=lead))
    return requests


def measure(args: argparse.Namespace, work: Path) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds an image of each turn by way, and what each engine says of itself."""
    build_engine("llava", make_checkpoint(args.size, work / "checkpoint"), work / "engine", precision=args.precision)
    prepared, texts = prepare(work / "engine")
    count = args.images * len(QUESTIONS)
    lengths = [64] * count if not args.varied else caption_lengths(np.random.default_rng(0), count).tolist()
    shared = make_requests(prepared.spec.preprocess.image_size, texts, lengths)
    options = EngineOptions(device=args.device, loop_stop=False, num_slots=args.num_slots)
    alone = prepared.open(options)
    ways = {
        "one": Way(alone, shared[:: len(QUESTIONS)]),
        "shared": Way(prepared.open(dataclasses.replace(options, captions_per_image=len(QUESTIONS))), shared),
        "apart": Way(alone, [dataclasses.replace(request, same_image_as=None) for request in shared]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.repeat + 1):
        captions = {}
        for name in sorted(ways, reverse=turn % 2 == 1):
            took, captions[name] = ways[name].run()
            print(f"{name}: {1e3 * took / args.images:.1f} ms an image", file=sys.stderr)
            if turn:
                seconds[name].append(took / args.images)
        if captions["shared"] != captions["apart"] and args.precision == "float32":
            raise SystemExit("captions of shared images are not those of images computed again")
    said = {name: way.engine.describe() for name, way in ways.items()}
    for engine in (alone, ways["shared"].engine):
        engine.close()
    return seconds, said


def table(seconds: dict[str, list[float]]) -> tuple[str, float]:
    """The figures as markdown, and the ratio of `shared` to `one`."""
    lines = ["| way | ms an image, median | of each turn | over one |", "|---|---|---|---|"]
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, each in seconds.items():
        turns = ", ".join(f"{1e3 * took:.1f}" for took in each)
        lines.append(f"| {name} | {1e3 * medians[name]:.1f} | {turns} | {medians[name] / medians['one']:.2f} |")
    ratio = medians["shared"] / medians["one"]
    pairs = statistics.median(s / o for s, o in zip(seconds["shared"], seconds["one"], strict=True))
    lines.append(
        f"\n{len(QUESTIONS)} prompts cost {ratio:.2f} times one prompt by the medians, {pairs:.2f} by pairs. At most "
        f"{TARGET:g} is wanted."
    )
    return "\n".join(lines), ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="55m")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--num-slots", type=int)
    parser.add_argument("--varied", action="store_true", help="captions of 16 to 128 tokens, instead of 64 each")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        seconds, said = measure(args, Path(work))
    text, ratio = table(seconds)
    print(text)
    if args.output is not None:
        found = {"ratio": ratio, "engines": said, "seconds_per_image": seconds}
        write_report(args.output, "Several captions an image", provenance(["python", *sys.argv]), found, text)
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
