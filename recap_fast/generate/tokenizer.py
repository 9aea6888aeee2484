"""A model's tokenizer: text -> token ids and back, behind one interface for every vocabulary.

In goes a folder with `tokenizer.json` or with the tiktoken `tokenizer.model` of Llama 3. Llama-3's byte-level BPE runs
in C++ (`_core.Tokenizer`); any other vocabulary (Llama-2's) goes through the `tokenizers` library. Text never yields a
control token: what looks like one in a caption or a prompt is encoded as the letters that it is.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recap_fast.errors import ConfigError
from recap_fast.generate.byte_level import MAX_TOKENS, AddedToken, ByteLevelVocabulary, read_byte_level, read_tiktoken
from recap_fast.generate.fields import Source, read_table, read_value, shown
from recap_fast.generate.json_file import read_json

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


class Tokenizer(Protocol):
    """What the prompt and the captions need of a vocabulary. Thread-safe."""

    special: Mapping[str, int]
    """Ids by name of the tokens that no text yields: all that were added to the vocabulary but runs of white space."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""

    def encode(self, text: str, *, continues: bool = False) -> NDArray[np.int32]:
        """Ids of ordinary text, without BOS. `continues`: other tokens stand before it in the prompt."""

    def cut(self, text: str, limit: int) -> tuple[str, int]:
        """The part of the text that its first `limit` tokens make up, in whole characters; and its number of tokens."""

    def detokenize(self, rows: Sequence[NDArray[np.int32]]) -> list[str]:
        """The texts of rows of ids; bytes that are not UTF-8 become U+FFFD.

        As the `tokenizers` library with `skip_special_tokens` it leaves out the tokens that the vocabulary calls
        special and ids that it does not have, and prints other words that were added to it.
        """


class ByteLevelTokenizer:
    """Llama-3's byte-level BPE, in C++."""

    def __init__(self, vocabulary: ByteLevelVocabulary):
        from recap_fast.arrow_core import core

        v = vocabulary
        self._core = core.Tokenizer(v.tokens, v.merges, dict(v.added), v.ignore_merges, dict(v.words))
        self.special: Mapping[str, int] = dict(v.added)
        self._size_bytes = np.array([len(t) for t in v.tokens], np.int64)
        self.vocab_size = self._core.vocab_size

    def encode(self, text: str, *, continues: bool = False) -> NDArray[np.int32]:
        return self._core.encode(text)

    def cut(self, text: str, limit: int) -> tuple[str, int]:
        ids = self.encode(text)
        if len(ids) <= limit:
            return text, len(ids)
        size_bytes = int(self._size_bytes[ids[:limit]].sum())
        return text.encode()[:size_bytes].decode(errors="ignore"), len(ids)

    def detokenize(self, rows: Sequence[NDArray[np.int32]]) -> list[str]:
        return self._core.detokenize([row[row < self.vocab_size] for row in rows])


class LibraryTokenizer:
    """Any `tokenizer.json`, through the `tokenizers` library."""

    def __init__(self, content: Mapping[str, Any], added: Sequence[AddedToken]):
        """`content` is that of a tokenizer.json, and `added` its added tokens."""
        self.special: Mapping[str, int] = {t.content: t.id for t in added if t.special or not t.content.isspace()}
        # to the library's encoders all of these are special, so that text cannot spell them; its decoder prints words
        entries = [{**each, "special": each["content"] in self.special} for each in content.get("added_tokens") or []]
        spelled = {**content, "added_tokens": entries}
        self._first = _library_tokenizer(spelled)
        for token in added:
            if (found := self._first.token_to_id(token.content)) != token.id:
                raise ValueError(f"the library gives {token.content!r} the id {found}, not {token.id}: is there a gap?")
        later = _continuing(spelled)
        self._later = self._first if later == spelled else _library_tokenizer(later)
        self._decoder = self._first if spelled == content else _library_tokenizer(content)
        self._composes = (content.get("normalizer") or {}).get("type") == "NFC"
        self.vocab_size = 1 + max(self._first.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str, *, continues: bool = False) -> NDArray[np.int32]:
        tokenizer = self._later if continues else self._first
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def cut(self, text: str, limit: int) -> tuple[str, int]:
        encoding = self._later.encode(text, add_special_tokens=False)
        if len(encoding.ids) <= limit:
            return text, len(encoding.ids)
        # a character of several byte tokens is in the offsets of each: it stays whole or goes
        end = min(encoding.offsets[limit - 1][1], encoding.offsets[limit][0])
        if self._composes:  # of a letter and its accents the library has the letter's offsets alone
            whole = unicodedata.normalize("NFC", text)
            while not whole.startswith(unicodedata.normalize("NFC", text[:end])):
                end -= 1
        return text[:end], len(encoding.ids)

    def detokenize(self, rows: Sequence[NDArray[np.int32]]) -> list[str]:
        texts: list[str] = self._decoder.decode_batch([row.tolist() for row in rows], skip_special_tokens=True)
        return texts


