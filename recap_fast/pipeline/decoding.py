"""The decoding thread: image bytes in, requests to the engine out; rows that cannot have a caption go straight on."""

import dataclasses
import hashlib
import time
from collections.abc import Callable

from recap_fast.captioner.captioner import Captioner
from recap_fast.generate.prompt import sample_fields
from recap_fast.pipeline.channel import Channel
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import OK, Request, Row, Sample
from recap_fast.write.assembly import EndOfShard

DECODE_BATCH = 32
"""Images decoded at once. The pixels that wait for the engine are those of four batches at most, 128 images or 43 MB at
336 px, in the memory that the decoder left them in; beside them, those of requests that the engine has taken and not
yet prefilled, one a slot at most."""
FIRST_BATCH = 8
"""The first batches are smaller, so that the engine has something to do early."""


class Decoding:
    """Decodes samples in batches and makes their prompts."""

    def __init__(
        self,
        captioner: Captioner,
        counters: RunCounters,
        spend: Callable[[str, str, float], None],
        samples: Channel[Row],
        ready: Channel[tuple[Row, Request]],
        rows: "Channel[Row | EndOfShard]",
    ):
        """`spend` is told a shard's name, the stage and the seconds that it took for the shard."""
        self._captioner, self._counters, self._spend = captioner, counters, spend
        self._samples, self._ready, self._rows = samples, ready, rows

    def run(self) -> None:
        """Decodes until no sample is left or the run stops."""
        size = FIRST_BATCH
        while not self._samples.is_finished:
            if batch := self._samples.take(size):
                self._decode(batch)
                size = min(2 * size, DECODE_BATCH)
        self._ready.close()

    def _decode(self, batch: list[Row]) -> None:
        images = [row.sample.image for row in batch if row.sample.status == OK]
        start = time.monotonic()
        with self._counters.busy("decode"):
            decoded = self._captioner.decoder.decode(images)
        share = (time.monotonic() - start) / len(batch)
        found = iter(zip(decoded.pixels, decoded.outcomes, strict=True))
        for row in batch:
            self._spend(row.sample.shard, "decode", share)
            row.sample = dataclasses.replace(row.sample, image=b"")
            pixels = None
            if row.sample.status == OK:
                pixels, row.outcome = next(found)
            if pixels is None or row.status != OK:
                self._rows.put(row)
                continue
            request, row.warning = self._captioner.request(
                pixels, sample_fields(row.sample), noise_key=noise_key(row.sample)
            )
            self._ready.put((row, request))


def noise_key(sample: Sample) -> int:
    """What names a sample's random numbers: 64 bits of (shard, index)."""
    digest = hashlib.blake2b(f"{sample.shard}\0{sample.index}".encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
