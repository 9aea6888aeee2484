"""The one interface between the pipeline and whatever generates captions; prepared.py opens one.

An engine takes requests while it has room, and every `step` moves all running captions on by one token and returns
those that ended. It knows nothing of files, text or Parquet; nothing above it knows which backend runs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recap_fast.errors import ConfigError
from recap_fast.generate.spec import SamplingSpec, SlotShape
from recap_fast.records import Completion, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy, the paper's way, and makes the rest irrelevant."""

    temperature: float = 0.0
    top_k: int = 0
    """Only this many of the likeliest tokens; 0 is all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 10.0:
            raise ConfigError(f"--temperature {self.temperature}: give 0 (greedy) or a number up to 10.")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"--top-p {self.top_p}: give a number above 0 and up to 1.")
        if self.top_k < 0:
            raise ConfigError(f"--top-k {self.top_k}: give a count, or 0 for all tokens.")
        if self.is_greedy and (self.top_k, self.top_p) != (0, 1.0):
            raise ConfigError("--top-k and --top-p need --temperature above 0 (1, say): 0 takes the likeliest token.")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """What a run says about sampling. None leaves it to engine.json."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for what no engine can sample by."""
        self.over(SamplingSpec(temperature=1.0))

    def over(self, own: SamplingSpec) -> Sampling:
        """How tokens are chosen of an engine that has `own`; its top_k and top_p do not count where the run is greedy.

        Raises ConfigError for top_k or top_p where it is.
        """
        temperature = own.temperature if self.temperature is None else self.temperature
        if temperature == 0:
            own = SamplingSpec()
        return Sampling(
            temperature=temperature,
            top_k=own.top_k if self.top_k is None else self.top_k,
            top_p=own.top_p if self.top_p is None else self.top_p,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a run may decide about an engine that is already built. None leaves it to engine.json."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    num_slots: int | None = None
    prefill_images: int | None = None
    max_new_tokens: int | None = None
    captions_per_image: int = 1
    """How many requests come with one image, at most: an engine prepares for so many."""
    sampling: Sampling = Sampling()
    loop_stop: bool = True
    verify: bool = True
    """Whether the weights are compared with their checksums while they are loaded."""

    def __post_init__(self) -> None:
        for name in ("num_slots", "prefill_images", "max_new_tokens", "captions_per_image"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: give a count of at least 1.")


@dataclass(slots=True, kw_only=True)
class Statistics:
    """What an engine has done since it was opened, and how long its device took: what `bench` makes its figures of."""

    mixed_steps: int = 0
    """Steps that prefilled images, or further texts of theirs, with or without decode rows beside them."""
    mixed_s: float = 0.0
    """Seconds that the device took for them."""
    decode_steps: int = 0
    """Steps of decode rows alone."""
    decode_s: float = 0.0
    images: int = 0
    """Images prefilled: those of several captions count once where the engine computes them once."""
    captions: int = 0
    """Captions begun, of these images."""
    prompt_tokens: int = 0
    """New positions of the images and of all texts behind them, padding not counted."""
    decode_rows: int = 0
    """Tokens computed for running captions, over all steps."""
    kv_positions: int = 0
    """Positions that these rows read, each with its keys and values in every layer."""
    decode_step_kv_positions: int = 0
    """Those read in steps of decode rows alone."""
    idle_s: dict[str, float] = field(default_factory=lambda: {"input": 0.0, "host": 0.0})
    """Seconds between two steps in which the device had nothing to do: no request was there ('input'), or the host had
    not launched the next step yet ('host')."""
    startup_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each part of opening the engine: 'weights', 'prefix', 'capture'."""


class Engine(Protocol):
    """Turns requests into completions, many at a time; they come back in the order in which they end."""

    @property
    def free_slots(self) -> int:
        """How many more requests `submit` takes now."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Hands over at most `free_slots` requests. Raises ValueError for more, or for one over the engine's limits."""

    def step(self, *, more: bool = False) -> list[Completion]:
        """Moves every running caption on by one token. Raises EngineError where the device fails.

        `more` says that other requests will come. An engine whose step takes as long with one new image as with many
        may then let submitted requests wait for them while captions are running.
        """

    def describe(self) -> str:
        """One line for people: backend, device, precision, slots."""

    @property
    def statistics(self) -> Statistics:
        """What was done since opening; it goes on counting."""

    def close(self) -> None:
        """Frees the device's memory."""


@runtime_checkable
class GivesLogits(Protocol):
    """An engine that can say how sure it was of a token."""

    def logits(self, request: Request) -> NDArray[np.float32]:
        """The logits [V] of the token behind a request's text, which may go on with the begin of a caption.

        Raises ValueError for a text that is longer than the longest text and caption together.
        """


def next_requests(waiting: Iterable[Request], room: int, num_slots: int) -> list[Request]:
    """What of a line of requests an engine of `num_slots` gets, of which `room` are free.

    All requests of an image go to it at once: those that find no room wait, unless they are more than there are slots.
    """
    joining: list[Request] = []
    for _, group in groupby(waiting, key=lambda request: request.image_id):
        requests = list(group)
        if len(joining) + len(requests) > room:
            return joining or (requests[:room] if room == num_slots else [])
        joining += requests
        if len(joining) == room:
            break
    return joining


def check_request(request: Request, shape: SlotShape) -> None:
    """Raises ValueError for a request over the limits of an engine's slots."""
    if len(request.text_ids) > shape.max_text_tokens:
        raise ValueError(
            f"request {request.id}: {len(request.text_ids)} text tokens, the engine takes {shape.max_text_tokens}"
        )
    if not 1 <= request.max_new_tokens <= shape.max_new_tokens:
        raise ValueError(
            f"request {request.id}: {request.max_new_tokens} new tokens, the engine makes 1 to {shape.max_new_tokens}"
        )
