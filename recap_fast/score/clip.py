"""Scores by a CLIP: images and captions in, the similarity of their features out.

One thread decodes images and turns captions into tokens, some batches ahead of the model. On a CPU several threads run
the model on batches of their own, each with one processor: no operation waits for another thread. Each text of a batch
is computed once, beside texts of its length; original captions that come again and again, once for many batches.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recap_fast.decode.decoder import ImageDecoder, make_decoder
from recap_fast.records import OK, Pixels
from recap_fast.score.ahead import ahead, mapped
from recap_fast.score.clip_folder import ClipFolder
from recap_fast.score.clip_model import ClipModel, Precision
from recap_fast.score.scorer import Pair, Score
from recap_fast.text import counted

Measure = Literal["cosine", "softmax"]
Tokens: TypeAlias = "tuple[list[int], bool]"
Features: TypeAlias = NDArray[np.float64]
NUM_WAITING = 2
"""Batches that are ready before the model takes them."""
CPU_BATCH, GPU_BATCH = 16, 256
"""Images in a batch. What a layer needs for 16 stays in a processor's own cache."""
LEAST_PAIRS = 64
"""Pairs whose texts are sorted together."""
TOKENS_AN_IMAGE = 77
"""Tokens of text that the model takes at once for each image of a batch."""
MAX_KNOWN = 4096
"""Original captions whose features are kept."""
MAX_BATCH_BYTES = 64 << 20
"""Most bytes of encoded images in a batch."""
UNDECODED, RE_CUT, ORG_CUT = "undecoded", "re_cut", "org_cut"


@dataclass(frozen=True, slots=True)
class _Batch:
    """What the model takes at once."""

    pairs: Sequence[Pair]
    rows: Mapping[int, int]
    """The places in `pixels` of the images that were decoded, by those of their pairs."""
    pixels: Pixels
    tokens: Mapping[str, Tokens]
    """The tokens of each caption."""


@dataclass
class ClipScorer:
    """A `Scorer` that compares features."""

    folder: ClipFolder
    measure: Measure
    device: torch.device
    precision: Precision = "float32"
    decoder: str = "auto"
    decode_threads: int = 1
    batch_size: int = CPU_BATCH
    """Images that the model takes at once."""
    kind = "clip"
    error_rate = 0.0
    settings: Mapping[str, Any] = field(init=False)
    _model: ClipModel = field(init=False)
    _decoder: ImageDecoder = field(init=False)
    _known: dict[str, Features] = field(init=False, default_factory=dict)
    """Features of the last original captions."""

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
        batches = (self._prepare(batch) for batch in _batches(pairs, max(self.batch_size, LEAST_PAIRS)))
        prepared = ahead(batches, NUM_WAITING, "recap-decode")
        if self.device.type != "cpu":
            yield from chain.from_iterable(map(self._score, prepared))
            return
        num_threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)  # and so has each thread that begins now
            yield from chain.from_iterable(mapped(self._score, prepared, num_threads))
        finally:
            torch.set_num_threads(num_threads)

    def describe(self, counts: Mapping[str, int]) -> Iterator[str]:
        """See `Scorer`."""
        cut = ((RE_CUT, "new caption"), (ORG_CUT, "original caption"))
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

    def _score(self, batch: _Batch) -> list[Score]:
        rows = np.array([batch.rows.get(place, -1) for place in range(len(batch.pairs))])
        images, texts = self._image_features(batch.pixels, len(batch.rows)), self._text_features(batch.tokens)
        self._remember(batch.pairs, texts)
        sides = []
        for captions in ([p.re_caption for p in batch.pairs], [p.org_caption for p in batch.pairs]):
            found: list[float | None] = [None] * len(captions)
            there = [place for place, text in enumerate(captions) if text is not None and rows[place] >= 0]
            if there:
                features = np.stack([texts[captions[place] or ""] for place in there])
                for place, value in zip(there, self._compare(images[rows[there]], features).tolist(), strict=True):
                    found[place] = value
            sides.append(found)
        scores = []
        for pair, row, re, org in zip(batch.pairs, rows, *sides, strict=True):
            if self.measure == "softmax":
                re, org = softmax(re, org)
            notes = _notes(pair, batch.tokens) if row >= 0 else (UNDECODED,)
            scores.append(Score(pair.shard, pair.index, re, org, notes))
        return scores

    def _compare(self, images: Features, texts: Features) -> Features:
        """The products of features, pair by pair: [n]."""
        products: Features = (images * texts).sum(1)
        if self.measure == "cosine":
            products *= 100 / (np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1))
        return products

    def _image_features(self, pixels: Pixels, number: int) -> Features:
        """[n, width]"""
        parts = [pixels[first : first + self.batch_size] for first in range(0, number, self.batch_size)]
        return np.concatenate([_on_host(self._model.image_features(part)) for part in parts] or [np.empty((0, 1))])

    def _text_features(self, tokens: Mapping[str, Tokens]) -> dict[str, Features]:
        """The features of each text: [width]. Texts of similar lengths are computed together."""
        found = {text: known for text in tokens if (known := self._known.get(text)) is not None}
        left = [(text, ids) for text, (ids, _) in tokens.items() if text not in found]
        for group in _groups(left, self.batch_size * TOKENS_AN_IMAGE):
            features = _on_host(self._model.text_features([ids for _, ids in group]))
            found.update(zip((text for text, _ in group), features, strict=True))
        return found

    def _remember(self, pairs: Sequence[Pair], texts: Mapping[str, Features]) -> None:
        if len(self._known) > MAX_KNOWN:
            self._known = {}
        self._known.update(
            (pair.org_caption, texts[pair.org_caption]) for pair in pairs if pair.org_caption is not None
        )


def _groups(texts: Sequence[tuple[str, list[int]]], max_tokens: int) -> Iterator[list[tuple[str, list[int]]]]:
    """Groups of texts of similar lengths. A group padded to its longest text has at most `max_tokens`."""
    group: list[tuple[str, list[int]]] = []
    for text, ids in sorted(texts, key=lambda each: len(each[1])):
        if group and (len(group) + 1) * len(ids) > max_tokens:
            yield group
            group = []
        group.append((text, ids))
    if group:
        yield group


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
    """Batches of `size` pairs, or of fewer if their images are large."""
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
