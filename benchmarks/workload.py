"""What the engines are compared on: a checkpoint, JPEGs in tars, how long each caption is to be; and recap-fast's run.

Every peer gets the same images and has to return captions of exactly the requested lengths, equal token for token.
"""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from recap_fast.decode.decoder import make_decoder
from recap_fast.generate.build import build_engine
from recap_fast.generate.engine import Engine, EngineOptions, open_engine
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.launch import WINDOW_SLOTS
from recap_fast.pipeline import Pipeline, Stages
from recap_fast.progress import Progress
from recap_fast.records import Completion, Request, Sample
from recap_fast.shards.ledger import Ledger
from recap_fast.shards.reader import open_shard
from recap_fast.shards.source import expand
from recap_fast.synthetic import jpeg, write_tars

IMAGE_SIZES = [(160, 120), (192, 144), (224, 168), (256, 192), (120, 160)]
"""Width and height in pixels of the photographs, in turn."""
NUM_SHARDS = 4
FIXED_LENGTH = 64
MEDIAN_LENGTH, SIGMA, SHORTEST, LONGEST = 44, 0.55, 16, 128


class MismatchError(Exception):
    """An output that is not what was asked for, so that its time says nothing."""


@dataclass(frozen=True)
class Pass:
    """One engine went once over all images."""

    seconds: float
    captions: list[list[int]]
    """Token ids by image, in input order."""


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


@dataclass(frozen=True)
class Workload:
    """Files of a comparison, below one folder."""

    checkpoint: Path
    engine: Path
    tars: list[Path]
    images: list[bytes]
    """The JPEGs in the tars, in order."""

    @classmethod
    def make(cls, folder: Path, checkpoint: Path, num_images: int) -> "Workload":
        """Draws the images and builds the checkpoint's engine in float32."""
        engine = folder / "engine"
        build_engine("llava", checkpoint, engine, precision="float32", overwrite=True)
        per_shard = -(-num_images // NUM_SHARDS)
        tars = write_tars(folder / "shards", num_images, IMAGE_SIZES, per_shard=per_shard)
        images = [jpeg(*IMAGE_SIZES[i % len(IMAGE_SIZES)], i) for i in range(num_images)]
        return cls(checkpoint, engine, tars, images)


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

    def close(self) -> None:
        self.engine.close()


class RecapFast:
    """recap-fast end to end, from the tars to renamed Parquet files and done-records; the engine stays open."""

    name = "recap-fast"

    def __init__(self, workload: Workload, options: EngineOptions, *, decode_threads: int = 1):
        """Stop tokens and loops are ignored whatever `options` say; pixels are Pillow's."""
        self._workload = workload
        spec = dataclasses.replace(EngineSpec.load(workload.engine), stop_ids=())
        self._tokenizer = load_tokenizer(workload.engine)
        self._prompts = PromptEncoder(self._tokenizer, spec.prompt, 128, spec.limits.max_text_tokens)
        self.num_prompt_tokens = (
            len(self._prompts.prefix_ids) + spec.vision.num_image_tokens + len(self._prompts.text_ids({})[0])
        )
        self._decoder = make_decoder("pillow", spec.preprocess, num_threads=decode_threads)
        options = dataclasses.replace(options, loop_stop=False)
        self.engine = open_engine(workload.engine, spec, options, self._prompts.prefix_ids.tolist())
        self._window = WINDOW_SLOTS * (options.num_slots or spec.limits.num_slots) + 512

    def run(self, lengths: Sequence[int]) -> Pass:
        """Captions all images; raises MismatchError where the Parquet files do not hold what the engine said."""
        output = Path(tempfile.mkdtemp(prefix="out-", dir=self._workload.engine.parent))
        shards = expand(list(map(str, self._workload.tars)))
        recorder = Recorder(self.engine)

        def length(sample: Sample) -> int:
            return lengths[int(sample.key)]

        stages = Stages(
            open_shard=open_shard,
            decoder=self._decoder,
            prompts=self._prompts,
            engine=recorder,
            detokenize=self._tokenizer.detokenize,
            ledger=Ledger.open(output, {}, shards),
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
            for tar in self._workload.tars
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
