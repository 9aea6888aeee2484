"""What crosses the border between two stages. Every stage may import this file, and no stage another stage.

Shard -> (shards/) -> Sample -> (decode/) -> ImageBatch -> (generate/) Request -> Completion -> (write/) -> ShardReport
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from sys import getsizeof
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

ShardKind = Literal["tar", "parquet", "folder"]
FinishReason = Literal["stop", "length", "loop", "error"]
ShardStatus = Literal["complete", "truncated", "failed", "interrupted"]
OK = "ok"
"""The `status` of a row with a caption. Any other status is the type of a failure, with the reason in `error`."""
UNREADABLE = "unreadable"
"""The `status` where the image's bytes could not be read; the next run may read them, so such a row is never done."""
READ_AGAIN = "(the next run reads it again)"
"""Stands in the `warning` of a row that lacks something which could not be read; such a row is never done either."""
GENERATION_ERROR, UNWRITABLE, CRASHED = "generation_error", "unwritable", "crashed"
"""The `status` where the engine failed on this image alone; where the row could not be written as it was, so that all
of it but its place and its key is left out; and where decoding the image ended the process, twice."""
FAILURES = (
    *("missing_image", "empty_image", UNREADABLE, "not_an_image", "unsupported", "truncated", "corrupt"),
    *("too_large", "too_small", "extreme_aspect", CRASHED, GENERATION_ERROR, UNWRITABLE),
)
"""Every `status` of a row without a caption."""
SCHEMA_VERSION = 4
"""Of the columns that rows have; see `write/schema.py`."""
ACCEPTABLE = ("decoder", "versions")
"""Of what decides what rows say, the settings that may differ within an output where the user says so."""
Pixels: TypeAlias = "NDArray[np.uint8] | Tensor"
"""uint8 pixels, as numpy in host memory or as a torch tensor on the GPU that decoded them.

A tensor is complete: any stream may read it at once. Whoever reads it on a stream of their own holds a reference until
an event recorded behind the read has passed: with the last reference its memory goes back to torch's allocator, which
knows of the decoder's stream alone and gives it to the next batch."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One unit of input, of work, of resume and of output."""

    name: str
    """Path below the inputs' common parent, without suffix, '/'-separated; its output has the same."""
    url: str
    """Absolute local path or fsspec URL of a tar or a Parquet file, or of the folder that `files` lie in."""
    kind: ShardKind
    files: "tuple[ImageFile | None, ...]" = ()
    """Of kind 'folder' only: the images of this unit in order, None where one was pruned."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A loose image of a unit."""

    path: str
    """Below the unit's `url`, '/'-separated."""
    file_name: str
    """Below the inputs' common parent."""
    key: str
    """`file_name` without its suffix; with it where another image of the output has that key."""
    version: str | None
    """`Identity.text` of the file as it was listed; None where it is gone."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one version of an input from another: size in bytes, and mtime (ns since 1970) or etag."""

    size_bytes: int
    version: str

    @property
    def text(self) -> str:
        """One line, as rows carry it in their column `input_version`."""
        return f"{self.size_bytes}:{self.version}"


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a shard is captioned."""

    image_column: str | None = None
    """Of Parquet shards; None: found by name and type."""
    caption_column: str | None = None
    """Of Parquet shards, the original caption; None: found by name and type."""
    images: Literal["first", "all"] = "first"
    """Of samples with several images: the first has a row, or each one."""
    image_key: str | None = None
    """Of samples with several images the one that has a row: its extension in a tar, its column in a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with all that came with it. Its identity is (shard, index)."""

    shard: str
    """`Shard.name`."""
    index: int
    """Position in the shard, from 0."""
    key: str
    image: bytes
    """The encoded image; empty where `status` is not 'ok'."""
    file_name: str | None = None
    """Which file it is: of a folder the path below the inputs' common parent, of a tar the member, of a table the path
    in the image's struct."""
    input_version: str | None = None
    """`Identity.text` of what it was read from: the loose file, or the whole shard."""
    url: str | None = None
    uid: str | None = None
    sha256: str | None = None
    """As given with the sample, else of `image`; hex."""
    image_sha256: str | None = None
    """Of `image`, where `sha256` is another one; hex."""
    org_caption: str | None = None
    metadata: str | None = None
    """The sample's json, as it came."""
    status: str = OK
    """Not 'ok' where the shard has no image to give for this sample: 'missing_image', 'empty_image', 'truncated'."""
    error: str | None = None
    warning: str | None = None
    """What the user should know of a sample that is otherwise fine: a repeated key, bytes that are not UTF-8."""

    @property
    def text_bytes(self) -> int:
        """The memory that its texts take."""
        texts = self.key, self.file_name, self.url, self.uid, self.org_caption, self.metadata, self.error, self.warning
        return sum(map(getsizeof, texts))


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What the vision tower was trained on; it normalizes by itself, the decoders need only `image_size` and `mode`."""

    image_size: int
    """Side in pixels of the square that the vision tower takes."""
    mode: Literal["pad", "crop", "stretch"]
    """'pad': center on a square of the mean color, then resize. 'crop': resize the short edge, then center-crop.
    'stretch': resize to the square, whatever shape the image has, as SigLIP does."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    """The filter that resizes; JoyCaption was trained on images that `lanczos` resized."""

    @property
    def pad_color(self) -> tuple[int, int, int]:
        """The color of LLaVA's square canvas: int(255 * mean)."""
        red, green, blue = (int(255 * m) for m in self.mean)
        return red, green, blue


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """What became of one image's bytes. Width and height in pixels as displayed (EXIF applied); None if unreadable."""

    width: int | None = None
    height: int | None = None
    status: str = OK
    error: str | None = None
    warning: str | None = None
    """What the user should know of an image that is otherwise fine: it was decoded at a reduced scale."""
    is_flat: bool = False
    """Whether it has one color; see `decode/flat.py`."""


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Decoded images: `pixels` is uint8 [n, 3, H, W], zero where an image failed; `outcomes` has n entries."""

    pixels: Pixels
    outcomes: tuple[ImageOutcome, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One image to caption. The id is the caller's; a completion comes back with it."""

    id: int
    pixels: Pixels
    """uint8 [3, H, W]: a view of an `ImageBatch`, whose memory lives as long as any of its images waits."""
    text_ids: NDArray[np.int32]
    """The prompt's token ids after the image; those before it are the engine's constant prefix."""
    max_new_tokens: int
    noise_key: int = 0
    """Names this request's random numbers where captions are sampled: a hash of shard and index."""
    same_image_as: int | None = None
    """The id of the first request of this image, handed over before this one: an engine may compute the image once."""

    @property
    def image_id(self) -> int:
        """The id of the first request of this image."""
        return self.id if self.same_image_as is None else self.same_image_as


