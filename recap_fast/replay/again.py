"""Makes what a row says again, of its sample, as a run does it: one image through decoder, prompt and engine."""

from dataclasses import dataclass, replace

from recap_fast.addresses import scrub
from recap_fast.captioner.captioner import Captioner
from recap_fast.generate.prepared import generate_all
from recap_fast.generate.prompt import SampleFields
from recap_fast.pipeline.decoding import noise_key
from recap_fast.records import OK, Completion, Request, Row, Sample
from recap_fast.replay.stored import Answer
from recap_fast.write.captions import texts_of


@dataclass(frozen=True, slots=True)
class Again:
    """What became of an image now."""

    answer: Answer
    request: Request | None
    """What the engine was asked; None where the image has no pixels, so that no engine was opened."""
    completion: Completion | None
    """None where there is no caption."""


def make_again(sample: Sample, captioner: Captioner) -> Again:
    """Decodes the image of a sample and captions it; the captioner is opened where there are pixels.

    Raises ConfigError where the engine or the device cannot be used, and EngineError.
    """
    row, request = Row(order=0, sample=replace(sample, image=b"")), None
    if sample.status == OK:
        batch = captioner.decoder.decode([sample.image])
        row.outcome = batch.outcomes[0]
        if row.outcome.status == OK:
            (request,) = captioner.requests(row, batch.pixels[0], SampleFields(sample), noise_key=noise_key(sample))
            captioner.check()
            (completion,) = generate_all(captioner.start().engine, [request])
            row.complete([completion])
    (texts,) = texts_of([row], captioner.detokenize)
    done, error = row.completion, row.outcome.error if sample.status == OK else sample.error
    reason, count = ("error", None) if done is None else (done.finish_reason, done.num_tokens)
    return Again(Answer(row.status, error and scrub(error), texts[0] if texts else None, reason, count), request, done)