def find_tokenizer(path: Path) -> Path | None:
    """The tokenizer's file at a path: the file itself, or the one in a folder; None where there is none."""
    if path.is_file():
        return path
    return next((path / name for name in TOKENIZER_FILES if (path / name).is_file()), None)


def load_tokenizer(path: Path) -> Tokenizer:
    """Opens the tokenizer in a folder, or of a file. Raises ConfigError where there is none that can be used."""
    file = find_tokenizer(path)
    if file is None:
        raise ConfigError(f"There is no tokenizer in {path}: expected {' or '.join(TOKENIZER_FILES)}.")
    if file.suffix == ".json":
        return _from_json(file)
    if file.suffix == ".model":
        return ByteLevelTokenizer(read_tiktoken(file))
    raise ConfigError(f"{file} is not a tokenizer: expected {' or '.join(TOKENIZER_FILES)}.")


def special_ids(tokenizer: Tokenizer, tokens: Iterable[str]) -> list[int]:
    """The ids of those special tokens that the tokenizer has."""
    return [tokenizer.special[token] for token in tokens if token in tokenizer.special]


def _from_json(file: Path) -> Tokenizer:
    content = read_json(file)
    added = _check_content(Source(file), content)
    try:
        vocabulary = read_byte_level(content, added)
        return LibraryTokenizer(content, added) if vocabulary is None else ByteLevelTokenizer(vocabulary)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} is not a tokenizer.json of the `tokenizers` library: {error!r}.") from error


def _check_content(source: Source, content: Mapping[str, Any]) -> list[AddedToken]:
    """Its added tokens. Raises ConfigError for ids that are none, too large or given twice."""
    tokens = content.get("added_tokens") or []
    if not isinstance(tokens, list):
        raise source.refuse_value("added_tokens", "a list", tokens)
    one_source = Source(source.path, passes_unknown=True)
    added = [read_table(one_source, AddedToken, token, f"added_tokens.{i}") for i, token in enumerate(tokens)]
    ids, names = ({getattr(token, name) for token in added} for name in ("id", "content"))
    if len(ids) < len(added) or len(names) < len(added):
        raise source.refuse(": 'added_tokens' has two tokens of one id, or one token of two")
    _check_vocabulary(source, content.get("model"))
    return added


def _check_vocabulary(source: Source, model: Any) -> None:
    if not isinstance(model, Mapping):
        raise source.refuse_value("model", "a table", model)
    vocab = model.get("vocab")
    if isinstance(vocab, list) and vocab:  # of a Unigram model: its ids are places
        return
    if not isinstance(vocab, Mapping) or not vocab:
        raise source.refuse_value("model.vocab", "a table of ids", vocab)
    for token, token_id in vocab.items():
        if type(token_id) is not int or not 0 <= token_id < MAX_TOKENS:
            wanted = f"an id from 0 to {MAX_TOKENS - 1}"
            raise source.refuse(f": the id of {shown(token)} in 'model.vocab' must be {wanted}, not {shown(token_id)}")
    if len(set(vocab.values())) < len(vocab):
        raise source.refuse(": 'model.vocab' has two tokens of one id")
    _check_prefix(source, model)


def _check_prefix(source: Source, model: Mapping[str, Any]) -> None:
    prefix, merges = model.get("continuing_subword_prefix"), model.get("merges") or []
    if prefix:  # the library cuts it off without a look, and ends the process where it is not there
        prefix = read_value(source, str, "model.continuing_subword_prefix", prefix)
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        if not all(isinstance(pair, list) and str(pair[-1]).startswith(prefix) for pair in pairs):
            raise source.refuse(f": not every merge continues with 'model.continuing_subword_prefix', {shown(prefix)}")


def _library_tokenizer(content: Mapping[str, Any]) -> "tokenizers.Tokenizer":
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:
        raise ValueError(str(error)) from error
    tokenizer.encode_special_tokens = True  # despite its name: what is spelled like a special token is text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _continuing(content: dict[str, Any]) -> dict[str, Any]:
    """The same vocabulary for text in the middle: a Metaspace that marks only the first word marks none there."""

    def unmarked(step: dict[str, Any]) -> dict[str, Any]:
        marks_first = step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first"
        return {**step, "prepend_scheme": "never"} if marks_first else step

    return {**content, "pre_tokenizer": json.loads(json.dumps(content.get("pre_tokenizer")), object_hook=unmarked)}
