"""Which prompts an image gets: what a run asks for and what the engine has by name become one list of them.

A run asks for texts, for prompts of the engine by name, and for its sets. A list asks all of its prompts. A set with
weights asks one of its prompts, drawn for each image by the SHA-256 of the image's bytes, the seed and the set's name:
an image gets the same one in whatever shard it lies, and after a resume.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recap_fast.defaults import MAX_FIELD_TOKENS
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import hint
from recap_fast.generate.prompt import PromptEncoder, parse_question
from recap_fast.generate.spec import PromptSpec
from recap_fast.generate.tokenizer import Tokenizer

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
"""What may be the name of a prompt or of a set."""
_NAME_RULE = "a name begins with a letter and has up to 64 letters, digits, '_', '-' and '.'"
_NAMED = re.compile(rf"({NAME.pattern})=(.*)", re.DOTALL)
_ALMOST_NAMED = re.compile(r"([\w.-]+)=")
"""What looks like a name and is none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one caption of each image is asked for: a prompt, or one out of several."""

    questions: Mapping[str, str]
    """By name: one, or those that are drawn from."""
    set: str | None = None
    """The name of the set with weights that one is drawn from."""
    weights: Mapping[str, float] | None = None

    def draw(self, image_sha256: bytes, seed: int) -> str:
        """The name of the prompt that an image gets.

        The first 53 bits of SHA-256(image_sha256, seed, set), with zero bytes between the three, are a number in
        [0, 1). It falls into one of the intervals that the weights are in the order of the names.
        """
        names = sorted(self.questions)
        if self.weights is None:
            return names[0]
        digest = hashlib.sha256(b"\0".join((image_sha256, b"%d" % seed, str(self.set).encode()))).digest()
        ends = list(accumulate(self.weights[name] for name in names))
        point = (int.from_bytes(digest[:8], "big") >> 11) / 2**53 * ends[-1]
        return next((name for name, end in zip(names, ends, strict=True) if point < end), names[-1])

    def as_json(self, seed: int) -> dict[str, Any]:
        """All that decides which questions are asked, for a run's fingerprint."""
        if self.weights is None:
            return {"prompts": dict(self.questions)}
        return {"set": self.set, "prompts": dict(self.questions), "weights": dict(self.weights), "seed": seed}

    def __str__(self) -> str:
        if self.weights is None:
            return "".join(f"{name}: {text}" for name, text in self.questions.items())
        drawn = "; ".join(f"{name} ({self.weights[name]:g}): {text}" for name, text in self.questions.items())
        return f"one of {self.set}, drawn by weight: {drawn}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt by name."""

    name: str
    question: str
    """Its fields are not filled."""
    encoder: PromptEncoder


def is_plain(asked: Sequence[Asked], num_captions: int) -> bool:
    """Whether every image gets one caption, by the same prompt: then `prompt` and `re_caption` say all."""
    return len(asked) == 1 and asked[0].weights is None and num_captions == 1


def text_of(asked: Sequence[Asked], num_captions: int) -> str:
    """For people: the question, or several of them by name."""
    return "".join(asked[0].questions.values()) if is_plain(asked, num_captions) else "\n".join(map(str, asked))


def check_prompts(spec: PromptSpec) -> None:
    """Raises ConfigError for a name that is none, an unknown or repeated one, a question or a set that cannot be."""
    for name in (*spec.prompts, *spec.sets):
        if not NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be the name of a prompt or of a set of prompts: {_NAME_RULE}.")
    for name, question in spec.prompts.items():
        try:
            parse_question(question)
        except ConfigError as error:
            raise ConfigError(f"prompts.{name}: {error}") from error
    for name, members in spec.sets.items():
        if name in spec.prompts:
            raise ConfigError(f"'{name}' is the name of a prompt and of a set of prompts: rename one of them.")
        if not members:
            raise ConfigError(f"The set prompt_sets.{name} is empty: name prompts in it, or leave it out.")
        for member in members:
            if member not in spec.prompts:
                raise ConfigError(
                    f"The set prompt_sets.{name} has '{member}'{hint(member, spec.prompts)}, which is no prompt: "
                    f"there are {', '.join(spec.prompts) or 'none'}."
                )
        if len(set(members)) < len(members):
            raise ConfigError(f"The set prompt_sets.{name} has a prompt twice: name each one once.")


def choose(spec: PromptSpec, given: Sequence[str] = ()) -> tuple[Asked, ...]:
    """What a run asks of each image, in order. Each of `given` is a text, NAME=TEXT, the name of a prompt of the engine
    or of a set; without any, the engine's default is asked.

    A text without a name is called by its place among the given, 'prompt1'. Raises ConfigError for names that are
    unknown or come twice.
    """
    default = (spec.default,) if spec.default is not None else ()
    asked = [each for place, text in enumerate(given or default, 1) for each in _parse(spec, text, place)]
    asked = asked or [Asked({"prompt1": spec.text})]
    names: set[str] = set()
    for name in (name for each in asked for name in each.questions):
        if name in names:
            raise ConfigError(f"There are two prompts called '{name}': leave one out, or give it a name, NAME=TEXT.")
        names.add(name)
    return tuple(asked)


