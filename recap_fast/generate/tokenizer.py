"""A model's tokenizer: text -> token ids and back, behind one interface for every vocabulary.

In goes a folder with `tokenizer.json` or with the tiktoken `tokenizer.model` of Llama 3. Llama-3's byte-level BPE runs
in C++ (`_core.Tokenizer`); any other vocabulary (Llama-2's) goes through the `tokenizers` library. Text never yields a
control token: what looks like one in a caption or a prompt is encoded as the letters that it is.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recap_fast.errors import ConfigError

if TYPE_CHECKING:
    import tokenizers

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's pre-tokenizer, the only one that the C++ tokenizer implements."""
LLAMA3_PRE_TOKENIZER = [
    {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
]
LLAMA3_NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
NUM_LLAMA3_SPECIAL = 256
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


class Tokenizer(Protocol):
    """What the prompt and the captions need of a vocabulary. Thread-safe."""

    special: Mapping[str, int]
    """The ids of the special tokens, by name."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""

    def encode(self, text: str, *, continues: bool = False) -> NDArray[np.int32]:
        """Ids of ordinary text, without BOS. `continues`: other tokens stand before it in the prompt."""

    def cut(self, text: str, limit: int) -> tuple[str, int]:
        """The part of the text that its first `limit` tokens make up, in whole characters; and its number of tokens."""

    def detokenize(self, rows: Sequence[NDArray[np.int32]]) -> list[str]:
        """The texts of rows of ids, special tokens left out; bytes that are not UTF-8 become U+FFFD."""


class ByteLevelTokenizer:
    """Llama-3's byte-level BPE, in C++."""

    def __init__(
        self,
        tokens: list[bytes],
        merges: list[tuple[int, int, int]] | None,
        special: Mapping[str, int],
        *,
        ignore_merges: bool,
    ):
        """`tokens` by id; `merges` are (left, right, merged) ids by priority, None for priority by id (tiktoken)."""
        from recap_fast.arrow_core import core

        self._core = core.Tokenizer(tokens, merges, dict(special), ignore_merges)
        self.special: Mapping[str, int] = dict(special)
        self._size_bytes = np.array([len(t) for t in tokens], np.int64)
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
        return self._core.detokenize(rows)


class LibraryTokenizer:
    """Any `tokenizer.json`, through the `tokenizers` library."""

    def __init__(self, content: dict[str, Any]):
        """`content` is that of a tokenizer.json."""
        added = content.get("added_tokens", [])
        for token in added:
            token["special"] = token["special"] or not token["content"].isspace()  # so that text cannot spell it
        self.special: Mapping[str, int] = {t["content"]: t["id"] for t in added if t["special"]}
        self._first = _library_tokenizer(content)
        later = _continuing(content)
        self._later = self._first if later == content else _library_tokenizer(later)
        self.vocab_size = 1 + max(self._first.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str, *, continues: bool = False) -> NDArray[np.int32]:
        tokenizer = self._later if continues else self._first
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def cut(self, text: str, limit: int) -> tuple[str, int]:
        encoding = self._later.encode(text, add_special_tokens=False)
        if len(encoding.ids) <= limit:
            return text, len(encoding.ids)
        # a character of several byte tokens is in the offsets of each: it stays whole or goes
        end = min(encoding.offsets[limit - 1][1], encoding.offsets[limit][0])
        return text[:end], len(encoding.ids)

    def detokenize(self, rows: Sequence[NDArray[np.int32]]) -> list[str]:
        texts: list[str] = self._first.decode_batch([row.tolist() for row in rows], skip_special_tokens=True)
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
        return _from_tiktoken(file)
    raise ConfigError(f"{file} is not a tokenizer: expected {' or '.join(TOKENIZER_FILES)}.")


def special_ids(tokenizer: Tokenizer, tokens: Iterable[str]) -> list[int]:
    """The ids of those special tokens that the tokenizer has."""
    return [tokenizer.special[token] for token in tokens if token in tokenizer.special]


def _from_json(file: Path) -> Tokenizer:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return _byte_level(content) or LibraryTokenizer(content)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} is not a tokenizer.json of the `tokenizers` library: {error!r}.") from error


def _byte_level(content: Mapping[str, Any]) -> ByteLevelTokenizer | None:
    """The C++ tokenizer, where it does exactly what this tokenizer.json says; else None."""
    model, added = content["model"], content.get("added_tokens") or []
    if not (_is_llama3_pipeline(content) and _is_plain_bpe(model) and all(map(_is_plain_token, added))):
        return None
    vocab: dict[str, int] = model["vocab"]
    tokens, merges = _tokens_by_id(vocab), _merges_by_id(vocab, model["merges"])
    special = {t["content"]: t["id"] for t in added}
    if tokens is None or merges is None or any(t in vocab or i < len(tokens) for t, i in special.items()):
        return None
    return ByteLevelTokenizer(tokens, merges, special, ignore_merges=bool(model.get("ignore_merges")))


