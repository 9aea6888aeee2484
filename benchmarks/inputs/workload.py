"""What the engines are compared on: a checkpoint, JPEGs in tars, how long each caption is to be; and recap-fast's run.

Every contestant gets the same images and has to return captions of exactly the requested lengths; in float32 they have
to be equal token for token.
"""

import dataclasses
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from contest.peers.protocol import Job, Pass

from recap_fast.bench.synthetic import write_tars
from recap_fast.build.engine_directory import build_engine
from recap_fast.decode.decoder import make_decoder
from recap_fast.generate.backends import open_engine
from recap_fast.generate.engine import Engine, EngineOptions, Statistics
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.launch.execute import WINDOW_SLOTS
from recap_fast.pipeline.counters import Progress
from recap_fast.pipeline.pipeline import Pipeline, Stages
from recap_fast.records import Completion, Request, Sample
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity
from recap_fast.shards.reader import open_shard
from recap_fast.write.ledger import Ledger
from recap_fast.write.output_folder import OutputFolder

RECIPE = "llava"
IMAGE_SIZES = [(160, 120), (192, 144), (224, 168), (256, 192), (120, 160)]
"""Width and height in pixels of the photographs, in turn."""
NUM_SHARDS = 4
FIXED_LENGTH = 64
MEDIAN_LENGTH, SIGMA, SHORTEST, LONGEST = 44, 0.55, 16, 128


class MismatchError(Exception):
    """An output that is not what was asked for, so that its time says nothing."""


def fixed_lengths(num_images: int) -> list[int]:
    """64 tokens for all."""
    return [FIXED_LENGTH] * num_images


def varied_lengths(num_images: int, seed: int = 0) -> list[int]:
    """Log-normal, as captions are: median 44 tokens, sigma 0.55, clipped to 16-128."""
    drawn = np.random.default_rng(seed).lognormal(np.log(MEDIAN_LENGTH), SIGMA, num_images)
    return np.clip(np.rint(drawn), SHORTEST, LONGEST).astype(int).tolist()


def check(name: str, captions: Sequence[Sequence[int]], lengths: Sequence[int], truth: Sequence[Sequence[int]]) -> None:
    """Raises MismatchError unless each caption has its length and is the one of `truth`."""
    if len(captions) != len(lengths):
        raise MismatchError(f"{name} returned {len(captions)} captions for {len(lengths)} images")
    for image, (caption, length, expected) in enumerate(zip(captions, lengths, truth, strict=True)):
        if len(caption) != length:
            raise MismatchError(f"{name}, image {image}: {len(caption)} tokens, {length} were asked for")
        if list(caption) != list(expected):
            step = next(i for i, (a, b) in enumerate(zip(caption, expected, strict=True)) if a != b)
            raise MismatchError(
                f"{name}, image {image}: token {step} is {caption[step]}, in the first captions it is {expected[step]}"
            )


def agreement(captions: Sequence[Sequence[int]], truth: Sequence[Sequence[int]]) -> dict[str, float]:
    """How far captions are those of float32: the share that is equal, the mean number of tokens before a difference."""
    prefixes = [
        next((i for i, (a, b) in enumerate(zip(ids, expected, strict=True)) if a != b), len(ids))
        for ids, expected in zip(captions, truth, strict=True)
    ]
    equal = sum(prefix == len(expected) for prefix, expected in zip(prefixes, truth, strict=True))
    return {"equal_captions": equal / len(truth), "mean_equal_tokens": sum(prefixes) / len(truth)}


