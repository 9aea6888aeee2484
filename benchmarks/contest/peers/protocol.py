"""What all contestants share: the job that the driver wrote, the images, and the exchange with the driver.

A contestant is a module, started with the interpreter of its own virtual environment and the path of a job. It opens
its engine, which is not timed, and speaks JSON lines on its standard input and output:

    contestant:  {"versions": {"torch": "2.13.0"}}
    driver:      {"lengths": [44, 17]}, and what else its `run` takes
    contestant:  {"seconds": 0.031, "captions": [[5, 9, ...], [8, ...]]}

Anything that goes wrong is {"error": "..."} instead. What libraries print goes to standard error. This file runs in
every peer's environment: it needs Pillow and NumPy, and nothing of recap-fast.
"""

import dataclasses
import importlib.metadata
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to caption and how."""

    folder: str
    """Has the JPEGs in images/; a contestant may keep what it converts there."""
    checkpoint: str
    """LLaVA with Llama, in the Hub's layout."""
    recipe: str
    """What engines of ours are built by."""
    prefix_ids: list[int]
    suffix_ids: list[int]
    """Prompt: token ids before and after the image."""
    stop_ids: list[int]
    """At which a caption would end, were its length not given."""
    image_token_id: int
    num_image_tokens: int
    image_size: int
    """Side in pixels of what the vision tower takes."""
    mode: str
    """'crop': resize the short side, then crop the center. 'pad': center on a square of the mean color, then resize.
    'stretch': resize, whatever the shape."""
    mean: list[float]
    std: list[float]
    resample: str = "bicubic"
    """The filter, by Pillow's name."""
    precision: str = "float32"
    kv_precision: str = "auto"
    """Of keys and values: that of activations, or fp8."""
    threads: int = 1
    device: str = "cpu"
    max_new_tokens: int = 128
    gpu_memory: float = 0.4
    """Share of the card's memory that a contestant takes which takes what it is given: others are on it at once."""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of this contestant, such as its batch size."""

    @classmethod
    def read(cls, path: Path) -> "Job":
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @property
    def prompt_ids(self) -> list[int]:
        """The whole prompt, the image token repeated."""
        return [*self.prefix_ids, *[self.image_token_id] * self.num_image_tokens, *self.suffix_ids]


@dataclass(frozen=True)
class Pass:
    """One contestant went once over all images."""

    seconds: float
    captions: list[list[int]]
    """Token ids by image, in input order."""


class Contestant(Protocol):
    """An engine that has been opened."""

    libraries: tuple[str, ...]
    """Distributions whose versions matter."""

    def run(self, lengths: Sequence[int]) -> Pass:
        """Captions the first len(lengths) images greedily, each with so many tokens, whatever token comes."""


class Images:
    """The JPEGs of a job, in memory, and threads that turn them into pixels ahead of their use."""

    def __init__(self, job: Job):
        self._job = job
        self._jpegs = [path.read_bytes() for path in sorted(Path(job.folder, "images").iterdir())]
        self._threads = ThreadPoolExecutor(max(1, job.threads // 2))

    def decode(self, num_images: int) -> Iterator[NDArray[np.uint8]]:
        """The pixels of the first images as the vision tower takes them, [size, size, 3] each, in order."""
        return self._threads.map(lambda data: decode(data, self._job), self._jpegs[:num_images])

    def decode_originals(self, num_images: int) -> Iterator[NDArray[np.uint8]]:
        """The pixels of the first images as their files have them, [H, W, 3] each, in order."""
        return self._threads.map(lambda data: np.asarray(open_rgb(data)), self._jpegs[:num_images])


def decode(data: bytes, job: Job) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: what transformers' own processor makes of a JPEG before it normalizes, by Pillow alone."""
    image, size, resample = open_rgb(data), job.image_size, Image.Resampling[job.resample.upper()]
    width, height = image.size
    if job.mode == "stretch":
        return np.asarray(image.resize((size, size), resample))
    if job.mode == "pad":
        side = max(width, height)
        canvas = Image.new("RGB", (side, side), tuple(int(255 * m) for m in job.mean))
        canvas.paste(image, ((side - width) // 2, (side - height) // 2))
        return np.asarray(canvas.resize((size, size), resample))
    wide = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    image = image.resize(wide, resample)
    left, top = (wide[0] - size) // 2, (wide[1] - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def open_rgb(data: bytes) -> Image.Image:
    """The image of a JPEG."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def serve(open_contestant: Callable[[Job], Contestant]) -> None:
    """Opens the contestant that the command line asks for and serves the driver until it hangs up."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**fields: Any) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    try:
        contestant = open_contestant(Job.read(Path(sys.argv[1])))
        say(versions={name: importlib.metadata.version(name) for name in contestant.libraries})
        for line in sys.stdin:
            say(**dataclasses.asdict(contestant.run(**json.loads(line))))
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")
        raise
