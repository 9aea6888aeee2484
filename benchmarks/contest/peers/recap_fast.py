"""recap-fast end to end, from the tars to renamed Parquet files and done-records; the engine stays open.

Stop tokens and loops are ignored; pixels are Pillow's. Settings: `num_slots`, `prefill_images`.
"""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
import torch

from contest.contest import MismatchError
from contest.engines import find_engine
from contest.peers.protocol import Job, Pass, serve
from recap_fast.captioner.captioner import Captioner
from recap_fast.captioner.config import CaptionConfig
from recap_fast.generate.engine import Engine, EngineOptions, Statistics
from recap_fast.launch.config import RunConfig
from recap_fast.launch.execute import execute
from recap_fast.launch.plan import plan
from recap_fast.launch.reporter import Reporter
from recap_fast.records import Completion, Request


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

    def step(self, *, more: bool = False) -> list[Completion]:
        done = self.engine.step(more=more)
        self.completions.update((c.id, c) for c in done)
        return done

    def describe(self) -> str:
        return self.engine.describe()

    @property
    def statistics(self) -> Statistics:
        return self.engine.statistics

    def close(self) -> None:
        self.engine.close()


class ExactCaptioner(Captioner):
    """Makes captions of given lengths, in the order of the images, and remembers their tokens."""

    def __init__(self, config: CaptionConfig, kv_precision: str):
        super().__init__(config)
        self.prepared = self.prepared.with_spec(stop_ids=(), kv_precision=kv_precision)
        self.lengths: Iterator[int] = iter(())
        self._recorder: Recorder | None = None

    @property
    def engine(self) -> Recorder:
        """The engine, which stays the same from run to run."""
        assert self._recorder is not None
        return self._recorder

    def start(self) -> Self:
        """Opens the engine the first time."""
        if self._recorder is None:
            super().start()
            self._recorder = Recorder(super().engine)
        return self

    def requests(self, *given: Any, **options: Any) -> list[Request]:
        """Asks for the next length."""
        asked = super().requests(*given, **options)
        return [dataclasses.replace(request, max_new_tokens=next(self.lengths)) for request in asked]

    def take(self) -> list[list[int]]:
        """The captions since the last time, in the order of the images."""
        done = self.engine.completions
        captions = [done[i].token_ids.tolist() for i in sorted(done)]
        done.clear()
        return captions


class RecapFast:
    """See `protocol.Contestant`."""

    libraries: tuple[str, ...] = ("torch", "pillow", "pyarrow")
    backend = "torch"

    def __init__(self, job: Job):
        torch.set_num_threads(job.threads)
        self._folder = Path(job.folder)
        checkpoint = Path(job.checkpoint)
        self._tars = sorted((self._folder / "shards").glob("*.tar"))
        self._options: dict[str, Any] = {
            "engine": find_engine(self._folder, checkpoint, job.precision, job.recipe, job.mode, self.backend),
            "options": EngineOptions(device=job.device, loop_stop=False, **job.settings),
            "decoder": "pillow",
            "decode_threads": max(1, job.threads // 2),
        }
        self.captioner = ExactCaptioner(CaptionConfig(**self._options), job.kv_precision).start()

    def run(self, lengths: Sequence[int]) -> Pass:
        """Captions all images; raises MismatchError where the Parquet files do not hold what the engine said."""
        output = Path(tempfile.mkdtemp(prefix="out-", dir=self._folder))
        config = RunConfig(**self._options, shards=tuple(map(str, self._tars)), output=str(output), dedup=False)
        with closing(plan(config)) as planned:  # whose own captioner is never started
            ours = dataclasses.replace(planned, captioner=self.captioner)
            self.captioner.lengths = iter(lengths)
            start = time.perf_counter()
            execute(ours, Reporter(None))
            seconds = time.perf_counter() - start
        captions = self.captioner.take()
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
        texts = self.captioner.prepared.tokenizer.detokenize([np.array(ids, np.int32) for ids in captions])
        expected = [
            {"re_caption": text.strip(), "num_tokens": len(ids), "status": "ok"}
            for text, ids in zip(texts, captions, strict=True)
        ]
        if rows != expected:
            raise MismatchError(f"the Parquet files in {output} do not hold the captions that the engine generated")

    def close(self) -> None:
        """Ends threads and frees memory."""
        self.captioner.close()


if __name__ == "__main__":
    serve(RecapFast)