@dataclass(frozen=True, slots=True)
class Completion:
    """The generated ids of one request, stop token not included."""

    id: int
    token_ids: NDArray[np.int32]
    finish_reason: FinishReason
    num_tokens: int
    """Tokens generated, the stop token and those of a loop included."""
    error: str | None = None
    """Why there is no caption, where the engine failed on this request alone; `finish_reason` is then 'error'."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One sample on its way to its row of the output; each stage fills in what it found."""

    order: int
    """Position among the samples that were read of the shard in this run, from 0."""
    sample: Sample
    """Without its image bytes once they are decoded."""
    outcome: ImageOutcome = ImageOutcome()
    """Set by decoding, and by generating where the engine failed on this image."""
    prompts: tuple[tuple[str, str], ...] = ()
    """Set by decoding: name and question of each caption, in order. Empty where the run has one prompt and caption."""
    warning: str | None = None
    """What the user should know of the prompt: a field that was cut."""
    completions: tuple[Completion, ...] = ()
    """Set by generating, one for each of `prompts` or a single one; empty where there is no caption."""
    duplicate_of: str | None = None
    """'SHARD:INDEX' of the row of an identical image, whose caption this one shares."""
    text_bytes: int = field(init=False)
    """The memory that the sample's texts take."""

    def __post_init__(self) -> None:
        self.text_bytes = self.sample.text_bytes

    @property
    def status(self) -> str:
        """'ok', or why there is no caption: the shard's verdict on the sample, else that of decoding or generating."""
        return self.outcome.status if self.sample.status == OK else self.sample.status

    @property
    def completion(self) -> Completion | None:
        """That of the first caption; None where there is no caption."""
        return self.completions[0] if self.completions else None

    def complete(self, completions: Sequence[Completion]) -> None:
        """Gives the row its captions; where the engine failed on one of them, the reason instead."""
        for number, completion in enumerate(completions):
            if completion.error is not None:
                prompt = f"prompt {self.prompts[number][0]}: " if self.prompts else ""
                self.outcome = replace(self.outcome, status=GENERATION_ERROR, error=f"{prompt}{completion.error}")
                return
        self.completions = tuple(completions)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A shard's captions on disk, as they were written."""

    sha256: str
    """Hex."""
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What a shard amounts to. Its done-record has these fields, under these names and in this order."""

    shard: str
    """`Shard.name`."""
    status: ShardStatus
    rows: int = 0
    captioned: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    """Rows without a caption, by status."""
    flags: Mapping[str, int] = field(default_factory=dict)
    """Rows that have each flag; a row may have several."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What of the input has no row, by reason: further images of a sample, files that belong to no image."""
    num_tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage."""
    error: str | None = None
    input: Identity | None = None
    """Which version was read; None where none could be."""
    output: OutputFile | None = None
    """None where there is none."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Of a folder unit: `Identity.text` of each image that has a row, by its path below the unit's folder, in order."""
    finished_ns: int = 0
    """When the done-record was written, since 1970; 0 where it was not."""

    def with_rows(self, statuses: Counter[str], flags: Mapping[str, int]) -> "ShardReport":
        """The same of so many rows of each status, and with each flag."""
        failed = {status: count for status, count in statuses.items() if status != OK}
        return replace(self, rows=statuses.total(), captioned=statuses[OK], failed=failed, flags=dict(flags))
