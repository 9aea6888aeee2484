"""The decoding thread: image bytes in, requests to the engine out; rows that cannot have a caption go straight on."""

import dataclasses
import hashlib
from dataclasses import dataclass

from recap_fast.captioner.captioner import Captioner
from recap_fast.generate.prompt import sample_fields
from recap_fast.pipeline.channel import DECODE_BATCH, Channels
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import OK, Row, Sample
from recap_fast.write.assembly import Assembly

FIRST_BATCH = 8
"""The first batches are smaller, so that the engine has something to do early."""


@dataclass
class Decoding:
    """Decodes samples in batches and makes their prompts."""

    captioner: Captioner
    channels: Channels
    counters: RunCounters
    assembly: Assembly

    def run(self) -> None:
        """Decodes until no sample is left or the run stops."""
        size = FIRST_BATCH
        while not self.channels.samples.is_finished:
            if batch := self.channels.samples.take(size):
                self._decode(batch)
                size = min(2 * size, DECODE_BATCH)
        self.channels.ready.close()

    def _decode(self, batch: list[Row]) -> None:
        images = [row.sample.image for row in batch if row.sample.status == OK]
        with self.counters.busy("decode") as lap:
            decoded = self.captioner.decoder.decode(images)
        found = iter(zip(decoded.pixels, decoded.outcomes, strict=True))
        self.channels.window.leave(0, sum(len(row.sample.image) for row in batch))
        for row in batch:
            self.assembly.spend(row.sample.shard, "decode", lap.seconds / len(batch))
            row.sample = dataclasses.replace(row.sample, image=b"")
            pixels = None
            if row.sample.status == OK:
                pixels, row.outcome = next(found)
            if pixels is None or row.status != OK:
                self.channels.rows.put(row)
                continue
            request, row.warning = self.captioner.request(
                pixels, sample_fields(row.sample), noise_key=noise_key(row.sample)
            )
            self.channels.ready.put((row, request))


def noise_key(sample: Sample) -> int:
    """What names a sample's random numbers: 64 bits of (shard, index)."""
    digest = hashlib.blake2b(f"{sample.shard}\0{sample.index}".encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
