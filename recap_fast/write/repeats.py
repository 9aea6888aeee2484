"""Flags that take a look at a whole shard: one caption for several images, one image many times.

All rows of the shard go through twice, in the same order: once to find what repeats, once to get their flags. Between
the two there are 16 bytes a row, hashes and no texts. What comes out does not depend on which run made which row: flags
of this kind that a row has from an earlier run are replaced.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recap_fast.write.flags import FLAGS, SHARD_FLAGS

COLUMNS = ("index", "re_caption", "sha256", "image_sha256", "width")
"""What `find_repeats` looks at."""
MIN_SAME_CAPTION = 4
"""So many images that differ have one caption, where it is flagged: it is that of three others."""
MIN_SAME_IMAGE = 10
"""So often an image is there, where it is flagged as a placeholder."""
_NOTHING = 0
"""In place of a hash, where a row has no caption or no image."""
_ODD = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio in 64 bits: by it, the hashes of a caption and of an image make that of the pair."""
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Repeats:
    """Of each row of a shard, in order, what repeats."""

    same_caption: NDArray[np.bool_]
    same_image: NDArray[np.bool_]


def find_repeats(batches: Iterable[pa.RecordBatch]) -> Repeats:
    """Looks at all rows of a shard; batches have at least `COLUMNS`.

    Images are the same where their bytes are, by SHA-256. One whose size is not known was not there or is no image.
    """
    captions, images = array("Q"), array("Q")
    for batch in batches:
        columns = (batch[name].to_pylist() for name in COLUMNS[1:])
        for caption, given, own, width in zip(*columns, strict=True):
            captions.append(_hash(caption))
            images.append(_NOTHING if width is None else _hash(own or given))
    of_captions, of_images = np.frombuffer(captions, np.uint64), np.frombuffer(images, np.uint64)
    return Repeats(
        _same_captions(of_captions, of_images), _among(of_images, _often(np.sort(of_images), MIN_SAME_IMAGE))
    )


def add_shard_flags(batches: Iterable[pa.RecordBatch], repeats: Repeats) -> Iterator[pa.RecordBatch]:
    """The batches, which have the rows that `repeats` was found of in the same order, with all of their flags."""
    start = 0
    for batch in batches:
        rows = slice(start, start := start + batch.num_rows)
        same_caption, same_image = repeats.same_caption[rows], repeats.same_image[rows]
        number = batch.schema.get_field_index("flags")
        to_look_at = pc.is_in(pc.list_flatten(batch.column(number)), pa.array(("flat_color", *SHARD_FLAGS)))
        if same_caption.any() or same_image.any() or pc.any(to_look_at).as_py():
            found = zip(batch.column(number).to_pylist(), same_caption.tolist(), same_image.tolist(), strict=True)
            field = batch.schema.field(number)
            batch = batch.set_column(number, field, pa.array([_flags(*each) for each in found], field.type))
        yield batch


def _flags(had: list[str], same_caption: bool, same_image: bool) -> list[str]:
    has = {flag for flag in had if flag not in SHARD_FLAGS}
    if same_caption:
        has.add("same_caption")
    if same_image or "flat_color" in has:
        has.add("placeholder")
    return [flag for flag in FLAGS if flag in has]


def _same_captions(captions: Hashes, images: Hashes) -> NDArray[np.bool_]:
    """Of each row, whether `MIN_SAME_CAPTION` images that differ have its caption."""
    found = _among(captions, _often(np.sort(captions), MIN_SAME_CAPTION))
    some, pairs = captions[found], images[found]
    pairs += some * _ODD  # of hashes, a hash
    order = np.argsort(pairs)
    pairs = pairs[order]
    firsts = order[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
    del pairs, order
    return _among(captions, _often(np.sort(some[firsts]), MIN_SAME_CAPTION))


def _often(ordered: Hashes, num: int) -> Hashes:
    """The hashes, without repetition, that stand at least `num` times in an ordered array."""
    last = ordered[num - 1 :]
    often: Hashes = np.unique(last[last == ordered[: len(last)]])
    return often[often > _NOTHING]


def _among(hashes: Hashes, wanted: Hashes) -> NDArray[np.bool_]:
    """Of each hash, whether it is among these, which are in order."""
    if not len(wanted):
        return np.zeros(len(hashes), bool)
    places = np.searchsorted(wanted, hashes)
    places[places == len(wanted)] = 0
    found: NDArray[np.bool_] = wanted[places] == hashes
    return found


def _hash(text: str | None) -> int:
    """64 bits made of a text; `_NOTHING` for none."""
    return (
        _NOTHING if text is None else int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    )
