"""The decoding thread: image bytes in, requests to the engine out; rows that cannot have a caption go straight on."""

import dataclasses
import hashlib
from dataclasses import InitVar, dataclass, field
from typing import TypeAlias

from recap_fast.captioner.captioner import Captioner
from recap_fast.generate.prompt import SampleFields
from recap_fast.pipeline.channel import DECODE_BATCH, Channels
from recap_fast.pipeline.counters import RunCounters
from recap_fast.pipeline.once import Claim, Once
from recap_fast.records import CRASHED, OK, ImageOutcome, Pixels, Row, Sample
from recap_fast.write.assembly import Assembly
from recap_fast.write.decode_notes import DecodeNotes

FIRST_BATCH = 8
"""The first batches are smaller, so that the engine has something to do early."""
Decoded: TypeAlias = "tuple[Pixels | None, ImageOutcome]"
TWICE = "The process ended while this image was decoded, and again when Pillow decoded it alone."


@dataclass
class Decoding:
    """Decodes samples in batches and makes their prompts."""

    captioner: Captioner
    channels: Channels
    counters: RunCounters
    assembly: Assembly
    notes: DecodeNotes
    dedup: InitVar[bool] = False
    """Whether images of the same bytes are captioned once."""
    once: Once = field(init=False)
    shard: str = ""
    """The one that the last sample was of."""

    def __post_init__(self, dedup: bool) -> None:
        self.once = Once(self.captioner.prepared.prompts.fields if dedup else None)

    def run(self) -> None:
        """Decodes until no sample is left or the run stops."""
        size = FIRST_BATCH
        while not self.channels.samples.is_finished:
            if batch := self.channels.samples.take(size):
                self._take(batch)
                size = min(2 * size, DECODE_BATCH)
        self.channels.ready.close()

    def _take(self, batch: list[Row]) -> None:
        if batch[-1].sample.shard != self.shard:
            self.shard = batch[-1].sample.shard
            self.notes.look_again()  # a process that had this shard may have died since the run began
        num_bytes = sum(len(row.sample.image) for row in batch)
        rows, samples = self._claim(batch)
        with self.counters.busy("decode") as lap:
            decoded = self._decode(samples)
        del samples
        self.channels.window.leave(0, num_bytes)
        for row in rows:
            self.assembly.spend(row.sample.shard, "decode", lap.seconds / len(rows))
            pixels = None
            if row.sample.status == OK:
                pixels, row.outcome = decoded[row.sample.shard, row.sample.index]
            if pixels is None or row.status != OK:
                for each in self.once.settle(row):
                    self.channels.rows.put(each)
                continue
            fields = SampleFields(row.sample)
            requests = self.captioner.requests(row, pixels, fields, noise_key=noise_key(row.sample))
            self.channels.ready.put((row, requests))

    def _claim(self, batch: list[Row]) -> tuple[list[Row], list[Sample]]:
        """The rows that are to be captioned, and the samples to decode for them. From here on rows have no image bytes.

        Of an image that was captioned before the row goes straight on; where it is being captioned, the row waits.
        """
        rows: list[Row] = []
        samples: list[Sample] = []
        for row in batch:
            sample, row.sample = row.sample, dataclasses.replace(row.sample, image=b"")
            # what has ended a process is decoded in another way, or not at all
            claim: Claim = "first" if self.notes.tries(sample.shard, sample.index) else self.once.claim(row)
            if claim == "known":
                self.channels.rows.put(row)
            elif claim == "first":
                rows.append(row)
                if sample.status == OK:
                    samples.append(sample)
        return rows, samples

    def _decode(self, samples: list[Sample]) -> dict[tuple[str, int], Decoded]:
        """Results by (shard, index). An image that a process died with is decoded once more, alone and by Pillow."""
        found: dict[tuple[str, int], Decoded] = {}
        usual, decode = [], self.captioner.decoder.decode
        for sample in samples:
            name = sample.shard, sample.index
            tries = self.notes.tries(*name)
            if tries == 0:
                usual.append(sample)
            elif tries == 1:
                with self.notes.decoding([name]):
                    alone = decode([sample.image], only_pillow=True)
                found[name] = alone.pixels[0], alone.outcomes[0]
            else:
                found[name] = None, ImageOutcome(status=CRASHED, error=TWICE)
        if usual:
            names = [(sample.shard, sample.index) for sample in usual]
            with self.notes.decoding(names):
                batch = decode([sample.image for sample in usual])
            found |= zip(names, zip(batch.pixels, batch.outcomes, strict=True), strict=True)
        return found


def noise_key(sample: Sample) -> int:
    """Key of a sample's random numbers: 64 bits made of (shard, index)."""
    digest = hashlib.blake2b(f"{sample.shard}\0{sample.index}".encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
