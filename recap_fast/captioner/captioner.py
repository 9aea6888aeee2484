"""The front door for Python: an open engine with its tokenizer, its prompt and its decoder. Images in, captions out.

with recap_fast.Captioner.open("engine") as captioner:
    for row in captioner.caption(["cat.jpg", "dog.jpg"]):
        print(row.caption)
"""

import itertools
import threading
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from recap_fast.captioner.config import CaptionConfig, CaptionOptions
from recap_fast.captioner.images import ImageInput, check_image, decode_images, image_sha256, refuse_single
from recap_fast.captioner.stream import CLOSED, SharedEngine, Stream
from recap_fast.decode.decoder import make_decoder
from recap_fast.generate.engine import Engine, Statistics
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.prompt import FIELDS
from recap_fast.generate.prompts import caption_noise
from recap_fast.records import FinishReason, Pixels, Request, Row, Sample

Fields = Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCaption:
    """One of the captions of an image."""

    name: str
    """Of the prompt."""
    prompt: str
    """The question; its fields are not filled."""
    text: str
    finish_reason: FinishReason
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """What became of one image."""

    index: int
    """Position among the images that were given, from 0."""
    caption: str | None
    """The first one. None where there is none: `status` and `error` say why."""
    status: str
    """'ok', or the kind of failure."""
    error: str | None
    warning: str | None
    """A field of the prompt that was cut."""
    finish_reason: FinishReason
    """'stop', 'length' at the limit, 'loop' where it repeated itself, 'error' without a caption."""
    num_tokens: int | None
    width: int | None
    """Pixels, as displayed; None where the image cannot be read."""
    height: int | None
    captions: tuple[PromptCaption, ...] = ()
    """All of them, in the order of the prompts; empty where there is none."""


