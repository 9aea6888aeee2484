"""Makes what a row says again, of its sample, as a run does it: one image through decoder, prompt and engine."""

from dataclasses import dataclass, replace

from recap_fast.addresses import scrub
from recap_fast.captioner.captioner import Captioner
from recap_fast.generate.prepared import generate_all
from recap_fast.generate.prompt import SampleFields
from recap_fast.pipeline.decoding import noise_key
from recap_fast.records import OK, Completion, Request, Row, Sample
from recap_fast.replay.stored import Answer, answer_of
from recap_fast.write.captions import make_batches


@dataclass(frozen=True, slots=True)
class Again:
    """What became of an image now."""

    answer: Answer
    requests: tuple[Request, ...] = ()
    """What the engine was asked, one for each caption; none where the image has no pixels, so that no engine was
    opened."""
    completions: tuple[Completion, ...] = ()
    """One for each request; none where there is no caption."""


def make_again(sample: Sample, captioner: Captioner) -> Again:
    """Decodes the image of a sample and makes all its captions in one group; the captioner is opened where there are
    pixels.

    Raises ConfigError where the engine or the device cannot be used, and EngineError.
    """
    row, requests = Row(order=0, sample=replace(sample, image=b"")), list[Request]()
    if sample.status == OK:
        batch = captioner.decoder.decode([sample.image])
        row.outcome = batch.outcomes[0]
        if row.outcome.status == OK:
            requests = captioner.requests(row, batch.pixels[0], SampleFields(sample), noise_key=noise_key(sample))
            captioner.check()
            made = {each.id: each for each in generate_all(captioner.start().engine, requests)}
            row.complete([made[request.id] for request in requests])
    ((content,),) = (batch.to_pylist() for batch in make_batches([row], captioner.detokenize))
    error = content["error"]
    return Again(answer_of({**content, "error": error and scrub(error)}), tuple(requests), row.completions)
