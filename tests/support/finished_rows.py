"""Finished samples for the tests of write/."""

import numpy as np

from recap_fast.records import Completion, FinishReason, ImageOutcome, Row, Sample


def finished(
    index: int,
    caption: str | None = "A cat.",
    *,
    order: int | None = None,
    reason: FinishReason = "stop",
    shard: str = "00000",
    **sample: object,
) -> Row:
    """A row whose caption has a token for each character; without a caption the image was no image.

    `order` is the index unless given.
    """
    given = Sample(shard=shard, index=index, key=f"{index:09d}", image=b"", **sample)
    row = Row(order=index if order is None else order, sample=given)
    if caption is None:
        row.outcome = ImageOutcome(status="not_an_image", error="It is not an image.")
        return row
    ids = np.array([ord(c) for c in caption], np.int32)
    row.outcome, row.completion = ImageOutcome(640, 480), Completion(index, ids, reason, len(ids) + 1)
    return row
