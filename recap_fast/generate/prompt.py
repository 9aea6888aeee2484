"""The prompt: a conversation template by name and a question become the token ids before and after the image.

The ids before the image are the same for every request, and so are those after it unless the question has fields such
as {org_caption}. What fills a field is text from anywhere: it never yields a control token.
"""

import itertools
import json
import math
import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recap_fast.defaults import MAX_FIELD_TOKENS
from recap_fast.errors import ConfigError
from recap_fast.generate.spec import PromptSpec
from recap_fast.generate.templates import QUESTION, Special, find_template
from recap_fast.generate.tokenizer import Tokenizer, special_ids
from recap_fast.records import Sample
from recap_fast.text import unicode

FIELDS = ("org_caption", "key", "url", "uid", "sha256", "file_name")
"""Fields that every sample has. All other names are looked for in the metadata that came with the image."""
_CAPTION_NAMES = ("caption", "text", "txt", "alt_text")
"""Names that the original caption had before it became the column org_caption."""
_NAME = re.compile(r"[^\W\d]\w*(?:[ .-]\w+)*")


def parse_question(text: str) -> list[tuple[str, str | None]]:
    """Splits a question into (text, name of the field after it or None).

    A field is one of `FIELDS` or any name of letters, digits and `_`, with single dots, dashes or spaces within: which
    names samples have is not known before they are read. Raises ConfigError for what is not a field, and for one of
    `FIELDS` with its letters in another order.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"Prompt {text!r}: {error}. Write {{{{ and }}}} for braces that are text.") from error
    for _, name, form, conversion in parts:
        if name is None or (_NAME.fullmatch(name) and not (form or conversion) and not _meant(name)):
            continue
        meant = f" Did you mean {{{_meant(name)}}}?" if _meant(name) else ""
        known = ", ".join(f"{{{f}}}" for f in FIELDS)
        raise ConfigError(
            f"Prompt {text!r} has an unknown field {{{name}}}.{meant} Known fields: {known}, and any key of the "
            "images' metadata, such as {title}. Write {{ and }} for braces that are text."
        )
    if "<image>" in text:
        raise ConfigError(f"Prompt {text!r}: leave out <image>, the template places the image.")
    if unicode(text) != text:
        raise ConfigError(f"Prompt {text!r} has bytes that are not UTF-8: write it in UTF-8.")
    if not text.strip():
        raise ConfigError("The prompt is empty: give a question, such as 'Describe this image.'")
    return [(literal, name) for literal, name, _, _ in parts]


def _meant(name: str) -> str | None:
    """The one of `FIELDS` that has the same letters in another order."""
    return next((f for f in FIELDS if f != name.lower() and sorted(f) == sorted(name.lower())), None)


class PromptEncoder:
    """Makes the token ids of prompts. Thread-safe.

    `prefix_ids` are the constant ids before the image, with BOS if the template has one; `max_text_tokens` is the most
    ids after the image.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        spec: PromptSpec,
        max_field_tokens: int = MAX_FIELD_TOKENS,
        max_text_tokens: int | None = None,
    ):
        """`max_text_tokens`: None for as many as the question can take with its fields at their longest.

        Raises ConfigError for a template or field that is unknown, and a question over `max_text_tokens`.
        """
        if max_field_tokens < 1:
            raise ConfigError(f"--max-field-tokens {max_field_tokens}: give a count of at least 1.")
        _, self._template = find_template(spec.template, tokenizer)
        self._tokenizer, self._parts = tokenizer, parse_question(spec.text)
        self._max_field_tokens = max_field_tokens
        self.num_uses = sum(name is not None for _, name in self._parts)
        self.fields = tuple(dict.fromkeys(name for _, name in self._parts if name))
        bos = special_ids(tokenizer, self._template.bos)
        if self._template.bos and not bos:
            names = " or ".join(self._template.bos)
            raise ConfigError(f"The tokenizer has no token that begins a text: expected {names}.")
        self.prefix_ids = _constant(np.concatenate([bos[:1], self._encode(self._template.before, "")]))
        self._bare_ids = _constant(self._text_ids({}))
        needed = len(self._bare_ids) + max_field_tokens * self.num_uses
        self.max_text_tokens = math.ceil(needed / 8) * 8 if max_text_tokens is None else max_text_tokens
        if len(self._bare_ids) > self.max_text_tokens:
            raise ConfigError(
                f"The prompt has {len(self._bare_ids)} tokens after the image, the engine takes {max_text_tokens}: "
                "shorten it, or build the engine with a larger limits.max_text_tokens."
            )

    def text_ids(self, fields: Mapping[str, str | None]) -> tuple[NDArray[np.int32], str | None]:
        """The ids after the image, and a warning where a field was cut: 'org_caption cut from 310 to 128 tokens'.

        `fields` holds the values by name; one that is None or missing is empty, with a warning unless it is one of
        `FIELDS`.
        """
        if not self.fields:
            return self._bare_ids, None
        limit = self._max_field_tokens
        # half a surrogate pair can stand in a json, and in no text
        given = {name: fields.get(name) for name in self.fields}
        values = {name: (value or "").encode(errors="replace").decode() for name, value in given.items()}
        counts: dict[str, int] = {}
        while True:
            for name, value in values.items():
                values[name], count = self._tokenizer.cut(value, limit)
                counts.setdefault(name, count)
            ids = self._text_ids(values)
            excess = len(ids) - self.max_text_tokens
            if excess <= 0:
                break
            # all fields share the room that there is; with none of them the prompt is known to fit
            longest = min(limit, max(counts.values()))
            limit = max(0, longest - math.ceil(excess / self.num_uses))
        notes = [f"there is no {{{n}}}" for n, value in given.items() if value is None and n.lower() not in FIELDS]
        notes += [f"{name} cut from {count} to {limit} tokens" for name, count in counts.items() if count > limit]
        return ids, "; ".join(notes) or None

    def _text_ids(self, values: Mapping[str, str]) -> NDArray[np.int32]:
        question = "".join(literal + (values.get(name, "") if name else "") for literal, name in self._parts)
        return self._encode(self._template.after, question)

    def _encode(self, pieces: tuple[str, ...], question: str) -> NDArray[np.int32]:
        rows: list[NDArray[np.int32]] = []
        is_first, special = pieces is self._template.before, self._tokenizer.special
        for is_special, group in itertools.groupby(pieces, lambda p: isinstance(p, Special) and p in special):
            if is_special:
                rows.append(np.array([special[token] for token in group], np.int32))
            else:
                text = "".join(group).replace(QUESTION, question)
                rows.append(self._tokenizer.encode(text, continues=not is_first))
            is_first = False
        return np.concatenate(rows).astype(np.int32, copy=False)


