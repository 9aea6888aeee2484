"""A judge of captions: a model behind an OpenAI-compatible endpoint, asked as the paper asked GPT-4V.

The prompt is that of "What If We Recaption Billions of Web Images with LLaMA-3?" (arXiv:2406.08478), word for word.
"""

import hashlib
import os
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recap_fast.addresses import public_url, scrub
from recap_fast.errors import ConfigError, RecapError
from recap_fast.text import cut, message_of

if TYPE_CHECKING:
    from openai import OpenAI, OpenAIError

PROMPT = (
    "[Image Caption] {caption}\n\n"
    "Rate whether the caption is of high-quality and fluent and correctly matches the given image. "
    "The rating should be 1-5, where 1 is incorrect and not fluent at all, and 5 is correct and very fluent. "
    "Try to just give a numerical rating.\n\n"
    "{format}"
)
FORMAT = "Your response should be in the format: Rating: (int)"
ANSWER_TOKENS = 1024
"""Most tokens of an answer. 'Rating: 4' has five; models that think first need more."""
TIMEOUT_S = 120.0
"""Longest wait for one answer."""
MAX_RETRIES = 5
"""Retries after status 408, 409, 429 or 5xx, after a timeout, and after a broken connection."""
MAX_ERROR_BYTES = 300
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_RATING = re.compile(r"\brating\W{0,8}([1-5])(?:\.0+)?(?!\d|\.\d|\s*(?:[-\u2013]|to\b)\s*\d)", re.IGNORECASE)
_NUMBER = re.compile(r"\W*([1-5])(?:\.0+)?(?:\s*/\s*5)?\W*")


class JudgeError(RecapError):
    """The endpoint gave no answer to one question, after all retries."""


class UnreachableError(JudgeError):
    """There was no connection, or no answer in time."""


@dataclass
class Judge:
    """A model that is shown an image and a caption, and says 1 to 5. Threads may share it."""

    name: str
    """Name of the model at the endpoint."""
    endpoint: str
    """Base address, such as 'http://localhost:8000/v1'."""
    timeout_s: float = TIMEOUT_S
    max_retries: int = MAX_RETRIES
    served_by: Counter[str] = field(default_factory=Counter)
    """Names that the endpoint itself gives the model, with the number of answers."""
    num_tokens: int = 0
    """Tokens of all questions and answers, as the endpoint counts them."""
    _options: Mapping[str, float] = field(default_factory=lambda: {"temperature": 0.0, "max_tokens": ANSWER_TOKENS})
    _num_asking: int = 0
    _is_closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _client: "OpenAI" = field(init=False, repr=False)
    _key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """The key is in OPENAI_API_KEY; local servers need none. Raises ConfigError."""
        if not self.endpoint.startswith(("http://", "https://")):
            given = public_url(self.endpoint)
            raise ConfigError(f"--endpoint {given}: give a base address such as http://localhost:8000/v1.")
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ConfigError(f"--kind rating needs openai ({error}): pip install 'recap-fast[rating]'.") from error
        self._key = os.environ.get("OPENAI_API_KEY") or "none"
        self._client = OpenAI(
            api_key=self._key, base_url=self.endpoint, timeout=self.timeout_s, max_retries=self.max_retries
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides about ratings."""
        prompt = PROMPT.format(caption="CAPTION", format=FORMAT)
        return {
            "judge": self.name,
            "endpoint": public_url(self.endpoint).rstrip("/"),
            "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
        }

    def rate(self, image: str, caption: str) -> int | None:
        """The rating of a caption for an image, which is a data URI. An answer without a rating is asked for once more;
        None if there is none then.

        Raises JudgeError where no answer comes, UnreachableError where there is no connection, and ConfigError where no
        answer ever will come: a wrong key, address or name.
        """
        question = PROMPT.format(caption=caption, format=FORMAT)
        content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        answer = self._ask(messages)
        rating = parse_rating(answer)
        if rating is None:
            said = [{"role": "assistant", "content": answer}] if answer else []
            rating = parse_rating(self._ask([*messages, *said, {"role": "user", "content": FORMAT}]))
        return rating

    def close(self) -> None:
        """Takes no more questions, and closes the connections when none is under way."""
        with self._lock:
            self._is_closed = True
            is_idle = self._num_asking == 0
        if is_idle:
            self._client.close()

    def _ask(self, messages: list[dict[str, Any]]) -> str:
        """The answer, '' where it is empty. Raises as `rate`."""
        with self._lock:
            if self._is_closed:
                raise JudgeError("the judge is not asked any more")
            self._num_asking += 1
        try:
            return self._complete(messages)
        finally:
            with self._lock:
                self._num_asking -= 1
                is_last = self._is_closed and self._num_asking == 0
            if is_last:
                self._client.close()

    def _complete(self, messages: list[dict[str, Any]]) -> str:
        import openai

        while True:
            options = self._options
            try:
                completion: Any = self._client.chat.completions.create(
                    model=self.name,
                    messages=messages,
                    **options,
                )
                return self._read(completion)
            except openai.BadRequestError as error:
                refused = [name for name in options if re.search(rf"\b{name}\b", str(error))]
                if not refused:
                    raise self._failure(error) from error
                self._options = {name: value for name, value in options.items() if name not in refused}
            except (openai.OpenAIError, ValueError) as error:
                raise self._failure(error) from error

    def _read(self, completion: Any) -> str:
        """The text of an answer; '' where there is none."""
        try:
            content = completion.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            raise JudgeError(f"{public_url(self.endpoint)} answers, but not with a chat completion") from None
        with self._lock:
            self.num_tokens += getattr(completion.usage, "total_tokens", None) or 0
            self.served_by[str(completion.model)] += 1
        return content if isinstance(content, str) else ""

    def _failure(self, error: "OpenAIError | ValueError") -> RecapError:
        """What an error means, without secrets."""
        import openai

        where = public_url(self.endpoint)
        said = scrub(message_of(error).replace(self._key, "***" if self._key != "none" else "none"))
        said = cut("".join(c if c.isprintable() else " " for c in said), MAX_ERROR_BYTES).removesuffix(".")
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return ConfigError(f"{where} refuses the key ({said}): set OPENAI_API_KEY to a key of this endpoint.")
        if isinstance(error, openai.NotFoundError):
            remedy = "check --judge, and the path of --endpoint, which is usually /v1"
            return ConfigError(f"{where} serves no chat completions of a model {self.name!r} ({said}): {remedy}.")
        kind = UnreachableError if isinstance(error, openai.APIConnectionError) else JudgeError
        return kind(f"{where}: {said}")


def parse_rating(answer: str) -> int | None:
    """The rating in an answer: 'Rating: 4', '**Rating:** 4/5', '4'. None where there is none, or where two differ."""
    said = _THOUGHT.sub("", answer)
    if alone := _NUMBER.fullmatch(said):
        return int(alone[1])
    found = set(_RATING.findall(said))
    return int(found.pop()) if len(found) == 1 else None