def _is_llama3_pipeline(content: Mapping[str, Any]) -> bool:
    pre, decoder = content.get("pre_tokenizer") or {}, content.get("decoder") or {}
    steps = [{k: v for k, v in step.items() if k != "trim_offsets"} for step in pre.get("pretokenizers", [])]
    is_pre = pre.get("type") == "Sequence" and steps == LLAMA3_PRE_TOKENIZER
    return content.get("normalizer") is None and is_pre and decoder.get("type") == "ByteLevel"


def _is_plain_bpe(model: Mapping[str, Any]) -> bool:
    settings = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    return model.get("type") == "BPE" and not any(model.get(name) for name in settings)


def _is_plain_token(token: Mapping[str, Any]) -> bool:
    # a blank added token (GPT-NeoX's runs of spaces) is text to be matched, not a control token
    return not (token["lstrip"] or token["rstrip"] or token["single_word"] or token["content"].isspace())


def _tokens_by_id(vocab: Mapping[str, int]) -> list[bytes] | None:
    """The bytes of every token by id; None unless the ids are 0..n-1 and all 256 bytes have a token."""
    byte_of = {char: byte for byte, char in _byte_characters()}
    tokens = [b""] * len(vocab)
    for text, token_id in vocab.items():
        if not text or not 0 <= token_id < len(tokens) or tokens[token_id] or any(c not in byte_of for c in text):
            return None
        tokens[token_id] = bytes(byte_of[c] for c in text)
    return tokens if {t for t in tokens if len(t) == 1} == {bytes([b]) for b in range(256)} else None


def _merges_by_id(vocab: Mapping[str, int], merges: Sequence[Any]) -> list[tuple[int, int, int]] | None:
    """(left, right, merged) ids; a merge is a pair of tokens, in old files joined by a space. None for other merges."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if any(len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys() for pair in pairs):
        return None
    return [(vocab[left], vocab[right], vocab[left + right]) for left, right in pairs]


def _byte_characters() -> Iterator[tuple[int, str]]:
    """GPT-2's spelling of bytes: printable Latin-1 as itself, the others as the characters from U+0100 on."""
    spare = 0x100
    for byte in range(256):
        printable = 0x21 <= byte <= 0x7E or (0xA1 <= byte <= 0xFF and byte != 0xAD)
        yield byte, chr(byte if printable else spare)
        spare += not printable


def _from_tiktoken(file: Path) -> ByteLevelTokenizer:
    """Llama 3's `tokenizer.model`: a line per token, base64 and rank. Its 256 special tokens are not in the file.

    Source of their names: meta-llama/llama3, tokenizer.py; ids 128000 to 128255.
    """
    lines = file.read_bytes().splitlines()
    try:
        pairs = [line.split() for line in lines if line]
        tokens = [base64.b64decode(token, validate=True) for token, _ in pairs]
        ranks = [int(rank) for _, rank in pairs]
    except (ValueError, binascii.Error):
        raise ConfigError(
            f"{file} is not a tiktoken vocabulary; is it a SentencePiece model, as Llama 2 has? Use the tokenizer.json "
            "beside it, or make one: transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW_DIR)."
        ) from None
    if not ranks or ranks != list(range(len(ranks))) or len({t for t in tokens if len(t) == 1}) != 256:
        raise ConfigError(f"{file} is not Llama 3's vocabulary: expected ranks 0, 1, 2, ... and all 256 bytes.")
    reserved = (f"reserved_special_token_{i}" for i in range(NUM_LLAMA3_SPECIAL))
    names = [LLAMA3_NAMED.get(i) or next(reserved) for i in range(NUM_LLAMA3_SPECIAL)]
    special = {f"<|{name}|>": len(tokens) + i for i, name in enumerate(names)}
    return ByteLevelTokenizer(tokens, None, special, ignore_merges=True)


def _library_tokenizer(content: Mapping[str, Any]) -> "tokenizers.Tokenizer":
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    tokenizer.encode_special_tokens = True  # despite its name: what is spelt like a special token is text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _continuing(content: dict[str, Any]) -> dict[str, Any]:
    """The same vocabulary for text in the middle: a Metaspace that marks only the first word marks none there."""

    def unmarked(step: dict[str, Any]) -> dict[str, Any]:
        marks_first = step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first"
        return {**step, "prepend_scheme": "never"} if marks_first else step

    return {**content, "pre_tokenizer": json.loads(json.dumps(content.get("pre_tokenizer")), object_hook=unmarked)}
