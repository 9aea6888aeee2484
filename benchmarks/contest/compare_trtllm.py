"""Captions and rates of TensorRT-LLM engines beside the torch engine of the same checkpoint, on the same images.

    recap-fast build-engine llava_llama3_8b --checkpoint CHECKPOINT --output torch
    recap-fast build-engine llava_llama3_8b --checkpoint CHECKPOINT --output trt --backend tensorrt-llm
    python benchmarks/compare_trtllm.py torch trt --shards '{00000..00003}.tar' --json RESULT.json

The first engine is the reference. For each of the others: the share of captions that are the same, token for token, and
how many tokens go by before the first other one (in bfloat16 and FP8 two right engines part where two tokens are nearly
as likely). Rates are of the engines alone, fed with pixels from memory, after a warm-up.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recap_fast.bench.report import provenance
from recap_fast.decode.decoder import make_decoder
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prepared import PreparedEngine, generate_all
from recap_fast.records import OK, Request
from recap_fast.shards.expand import expand
from recap_fast.shards.reader import open_shard

DECODE_BATCH = 32


@dataclass(frozen=True, slots=True)
class Result:
    """One engine."""

    engine: str
    """What it says of itself."""
    captions: list[list[int]]
    seconds: tuple[float, ...]
    tokens: int

    @property
    def images_per_s(self) -> float:
        """Of the median pass."""
        return len(self.captions) / statistics.median(self.seconds)


def read_requests(engine: Path, shards: Sequence[str], limit: int) -> list[Request]:
    """The first images of the shards, decoded as the engine wants them."""
    prepared, images = PreparedEngine.read(engine), []
    spec = prepared.spec
    for shard in expand(list(shards)).shards:
        with open_shard(shard) as reader:
            images += [s.image for s in reader.samples(np.empty(0, np.int64)) if s.status == OK]
        if len(images) >= limit:
            break
    decoder, requests = make_decoder("pillow", spec.preprocess), []
    for first in range(0, min(len(images), limit), DECODE_BATCH):
        batch = decoder.decode(images[first : min(first + DECODE_BATCH, limit)])
        good = [p for p, outcome in zip(batch.pixels, batch.outcomes, strict=True) if outcome.status == OK]
        text_ids = prepared.prompts.text_ids({})[0]
        requests += [Request(len(requests) + i, p, text_ids, spec.limits.max_new_tokens) for i, p in enumerate(good)]
    decoder.close()
    return requests


def measure(folder: Path, requests: Sequence[Request], options: EngineOptions, repeat: int) -> Result:
    """Captions all images `repeat` times, after a warm-up of one full batch."""
    engine = PreparedEngine.read(folder).open(options)
    try:
        list(generate_all(engine, requests[: engine.free_slots]))
        seconds = []
        for _ in range(repeat):
            start = time.perf_counter()
            done = list(generate_all(engine, requests))
            seconds.append(time.perf_counter() - start)
        captions = [c.token_ids.tolist() for c in sorted(done, key=lambda c: c.id)]
        return Result(engine.describe(), captions, tuple(seconds), sum(c.num_tokens for c in done))
    finally:
        engine.close()


def agreement(captions: Sequence[Sequence[int]], truth: Sequence[Sequence[int]]) -> dict[str, float]:
    """The share of captions that are equal, and the mean number of tokens before a difference or the end."""
    prefixes = []
    for ids, expected in zip(captions, truth, strict=True):
        pairs = zip(ids, expected, strict=False)
        prefixes.append(next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(expected))))
    equal = [list(ids) == list(expected) for ids, expected in zip(captions, truth, strict=True)]
    return {"equal_captions": statistics.mean(equal), "mean_equal_tokens": statistics.mean(prefixes)}


def compare(folders: Sequence[Path], shards: Sequence[str], limit: int, repeat: int) -> list[dict[str, object]]:
    """A row for each engine. Raises ConfigError where one cannot be opened."""
    requests, rows, truth = read_requests(folders[0], shards, limit), [], None
    for folder in folders:
        result = measure(folder, requests, EngineOptions(loop_stop=False), repeat)
        truth = truth or result.captions
        rows.append(
            {
                **{k: v for k, v in dataclasses.asdict(result).items() if k != "captions"},
                "images": len(requests),
                "images_per_s": round(result.images_per_s, 3),
                **agreement(result.captions, truth),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", type=Path, help="engine directories; the first is the reference")
    parser.add_argument("--shards", nargs="+", required=True, help="images, as `recap-fast run` takes them")
    parser.add_argument("--limit", type=int, default=1024, help="so many images")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    rows = compare(args.engines, args.shards, args.limit, args.repeat)
    print(f"{'images/s':>9}{'equal captions':>16}{'equal tokens':>14}  engine")
    for r in rows:
        shares = f"{r['equal_captions']:>16.1%}{r['mean_equal_tokens']:>14.1f}"
        print(f"{r['images_per_s']:>9,.1f}{shares}  {r['engine']}")
    if args.json:
        about = provenance(["python", *(sys.argv if arguments is None else arguments)])
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