def _parse(spec: PromptSpec, text: str, place: int) -> Iterator[Asked]:
    if text in spec.prompts:
        yield Asked({text: spec.prompts[text]})
    elif text in spec.sets:
        members = spec.sets[text]
        questions = {name: spec.prompts[name] for name in members}
        if isinstance(members, dict):
            yield Asked(questions, text, members)
        else:
            yield from (Asked({name: question}) for name, question in questions.items())
    elif match := _NAMED.fullmatch(text):
        yield Asked({match[1]: match[2]})
    elif match := _ALMOST_NAMED.match(text):
        raise ConfigError(
            f"{match[1]!r} cannot be the name of a prompt: {_NAME_RULE}. If it belongs to the question, give that a "
            f"name: prompt{place}={text}"
        )
    elif spec.prompts and NAME.fullmatch(text):
        known = (*spec.prompts, *spec.sets)
        raise ConfigError(
            f"There is no prompt '{text}'{hint(text, known)}. The engine has {', '.join(known)}. To ask this word, "
            f"give it a name: --prompt 'word={text}'"
        )
    else:
        yield Asked({f"prompt{place}": text})


def caption_noise(noise_key: int, question: str, number: int) -> int:
    """The key of the random numbers of caption `number` that a prompt makes of an image, whose own key is `noise_key`.

    The first one has the image's, whatever the prompt: a prompt's captions do not depend on what else is asked.
    """
    if number == 0:
        return noise_key
    digest = hashlib.blake2b(f"{noise_key}\0{number}\0{question}".encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


class Prompts:
    """The prompts of a run, encoded. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        spec: PromptSpec,
        asked: Sequence[Asked] = (),
        *,
        num_captions: int = 1,
        max_field_tokens: int = MAX_FIELD_TOKENS,
        max_text_tokens: int | None = None,
    ):
        """`asked` is what `choose` gave, or what a run that says nothing asks. `num_captions` are made of each prompt.

        `max_text_tokens` is for questions of the engine; others may be as long as they are. The longest prompt that an
        engine has by name may be several times as long as the one that is asked, so these take what they need and no
        more. Raises ConfigError as `PromptEncoder` does.
        """
        self.asked, self.num_captions = tuple(asked) or choose(spec), num_captions
        own = {spec.text, *spec.prompts.values()}
        self._prompts: dict[str, Prompt] = {}
        for name, question in (item for each in self.asked for item in each.questions.items()):
            single = replace(spec, text=question)
            try:
                encoder = PromptEncoder(tokenizer, single, max_field_tokens)
                if question in own and max_text_tokens is not None:
                    room = min(encoder.max_text_tokens, max_text_tokens) if spec.prompts else max_text_tokens
                    encoder = PromptEncoder(tokenizer, single, max_field_tokens, room)
            except ConfigError as error:
                raise error if len(self.asked) == 1 else ConfigError(f"{name}: {error}") from error
            self._prompts[name] = Prompt(name, question, encoder)
        encoders = [prompt.encoder for prompt in self._prompts.values()]
        self.first = encoders[0]
        """That of the first prompt."""
        self.longest = max(encoders, key=lambda encoder: encoder.max_text_tokens)
        """The one that an engine is opened with: it has the prefix of all, and the room that the longest needs."""
        self.prefix_ids, self.max_text_tokens = self.longest.prefix_ids, self.longest.max_text_tokens
        self.fields = tuple(dict.fromkeys(name for encoder in encoders for name in encoder.fields))
        """Of all of them."""

    def text_ids(self, fields: Mapping[str, str | None]) -> tuple[NDArray[np.int32], str | None]:
        """The ids after the image that the first prompt makes; see `PromptEncoder.text_ids`."""
        return self.first.text_ids(fields)

    @property
    def is_plain(self) -> bool:
        """See `is_plain`."""
        return is_plain(self.asked, self.num_captions)

    @property
    def text(self) -> str:
        """See `text_of`."""
        return text_of(self.asked, self.num_captions)

    @property
    def is_drawn(self) -> bool:
        """Whether an image's bytes decide what it is asked."""
        return any(each.weights is not None for each in self.asked)

    @property
    def captions_per_image(self) -> int:
        """How many captions every image gets."""
        return len(self.asked) * self.num_captions

    def of_image(self, image_sha256: str | None, seed: int) -> list[Prompt]:
        """The prompts that an image gets, in order; the hash (hex) may be None where nothing is drawn."""
        digest = bytes.fromhex(image_sha256 or "")
        return [self._prompts[each.draw(digest, seed)] for each in self.asked]
