"""Samples, image outcomes and completions in; rows of the output schema out.

The caption is the generated text without special tokens, stripped. One that ended in a loop is cut at its last whole
sentence. Nothing else is changed: the row holds what the model said.

A row always fits its schema: a number that is too large is left out and a text above `MAX_TEXT_BYTES` is cut, with a
warning in the row. A sample that cannot be written even so becomes a row that says why.
"""

import contextlib
import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recap_fast.records import OK, UNWRITABLE, Completion, Row
from recap_fast.text import MAX_TEXT_BYTES, SENTENCE_END, cut, num_bytes, unicode
from recap_fast.write.flags import RowFlags, flags_of
from recap_fast.write.schema import SCHEMA

logger = logging.getLogger(__name__)

BATCH_BYTES = 16 << 20
"""Largest size of a batch's texts. Arrow's offsets end at 2 GiB per column."""
Detokenize = Callable[[Sequence[NDArray[np.int32]]], list[str]]
Content = dict[str, Any]
"""A row by column; columns that are missing are null."""
NO_PROMPT = RowFlags()
_LISTS = ("flags", "captions")
_INTEGERS = {field.name: field.type.bit_width for field in SCHEMA if pa.types.is_integer(field.type)}


def make_batches(
    rows: Sequence[Row], detokenize: Detokenize, max_bytes: int = BATCH_BYTES, flags: RowFlags = NO_PROMPT
) -> Iterator[pa.RecordBatch]:
    """Rows in the given order, as Arrow batches of the output schema.

    A batch has at most `max_bytes` of text, or one row. `flags` finds the flags of the rows. Raises ValueError for a
    row whose index cannot be written; nothing else makes it fail.
    """
    batch: list[Content] = []
    room = max_bytes
    for content, size in _contents(rows, detokenize, flags):
        if batch and size > room:
            yield pa.RecordBatch.from_pylist(batch, schema=SCHEMA)
            batch, room = [], max_bytes
        batch.append(content)
        room -= size
    if batch:
        yield pa.RecordBatch.from_pylist(batch, schema=SCHEMA)


def texts_of(rows: Sequence[Row], detokenize: Detokenize) -> list[list[str]]:
    """The captions of each row."""
    texts = iter(detokenize([c.token_ids for row in rows for c in row.completions]))
    return [[clean(next(texts), c) for c in row.completions] for row in rows]


def clean(text: str, completion: Completion) -> str:
    """Strips a caption; one that ended in a loop is cut after its last whole sentence, if it has one."""
    text = text.strip()
    if completion.finish_reason != "loop":
        return text
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def count_words(text: str | None) -> int | None:
    """The paper's measure of length: the number of words between white space."""
    return None if text is None else len(text.split())


def _contents(rows: Sequence[Row], detokenize: Detokenize, flags: RowFlags) -> Iterator[tuple[Content, int]]:
    """Each row and its bytes of text. If the captions of all rows cannot be made together, each is made by itself."""
    texts: list[list[str]] | None = None
    with contextlib.suppress(Exception):
        texts = texts_of(rows, detokenize)
    for number, row in enumerate(rows):
        try:
            (own,) = texts_of([row], detokenize) if texts is None else texts[number : number + 1]
            yield _fit(_content(row, own, flags))
        except Exception as error:  # the boundary of a row: no row, however odd, ends the shard
            sample = row.sample
            logger.warning("shard %s: sample %s cannot be written", sample.shard, sample.index, exc_info=error)
            yield _unwritable(row, error)


def _unwritable(row: Row, error: Exception) -> tuple[Content, int]:
    content: Content = {name: getattr(row.sample, name) for name in ("key", "shard", "index", "input_version")}
    reason = f"{type(error).__name__}: {error}"
    return _fit({**content, "status": UNWRITABLE, "error": reason, "finish_reason": "error", "flags": []})


def _fit(content: Content) -> tuple[Content, int]:
    """The row as its columns can hold it, and its bytes of text."""
    warnings: list[str] = []
    size = _fit_values(content, warnings)
    size += sum(_fit_values(each, warnings, "captions.") for each in content.get("captions") or ())
    if content["index"] is None:
        raise ValueError(f"a row has no index, or one that does not fit into {_INTEGERS['index']} bits")
    if warnings:
        content["warning"] = "; ".join([*warnings, str(content["warning"])] if content.get("warning") else warnings)
    return content, size


def _fit_values(content: Content, warnings: list[str], prefix: str = "") -> int:
    """Fits the integers and texts of a row, or of one of its several captions. Gives the bytes of the texts."""
    size = 0
    for name, value in content.items():
        if value is None or name in _LISTS:
            continue
        width = _INTEGERS.get(name)
        if width is not None:
            bits = operator.index(value).bit_length()
            if bits >= width:
                content[name] = None
                shown = value if bits <= 64 else f"a number of {bits:,} bits"
                warnings.append(f"{prefix}{name} is left out, as it does not fit into {width} bits: {shown}")
        elif not isinstance(value, str):
            raise TypeError(f"{prefix}{name} is a {type(value).__name__}, not text")
        elif value.isascii() and len(value) <= MAX_TEXT_BYTES:
            size += len(value)
        else:
            content[name] = fitted = _fit_text(f"{prefix}{name}", value, warnings)
            size += num_bytes(fitted)
    return size


def _fit_text(name: str, text: str, warnings: list[str]) -> str:
    text = unicode(text)
    if num_bytes(text) <= MAX_TEXT_BYTES:
        return text
    warnings.append(f"{name} has {num_bytes(text):,} bytes and is cut to {MAX_TEXT_BYTES:,}")
    return cut(text, MAX_TEXT_BYTES)


def _content(row: Row, texts: Sequence[str], flags: RowFlags) -> Content:
    sample, outcome, completion = row.sample, row.outcome, row.completion
    caption = texts[0] if texts else None
    flags = flags_of(row.prompts[0][1]) if row.prompts else flags
    finish_reason = "error" if completion is None else completion.finish_reason
    warnings = [w for w in (sample.warning, outcome.warning, row.warning) if w]
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
        "finish_reason": finish_reason,
        "num_tokens": None if completion is None else completion.num_tokens,
        "metadata": sample.metadata,
        "flags": flags.find(caption, finish_reason, is_flat=outcome.is_flat),
        "duplicate_of": row.duplicate_of,
        "captions": _captions(row, texts) if row.prompts and texts else None,
    }


def _captions(row: Row, texts: Sequence[str]) -> list[Content]:
    """All captions of a row, where the run makes several or draws the prompt."""
    return [
        {"name": name, "prompt": prompt, "text": text, "finish_reason": c.finish_reason, "num_tokens": c.num_tokens}
        for (name, prompt), text, c in zip(row.prompts, texts, row.completions, strict=True)
    ]
