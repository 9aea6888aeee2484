"""The C++ core (csrc/): tokenizer, packing, JPEG walker, Parquet writer. Everything here releases the GIL while
it works. What does not fit raises TypeError or ValueError.

Import pyarrow before it, and compare `ARROW_VERSION`: recap_fast/arrow_core.py does both and passes this module on.
"""
# ruff: noqa: PYI021 - the documentation is here, the bindings hold conversions only

from collections.abc import Sequence
from os import PathLike
from types import TracebackType
from typing import Protocol, Self, final

import numpy as np
from numpy.typing import NDArray

ARROW_VERSION: str
"""The version of pyarrow that this module is linked to."""

class _ArrowSchema(Protocol):
    def __arrow_c_schema__(self) -> object: ...

class _ArrowArray(Protocol):
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...

@final
class Tokenizer:
    """Llama-3's byte-level BPE, equal to the `tokenizers` library's. Immutable; threads may share one."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: Sequence[tuple[int, int, int]] | None,
        special: dict[str, int],
        ignore_merges: bool,
        words: dict[int, bytes] = {},
    ) -> None:
        """`tokens[i]` holds the bytes of ordinary token i, b"" where the id is special or unused.

        `merges` are (left id, right id, joined id) in the order of their ranks, as in a tokenizer.json; without them
        the rank of a pair is the id of its joined bytes, as in tiktoken's files. `ignore_merges`: a word that is a
        token is that token. No text yields a token of `special`; it is printed as `words` has it, by id, and else not
        at all. Raises ValueError where these do not make a byte-level BPE.
        """

    @property
    def vocab_size(self) -> int:
        """The largest id plus one, special tokens included."""

    def encode(self, text: str) -> NDArray[np.int32]:
        """Token ids [n]. Special tokens in the text stay text.

        Raises ValueError (UnicodeEncodeError) for text with lone surrogates.
        """

    def detokenize(self, rows: Sequence[NDArray[np.int32]]) -> list[str]:
        """The text of each row of ids, special tokens that are no words left out.

        Bytes that are not UTF-8 become U+FFFD as in `bytes.decode("utf-8", "replace")`, which is also what the
        `tokenizers` library does. Raises ValueError for ids out of range.
        """

def pack_prompts(
    texts: Sequence[NDArray[np.int32]],
    num_image_tokens: int,
    width: int,
    *,
    rows: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The inputs of one prefill: `rows` prompts of `num_image_tokens` image rows and `width` text rows each.

    `rows` is len(texts) unless given; rows beyond the texts are prompts without text. Returns

    - text ids [rows, width], 0 after the end of each text;
    - the row of each prompt's last token [rows], in the matrix [rows * (num_image_tokens + width)] of new positions;
      that of its last image token where it has no text.

    Raises ValueError for a text longer than `width`, for a prompt without any token, for more texts than rows, and for
    numbers that are no shape.
    """

def walk_jpeg(data: bytes) -> tuple[bytes, int, int, bool]:
    """Walks the markers of a JPEG (ITU-T T.81, annex B) before any decoder sees it. Returns

    - the same image without what is no picture: no application segments but JFIF's, Adobe's and one with the EXIF
      orientation alone, no comments, nothing between the segments or behind the end; empty for what is no JPEG;
    - the EXIF orientation, 1 to 8;
    - the number of scans;
    - whether every segment is as the standard has it for 8-bit baseline and progressive Huffman JPEGs of one or three
      components, to the end marker; the entropy-coded data are not looked into.
    """

@final
class ParquetWriter:
    """Writes record batches to a Parquet file on its own thread: zstd, statistics, the Arrow schema kept.

    As a context manager it closes the file, and aborts it where the block raised. A writer that is dropped aborts.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        schema: _ArrowSchema,
        *,
        max_row_group_rows: int = 10000,
        max_row_group_bytes: int = 134217728,
        key_value_metadata: dict[str, str] = {},
    ) -> None:
        """Creates or empties the file. At most four batches wait for the thread.

        A row group is closed before it would have more rows or more bytes, counted in Arrow's layout; a single row may
        be larger.

        Raises OSError where the file cannot be opened, ValueError for options out of range.
        """

    def write(self, batch: _ArrowArray) -> None:
        """Hands a batch over without a copy; waits while the queue is full.

        Raises OSError, with the path, if the thread has failed; ValueError for a batch that is not valid or has another
        schema, and after `close` or `abort`.
        """

    def close(self) -> None:
        """Writes what is queued and the footer, and brings the file to the disk (fsync). May be called again.

        Raises OSError, with the path, if anything failed; ValueError after `abort`.
        """

    def abort(self) -> None:
        """Drops what is queued and ends the thread. The file stays, without a footer: it is not valid Parquet."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
