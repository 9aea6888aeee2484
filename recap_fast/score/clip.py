"""Scores by a CLIP: images and captions in, how near their features are out.

One thread decodes images and turns captions into tokens, some batches ahead of the model. Each text of a batch is
computed once, beside texts of its length.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recap_fast.decode.decoder import ImageDecoder, make_decoder
from recap_fast.records import OK, Pixels
from recap_fast.score.ahead import ahead
from recap_fast.score.clip_folder import ClipFolder
from recap_fast.score.clip_model import ClipModel, Precision
from recap_fast.score.scorer import Pair, Score
from recap_fast.text import counted

Measure = Literal["cosine", "softmax"]
Tokens: TypeAlias = "tuple[list[int], bool]"
Features: TypeAlias = NDArray[np.float64]
NUM_WAITING = 2
"""Batches that are ready before the model takes them."""
MAX_BATCH_BYTES = 64 << 20
"""Of the encoded images of a batch."""
UNDECODED, RE_CUT, ORG_CUT = "undecoded", "re_cut", "org_cut"


@dataclass(frozen=True, slots=True)
class _Batch:
    """What the model takes at once."""

    pairs: Sequence[Pair]
    rows: Mapping[int, int]
    """The places in `pixels` of the images that were decoded, by those of their pairs."""
    pixels: Pixels
    tokens: Mapping[str, Tokens]
    """Of each caption."""


@dataclass
class ClipScorer:
    """A `Scorer` that compares features."""

    folder: ClipFolder
    measure: Measure
    device: torch.device
    precision: Precision = "float32"
    decoder: str = "auto"
    decode_threads: int = 1
    batch_size: int = 64
    """Images that the model takes at once."""
    kind = "clip"
    error_rate = 0.0
    settings: Mapping[str, Any] = field(init=False)
    _model: ClipModel = field(init=False)
    _decoder: ImageDecoder = field(init=False)

    def __post_init__(self) -> None:
        """Loads the model. Raises ConfigError."""
        self._model = ClipModel(self.folder, self.device, self.precision)
        self._decoder = make_decoder(
            self.decoder,
            self.folder.preprocess,
            num_threads=self.decode_threads,
            device_id=self.device.index if self.device.type == "cuda" else None,
        )
        preprocess = self.folder.preprocess
        self.settings = {
            "model": self.folder.name,
            "files": self.folder.digests(),
            "kind": self.measure,
            "tokens": self.folder.num_tokens,
            "image_size": preprocess.image_size,
            "preprocess": f"{preprocess.mode}, {preprocess.resample}",
            "decoder": self._decoder.name,
            "precision": self.precision,
        }

    def score(self, pairs: Iterable[Pair], expected: int = 0) -> Iterator[Score]:
        """See `Scorer`."""
        batches = (self._prepare(batch) for batch in _batches(pairs, self.batch_size))
        for batch in ahead(batches, NUM_WAITING, "recap-decode"):
            yield from self._score(batch)

    def describe(self, counts: Mapping[str, int]) -> Iterator[str]:
        """See `Scorer`."""
        cut = ((RE_CUT, "generated caption"), (ORG_CUT, "original caption"))
        for note, what in cut:
            if number := counts.get(note):
                was = "was" if number == 1 else "were"
                yield f"{counted(number, what)} {was} cut at {self.folder.num_tokens} tokens"
        if number := counts.get(UNDECODED):
            lack = "has no score: it" if number == 1 else "have no score: they"
            yield f"{counted(number, 'image')} {lack} could not be decoded"

    def close(self) -> None:
        """See `Scorer`."""
        self._decoder.close()

    def _prepare(self, pairs: Sequence[Pair]) -> _Batch:
        decoded = self._decoder.decode([pair.image for pair in pairs])
        good = [place for place, outcome in enumerate(decoded.outcomes) if outcome.status == OK]
        pixels = decoded.pixels if len(good) == len(pairs) else decoded.pixels[good]
        captions = (text for pair in pairs for text in (pair.re_caption, pair.org_caption))
        texts = [*dict.fromkeys(text for text in captions if text is not None)]
        tokens = dict(zip(texts, self._model.tokenize(texts), strict=True))
        light = [replace(pair, image=b"") for pair in pairs]
        return _Batch(light, {place: row for row, place in enumerate(good)}, pixels, tokens)

    def _score(self, batch: _Batch) -> Iterator[Score]:
        rows = np.array([batch.rows.get(place, -1) for place in range(len(batch.pairs))])
        images, texts = self._image_features(batch.pixels, len(batch.rows)), self._text_features(batch.tokens)
        places = {text: place for place, text in enumerate(batch.tokens)}
        sides = []
        for captions in ([p.re_caption for p in batch.pairs], [p.org_caption for p in batch.pairs]):
            columns = np.array([-1 if text is None else places[text] for text in captions])
            there = (rows >= 0) & (columns >= 0)
            values = self._compare(images[rows[there]], texts[columns[there]])
            found: list[float | None] = [None] * len(captions)
            for place, value in zip(np.flatnonzero(there), values.tolist(), strict=True):
                found[place] = value
            sides.append(found)
        for pair, row, re, org in zip(batch.pairs, rows, *sides, strict=True):
            if self.measure == "softmax":
                re, org = softmax(re, org)
            notes = _notes(pair, batch.tokens) if row >= 0 else (UNDECODED,)
            yield Score(pair.shard, pair.index, re, org, notes)

    def _compare(self, images: Features, texts: Features) -> Features:
        """The products of features, pair by pair: [n]."""
        products: Features = (images * texts).sum(1)
        if self.measure == "cosine":
            products *= 100 / (np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1))
        return products

    def _image_features(self, pixels: Pixels, number: int) -> Features:
        """[n, width]"""
        return _on_host(self._model.image_features(pixels)) if number else np.empty((0, 1))

    def _text_features(self, tokens: Mapping[str, Tokens]) -> Features:
        """Of each text, in their order: [n, width]. Texts of similar lengths are computed together."""
        texts = [ids for ids, _ in tokens.values()]
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        groups = [order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]
        found = [_on_host(self._model.text_features([texts[place] for place in group])) for group in groups]
        features = np.empty((len(texts), found[0].shape[1] if found else 1))
        for group, part in zip(groups, found, strict=True):
            features[group] = part
        return features


def _on_host(features: Tensor) -> Features:
    return features.cpu().double().numpy()


def _notes(pair: Pair, tokens: Mapping[str, Tokens]) -> tuple[str, ...]:
    captions = ((pair.re_caption, RE_CUT), (pair.org_caption, ORG_CUT))
    return tuple(note for text, note in captions if text is not None and tokens[text][1])


def softmax(re: float | None, org: float | None) -> tuple[float | None, float | None]:
    """The shares of two products in 100, as the demo of Long-CLIP has them (beichenzbc/Long-CLIP, demo.py): softmax
    without a temperature over features that are not normalized. None where one is missing."""
    if re is None or org is None:
        return None, None
    share = 100 / (1 + math.exp(min(org - re, 700.0)))
    return share, 100 - share


def _batches(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    """So many pairs each; fewer where their images are large."""
    batch: list[Pair] = []
    num_bytes = 0
    for pair in pairs:
        if batch and (len(batch) == size or num_bytes + len(pair.image) > MAX_BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(pair)
        num_bytes += len(pair.image)
    if batch:
        yield batch
