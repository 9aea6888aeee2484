"""How images are captioned: one frozen record, checked when it is made, and the flat options that it is made from."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

from recap_fast.cpus import default_decode_threads
from recap_fast.defaults import MAX_FIELD_TOKENS, MAX_IMAGE_PIXELS
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions, SamplingOptions
from recap_fast.generate.spec import EngineSpec
from recap_fast.ranks import local_count


class CaptionOptions(TypedDict, total=False):
    """The options of `recap-fast run` that decide how images are captioned, by the same names. None: the default."""

    device: str
    """auto, cpu, cuda or cuda:N. auto and cuda take this process's GPU where torchrun or srun started several."""
    num_slots: int | None
    """Captions generated at once; None: what is fastest on the device."""
    prefill_images: int | None
    """Images that join in one step; None: what is fastest on the device."""
    prompt: str | Sequence[str] | None
    """What to ask instead of the engine's own question, or several of that: a text, which may hold fields such as
    {org_caption}; NAME=TEXT; or the name of a prompt or of a set of prompts that the engine has."""
    num_captions: int
    """Captions of each prompt; several need a temperature above 0."""
    max_field_tokens: int
    """Longer fields of the prompt are cut."""
    max_new_tokens: int | None
    """Longest caption in tokens; None: the engine's."""
    temperature: float | None
    """0 is greedy, the paper's way; None: the engine's."""
    top_k: int | None
    """Sample from the k most likely tokens; 0 means all; None: the engine's."""
    top_p: float | None
    """Sample from the most likely tokens that together have this probability; None: the engine's."""
    seed: int
    """Random seed for sampling and for drawn prompts."""
    loop_stop: bool
    """End captions that repeat themselves."""
    verify: bool
    """Compare the engine's files with their checksums while they are loaded."""
    decoder: Literal["auto", "dali", "pillow"]
    decode_threads: int | None
    """Threads that decode images; None: half of the processors, or of this process's share of them under torchrun."""
    max_image_pixels: int | None
    """Larger images are refused."""
    background: str | None
    """Color behind what is transparent, a name or '#rrggbb'; None: alpha is dropped, as LLaVA drops it."""


def _own_decode_threads() -> int:
    return max(1, default_decode_threads() // local_count(os.environ))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionConfig:
    """An engine directory and how it is to caption."""

    engine: Path
    options: EngineOptions = field(default_factory=EngineOptions)
    sampling: SamplingOptions | None = None
    """Takes the place of `options.sampling` once the engine is known; None: that is as it is wanted."""
    decoder: str = "auto"
    decode_threads: int = field(default_factory=_own_decode_threads)
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """Images of more pixels are not decoded."""
    background: str | None = None
    """Color behind what is transparent; None: alpha is dropped."""
    prompt: tuple[str, ...] = ()
    """Asked instead of the engine's own question; see `prompts.choose`."""
    num_captions: int = 1
    """Of each prompt."""
    max_field_tokens: int = MAX_FIELD_TOKENS

    def __post_init__(self) -> None:
        for name in ("decode_threads", "num_captions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: give a count of at least 1.")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.options.device):
            raise ConfigError(f"--device {self.options.device}: give auto, cpu, cuda or cuda:N.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Makes it from flat options with the command line's names; one that is None has its default.

        Raises ConfigError for a value that cannot be, and TypeError for a name that is not known.
        """
        flat = {name: value for name, value in given.items() if value is not None}
        if "prompt" in flat:
            flat["prompt"] = _texts(flat["prompt"])

        def take(record: type[Any]) -> dict[str, Any]:
            return {f.name: flat.pop(f.name) for f in fields(record) if f.name in flat}

        sampling = SamplingOptions(**take(SamplingOptions))
        return cls(**{"options": EngineOptions(**take(EngineOptions)), "sampling": sampling, **flat})

    def of_engine(self, spec: EngineSpec) -> Self:
        """The same with what the engine says where this says nothing.

        Raises ConfigError for options of sampling, and several captions of a prompt, where captions are greedy.
        """
        sampling = self.options.sampling if self.sampling is None else self.sampling.over(spec.sampling)
        if self.num_captions > 1 and sampling.is_greedy:
            raise ConfigError(
                f"--num-captions {self.num_captions} needs --temperature above 0 (0.7, say): greedy captions of one "
                "prompt would all be the same."
            )
        return replace(self, options=replace(self.options, sampling=sampling), sampling=None)


def _texts(given: Any) -> tuple[str, ...]:
    """One text or several. Raises TypeError for anything else: a dict would ask its keys."""
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise TypeError(
            f"prompt is {given!r}: give a text, or a list of texts, each with a name if wanted: 'NAME=TEXT'."
        )
    return tuple(texts)
