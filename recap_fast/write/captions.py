"""Samples, image outcomes and completions in; rows of the output schema out.

The caption is the generated text without special tokens, stripped. One that ended in a loop is cut at its last whole
sentence. Nothing else is changed: what the model said is what the row holds.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recap_fast.records import OK, Completion, Row
from recap_fast.write.schema import SCHEMA

Detokenize = Callable[[Sequence[NDArray[np.int32]]], list[str]]
_SENTENCE_END = re.compile(r"(?:[.!?](?=[\"'”’)\]]*(?:\s|$))|[。！？])[\"'”’」』)\]]*")  # noqa: RUF001 - they are meant


def make_batch(rows: Sequence[Row], detokenize: Detokenize) -> pa.RecordBatch:
    """Rows in the given order, as one Arrow batch of the output schema."""
    content = [_content(row, text) for row, text in zip(rows, captions_of(rows, detokenize), strict=True)]
    return pa.RecordBatch.from_pylist(content, schema=SCHEMA)


def captions_of(rows: Sequence[Row], detokenize: Detokenize) -> list[str | None]:
    """The caption of each row; None for one that has none."""
    completions = [row.completion for row in rows]
    texts = iter(detokenize([c.token_ids for c in completions if c is not None]))
    return [None if c is None else clean(next(texts), c) for c in completions]


def clean(text: str, completion: Completion) -> str:
    """Strips a caption; one whose end was a loop ends with its last whole sentence, where it has one."""
    text = text.strip()
    if completion.finish_reason != "loop":
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def count_words(text: str | None) -> int | None:
    """The paper's measure of length: words between white space."""
    return None if text is None else len(text.split())


def _content(row: Row, caption: str | None) -> dict[str, str | int | None]:
    sample, outcome, completion = row.sample, row.outcome, row.completion
    warnings = [w for w in (sample.warning, row.warning) if w]
    return {
        "url": sample.url,
        "re_caption": caption,
        "org_caption": sample.org_caption,
        "sha256": sample.sha256,
        "key": sample.key,
        "re_length": count_words(caption),
        "org_length": count_words(sample.org_caption),
        "uid": sample.uid,
        "shard": sample.shard,
        "index": sample.index,
        "file_name": sample.file_name,
        "input_version": sample.input_version,
        "image_sha256": sample.image_sha256,
        "width": outcome.width,
        "height": outcome.height,
        "status": row.status,
        "error": outcome.error if sample.status == OK else sample.error,
        "warning": "; ".join(warnings) or None,
        "finish_reason": "error" if completion is None else completion.finish_reason,
        "num_tokens": None if completion is None else completion.num_tokens,
        "metadata": sample.metadata,
    }