def make_workload(
    folder: Path,
    checkpoint: Path,
    num_images: int,
    *,
    threads: int,
    device: str = "cpu",
    image_sizes: Sequence[tuple[int, int]] = IMAGE_SIZES,
    precision: str = "float32",
) -> Job:
    """Draws the images, as tars and one by one, and writes the prompt in token ids, all below `folder`.

    `precision` is that of an engine which is there, or may be built, to ask for prompt and preprocessing.
    """
    per_shard = -(-num_images // NUM_SHARDS)
    for path in write_tars(folder / "shards", num_images, image_sizes, per_shard=per_shard):
        with tarfile.open(path) as tar:
            tar.extractall(folder / "images", [m for m in tar if m.name.endswith(".jpg")], filter="data")
    engine = find_engine(folder, checkpoint, precision)
    spec = EngineSpec.load(engine)
    prompts = PromptEncoder(load_tokenizer(engine), spec.prompt, 128, spec.limits.max_text_tokens)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return Job(
        folder=str(folder),
        checkpoint=str(checkpoint),
        prefix_ids=prompts.prefix_ids.tolist(),
        suffix_ids=prompts.text_ids({})[0].tolist(),
        image_token_id=config.get("image_token_index", config.get("image_token_id")),
        num_image_tokens=spec.vision.num_image_tokens,
        image_size=spec.preprocess.image_size,
        mode=spec.preprocess.mode,
        mean=list(spec.preprocess.mean),
        std=list(spec.preprocess.std),
        threads=threads,
        device=device,
        max_new_tokens=LONGEST,
    )


def find_engine(folder: Path, checkpoint: Path, precision: str, recipe: str = RECIPE) -> Path:
    """The checkpoint's engine in that precision; builds it the first time, by that recipe."""
    engine = folder / f"engine-{precision}"
    if not engine.exists():
        build_engine(recipe, checkpoint, engine, precision=precision)
    return engine


@dataclass
class Recorder:
    """An engine that remembers what it generated."""

    engine: Engine
    completions: dict[int, Completion] = field(default_factory=dict)

    @property
    def free_slots(self) -> int:
        return self.engine.free_slots

    def submit(self, requests: Sequence[Request]) -> None:
        self.engine.submit(requests)

    def step(self) -> list[Completion]:
        done = self.engine.step()
        self.completions.update((c.id, c) for c in done)
        return done

    def describe(self) -> str:
        return self.engine.describe()

    @property
    def statistics(self) -> Statistics:
        return self.engine.statistics

    def close(self) -> None:
        self.engine.close()


class RecapFast:
    """recap-fast end to end, from the tars to renamed Parquet files and done-records; the engine stays open."""

    libraries = ("torch", "pillow", "pyarrow")

    def __init__(self, job: Job):
        """Stop tokens and loops are ignored; pixels are Pillow's. Settings: `num_slots`, `prefill_images`."""
        torch.set_num_threads(job.threads)
        self._folder = Path(job.folder)
        engine = find_engine(self._folder, Path(job.checkpoint), job.precision)
        spec = dataclasses.replace(EngineSpec.load(engine), stop_ids=(), kv_precision=job.kv_precision)
        self._tars = sorted((self._folder / "shards").glob("*.tar"))
        self._tokenizer = load_tokenizer(engine)
        self._prompts = PromptEncoder(self._tokenizer, spec.prompt, 128, spec.limits.max_text_tokens)
        self._decoder = make_decoder("pillow", spec.preprocess, num_threads=max(1, job.threads // 2))
        options = EngineOptions(device=job.device, loop_stop=False, **job.settings)
        self.engine = open_engine(engine, spec, options, self._prompts.prefix_ids.tolist())
        self._window = WINDOW_SLOTS * (options.num_slots or spec.limits.num_slots) + 512

    def run(self, lengths: Sequence[int]) -> Pass:
        """Captions all images; raises MismatchError where the Parquet files do not hold what the engine said."""
        output = Path(tempfile.mkdtemp(prefix="out-", dir=self._folder))
        shards = expand(list(map(str, self._tars)))
        recorder = Recorder(self.engine)

        def length(sample: Sample) -> int:
            return lengths[int(sample.key)]

        stages = Stages(
            open_shard=open_shard,
            decoder=self._decoder,
            prompts=self._prompts,
            engine=recorder,
            detokenize=self._tokenizer.detokenize,
            ledger=Ledger.open(OutputFolder(output), {}, shards, identity),
            max_new_tokens=length,
        )
        pipeline = Pipeline(stages, Progress(len(shards.shards)), window=self._window)
        start = time.perf_counter()
        pipeline.run(shards.shards)
        seconds = time.perf_counter() - start
        captions = [recorder.completions[i].token_ids.tolist() for i in sorted(recorder.completions)]
        self._check_rows(output, captions)
        shutil.rmtree(output)
        return Pass(seconds, captions)

    def _check_rows(self, output: Path, captions: list[list[int]]) -> None:
        columns = ["re_caption", "num_tokens", "status"]
        rows = [
            row
            for tar in self._tars
            for row in pq.read_table(output / "data" / f"{tar.stem}.parquet", columns=columns).to_pylist()
        ]
        texts = self._tokenizer.detokenize([np.array(ids, np.int32) for ids in captions])
        expected = [
            {"re_caption": text.strip(), "num_tokens": len(ids), "status": "ok"}
            for text, ids in zip(texts, captions, strict=True)
        ]
        if rows != expected:
            raise MismatchError(f"the Parquet files in {output} do not hold the captions that the engine generated")

    def close(self) -> None:
        """Ends threads and frees memory."""
        self._decoder.close()
        self.engine.close()