class SampleFields(Mapping[str, str | None]):
    """The values of a sample that a question may use, by name in any case of letters.

    `FIELDS` are columns. All others come from the metadata, which is read when the first is asked for; a dot goes into
    an object: `exif.Make`. Numbers, lists and objects are written as JSON.
    """

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._metadata: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> str | None:
        lower = name.lower()
        if lower in FIELDS:
            value: str | None = getattr(self._sample, lower)
            return value
        value = _as_text(_find(self._read(), name))
        if value is None and lower in _CAPTION_NAMES:
            return self._sample.org_caption
        return value

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys((*FIELDS, *self._read()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _read(self) -> dict[str, Any]:
        if self._metadata is None:
            try:
                value = json.loads(self._sample.metadata or "{}")
            except (ValueError, RecursionError):
                value = {}
            self._metadata = value if isinstance(value, dict) else {}
        return self._metadata


def _find(values: Any, name: str) -> Any:
    """The value of a name: exactly, else in another case of letters, else within one of its objects."""
    if not isinstance(values, dict):
        return None
    if name in values:
        return values[name]
    lower = name.lower()
    for key, value in values.items():
        if key.lower() == lower:
            return value
    for key, value in values.items():
        if lower.startswith(f"{key.lower()}.") and (found := _find(value, name[len(key) + 1 :])) is not None:
            return found
    return None


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # nested as deep as Python can read, and not write
        return None


def _constant(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    ids = ids.astype(np.int32)
    ids.setflags(write=False)
    return ids