class Captioner:
    """Captions images; `with` closes it. Several threads may use one: their images share the engine's batch."""

    def __init__(self, config: CaptionConfig):
        """Reads the engine directory and makes the decoder; `start` loads the weights. Raises ConfigError."""
        self.prepared = PreparedEngine.read(
            config.engine,
            prompts=config.prompt,
            num_captions=config.num_captions,
            max_field_tokens=config.max_field_tokens,
            verify=config.options.verify,
        )
        self.config = config = config.of_engine(self.prepared.spec)
        self.decoder = make_decoder(
            config.decoder,
            self.prepared.spec.preprocess,
            max_image_pixels=config.max_image_pixels,
            num_threads=config.decode_threads,
            device_id=_gpu_for_decoding(config),
            background=config.background,
        )
        self._max_new_tokens = self.prepared.max_new_tokens(config.options)
        self._shared: SharedEngine | None = None
        self._numbers = itertools.count()
        self._decoding = threading.Lock()

    @classmethod
    def open(cls, engine: str | Path, **options: Unpack[CaptionOptions]) -> Self:
        """Opens an engine directory that `build-engine` made, with the options of `recap-fast run`.

        Raises ConfigError for what cannot be used: the directory, an option, the device. From then on Pillow has no
        limit of pixels in this process: `max_image_pixels` is the limit.
        """
        captioner = cls(CaptionConfig.of({"engine": Path(engine), **options}))
        try:
            return captioner.start()
        except BaseException:
            captioner.close()
            raise

    def check(self) -> str:
        """The device that it will run on. Raises ConfigError where that or the weights are not there, before `start`
        takes its time."""
        return self.prepared.check(self.config.options)

    def start(self) -> Self:
        """Loads the weights. Raises ConfigError where the backend, the device or the weights cannot be had."""
        self._shared = SharedEngine(self.prepared.open(self.config.options))
        return self

    @property
    def engine(self) -> Engine:
        """The open engine. Raises RuntimeError before `start` and after `close`."""
        return self._open_engine().engine

    @property
    def statistics(self) -> Statistics:
        """What the engine has done; nothing before `start`."""
        return Statistics() if self._shared is None else self._shared.engine.statistics

    def caption(self, images: Iterable[ImageInput], fields: Iterable[Fields] | None = None) -> list[Caption]:
        """Captions images; the rows are in their order. See `stream`, which does not wait for the last one."""
        return list(self.stream(images, fields))

    def stream(self, images: Iterable[ImageInput], fields: Iterable[Fields] | None = None) -> Iterator[Caption]:
        """Captions images as they come, however many, and yields a row for each, in their order.

        An image is a path, the bytes of a file, an image of Pillow's, or an array uint8 [height, width, 3]. `fields`
        has the values for each image's prompt, such as {"org_caption": "a cat"}. Another thread reads both, up to 32
        images at a time and ahead of the engine. A bad image is a row with a status and an error. A stream that is
        left before its end leaves captions in the engine, which the next steps finish.

        Raises TypeError for what is no image, ValueError for fewer or more fields than images, what the iterators
        raise, each behind the rows of the images before; and EngineError where the device fails.
        """
        refuse_single(images)
        if isinstance(fields, Mapping | str):
            raise TypeError(
                "fields is one: give a list with the fields of each image, such as [{'org_caption': 'a cat'}]."
            )
        known = dict.fromkeys((*FIELDS, *self.prepared.prompts.fields))
        stream: Stream[tuple[int, ImageInput, Fields]] = Stream(self._open_engine(), self._prepare)
        return (row for rows in stream.run(_numbered(images, fields, known)) for row in self._captions(rows))

    def requests(self, row: Row, pixels: Pixels, fields: Fields, *, noise_key: int = 0) -> list[Request]:
        """What the engine is asked for an image's pixels, uint8 [3, size, size]: a request for each caption, in order.

        The row learns its prompts, and gets a warning where a field was cut. `noise_key` names the image's random
        numbers where captions are sampled.
        """
        asked, sample = self.prepared.prompts, row.sample
        prompts = asked.of_image(sample.image_sha256 or sample.sha256, self.config.options.sampling.seed)
        requests: list[Request] = []
        warnings: list[str] = []
        for prompt in prompts:
            text_ids, warning = prompt.encoder.text_ids(fields)
            if warning is not None:
                warnings.append(warning if asked.is_plain else f"{prompt.name}: {warning}")
            for number in range(asked.num_captions):
                first = requests[0].id if requests else None
                noise = caption_noise(noise_key, prompt.question, number)
                request = Request(next(self._numbers), pixels, text_ids, self._max_new_tokens, noise, first)
                requests.append(request)
        row.warning = "; ".join(warnings) or None
        if not asked.is_plain:
            row.prompts = tuple((p.name, p.question) for p in prompts for _ in range(asked.num_captions))
        return requests

    def detokenize(self, rows: Sequence[NDArray[np.int32]]) -> list[str]:
        """The text of each row of token ids."""
        return self.prepared.tokenizer.detokenize(rows)

    def close(self) -> None:
        """Frees the device's memory and the decoder's threads."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        self.decoder.close()

    def _open_engine(self) -> SharedEngine:
        if self._shared is None:
            raise RuntimeError(CLOSED)
        return self._shared

    def _prepare(self, batch: Sequence[tuple[int, ImageInput, Fields]]) -> list[tuple[Row, list[Request]]]:
        """Decodes images and makes their requests. Raises RuntimeError after `close`."""
        self._open_engine()
        images, config = [image for _, image, _ in batch], self.config
        with self._decoding:  # a decoder is for one thread
            decoded = decode_images(
                images, self.decoder, self.prepared.spec.preprocess, config.max_image_pixels, config.background
            )
        prepared: list[tuple[Row, list[Request]]] = []
        for (index, _, fields), each in zip(batch, decoded, strict=True):
            pixels, outcome, _ = each
            row = Row(order=index, sample=Sample(shard="", index=index, key="", image=b""), outcome=outcome)
            requests = []
            if pixels is not None:
                if self.prepared.prompts.is_drawn:
                    row.sample = replace(row.sample, sha256=image_sha256(each))
                requests = self.requests(row, pixels, fields, noise_key=index)
            prepared.append((row, requests))
        return prepared

    def _captions(self, rows: Sequence[Row]) -> list[Caption]:
        from recap_fast.write.captions import texts_of

        return [
            Caption(
                index=row.order,
                caption=texts[0] if texts else None,
                status=row.status,
                error=row.outcome.error,
                warning="; ".join(filter(None, (row.outcome.warning, row.warning))) or None,
                finish_reason="error" if row.completion is None else row.completion.finish_reason,
                num_tokens=None if row.completion is None else row.completion.num_tokens,
                width=row.outcome.width,
                height=row.outcome.height,
                captions=self._each(row, texts),
            )
            for row, texts in zip(rows, texts_of(rows, self.detokenize), strict=True)
        ]

    def _each(self, row: Row, texts: Sequence[str]) -> tuple[PromptCaption, ...]:
        prompts = row.prompts or tuple(self.prepared.prompts.asked[0].questions.items())
        made = zip(prompts, texts, row.completions, strict=True) if texts else ()
        return tuple(
            PromptCaption(name=name, prompt=prompt, text=text, finish_reason=c.finish_reason, num_tokens=c.num_tokens)
            for (name, prompt), text, c in made
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _gpu_for_decoding(config: CaptionConfig) -> int | None:
    """The number of the GPU that the engine will run on, for DALI to decode on; None for a CPU."""
    if config.decoder == "pillow" or config.options.device == "cpu":
        return None
    from recap_fast.generate.device import gpu_number

    return gpu_number(config.options.device)


def _numbered(
    images: Iterable[ImageInput], fields: Iterable[Fields] | None, known: Collection[str]
) -> Generator[tuple[int, ImageInput, Fields]]:
    """Images with their numbers and fields. Raises TypeError and ValueError for what a caller got wrong."""
    if fields is None:
        yield from ((index, check_image(image), {}) for index, image in enumerate(images))
        return
    end: Any = object()
    for index, (image, values) in enumerate(itertools.zip_longest(images, fields, fillvalue=end)):
        if image is end or values is end:
            raise ValueError(
                f"There are {index} {'images and more fields' if image is end else 'fields and more images'}."
            )
        if not isinstance(values, Mapping) or not all(isinstance(v, str | None) for v in values.values()):
            raise TypeError(
                f"The fields of image {index} are {values!r}: give texts by name, {{'org_caption': 'a cat'}}."
            )
        if unknown := values.keys() - {*known}:
            raise ValueError(f"There is no field {min(unknown)!r}: there are {', '.join(known)}.")
        yield index, check_image(image), values
