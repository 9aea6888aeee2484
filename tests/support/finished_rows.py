"""Finished samples for the tests of write/."""

import numpy as np

from recap_fast.records import Completion, FinishReason, ImageOutcome, Sample
from recap_fast.write.captions import Finished


def finished(
    index: int, caption: str | None = "A cat.", *, reason: FinishReason = "stop", shard: str = "00000", **sample: object
) -> Finished:
    """A sample whose caption has a token for each character; without a caption the image was no image."""
    given = Sample(shard=shard, index=index, key=f"{index:09d}", image=b"", **sample)
    if caption is None:
        return Finished(given, ImageOutcome(status="not_an_image", error="It is not an image."), None)
    ids = np.array([ord(c) for c in caption], np.int32)
    return Finished(given, ImageOutcome(640, 480), Completion(index, ids, reason, len(ids) + 1))
