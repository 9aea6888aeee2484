"""Vocabularies of Llama-3's byte-level BPE, in tokenizer.json or tokenizer.model, as the C++ tokenizer takes them."""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Range

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
MAX_TOKENS = 1 << 22
"""More than any vocabulary has; ids beyond it would be memory for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """An entry of a tokenizer.json's `added_tokens`: a control token, or a word that was added to the vocabulary."""

    id: Annotated[int, Range(0, MAX_TOKENS - 1)]
    content: str
    special: bool = False
    """Not printed."""
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteLevelVocabulary:
    """What the C++ tokenizer takes."""

    tokens: list[bytes]
    """By id."""
    merges: list[tuple[int, int, int]] | None
    """(left, right, merged) ids by priority; None for priority by id (tiktoken)."""
    added: Mapping[str, int]
    """Ids of the tokens that no text yields, by name."""
    words: Mapping[int, bytes] = field(default_factory=dict)
    """What those of them that are printed are printed as, by id."""
    ignore_merges: bool


def read_byte_level(content: Mapping[str, Any], added: Sequence[AddedToken]) -> ByteLevelVocabulary | None:
    """Of a tokenizer.json, where the C++ tokenizer does exactly what it says; else None."""
    model = content["model"]
    if not (_is_llama3_pipeline(content) and _is_plain_bpe(model) and all(map(_is_plain_token, added))):
        return None
    vocab: Mapping[str, int] = model["vocab"]
    tokens, merges = _tokens_by_id(vocab), _merges_by_id(vocab, model["merges"])
    if tokens is None or merges is None or any(t.content in vocab or t.id < len(tokens) for t in added):
        return None
    return ByteLevelVocabulary(
        tokens=tokens,
        merges=merges,
        added={token.content: token.id for token in added},
        words={token.id: _printed(token.content) for token in added if not token.special},
        ignore_merges=bool(model.get("ignore_merges")),
    )


def read_tiktoken(file: Path) -> ByteLevelVocabulary:
    """Llama 3's `tokenizer.model`: a line per token, base64 and rank. Its 256 special tokens are not in the file.

    Source of their names: meta-llama/llama3, tokenizer.py; ids 128000 to 128255. Raises ConfigError for another file.
    """
    try:
        pairs = [line.split() for line in file.read_bytes().splitlines() if line]
        tokens = [base64.b64decode(token, validate=True) for token, _ in pairs]
        ranks = [int(rank) for _, rank in pairs]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, binascii.Error):
        raise ConfigError(
            f"{file} is not a tiktoken vocabulary; is it a SentencePiece model, as Llama 2 has? Use the tokenizer.json "
            "beside it, or make one: transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW_DIR)."
        ) from None
    if ranks != list(range(len(ranks))) or not _is_vocabulary(tokens):
        raise ConfigError(
            f"{file} is not Llama 3's vocabulary: expected ranks 0, 1, 2, ..., all 256 bytes, and no token twice."
        )
    reserved = (f"reserved_special_token_{i}" for i in range(NUM_LLAMA3_SPECIAL))
    names = [LLAMA3_NAMED.get(i) or next(reserved) for i in range(NUM_LLAMA3_SPECIAL)]
    added = {f"<|{name}|>": len(tokens) + i for i, name in enumerate(names)}
    return ByteLevelVocabulary(tokens=tokens, merges=None, added=added, ignore_merges=True)


def _is_vocabulary(tokens: Sequence[bytes]) -> bool:
    has_bytes = len({token for token in tokens if len(token) == 1}) == 256
    return has_bytes and b"" not in tokens and len(set(tokens)) == len(tokens) <= MAX_TOKENS - NUM_LLAMA3_SPECIAL


def _is_llama3_pipeline(content: Mapping[str, Any]) -> bool:
    pre, decoder = content.get("pre_tokenizer") or {}, content.get("decoder") or {}
    steps = [{k: v for k, v in step.items() if k != "trim_offsets"} for step in pre.get("pretokenizers", [])]
    is_pre = pre.get("type") == "Sequence" and steps == LLAMA3_PRE_TOKENIZER
    return content.get("normalizer") is None and is_pre and decoder.get("type") == "ByteLevel"


def _is_plain_bpe(model: Mapping[str, Any]) -> bool:
    settings = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    return model.get("type") == "BPE" and not any(model.get(name) for name in settings)


def _is_plain_token(token: AddedToken) -> bool:
    # a blank added token (GPT-NeoX's runs of spaces) is text to be matched, not a control token
    return not (token.lstrip or token.rstrip or token.single_word or token.content.isspace())


def _tokens_by_id(vocab: Mapping[str, int]) -> list[bytes] | None:
    """The bytes of every token by id; None unless the ids are 0..n-1 and all 256 bytes have a token."""
    tokens = [b""] * len(vocab)
    for text, token_id in vocab.items():
        if not text or not 0 <= token_id < len(tokens) or tokens[token_id] or any(c not in BYTE_OF for c in text):
            return None
        tokens[token_id] = bytes(BYTE_OF[c] for c in text)
    return tokens if {t for t in tokens if len(t) == 1} == {bytes([b]) for b in range(256)} else None


def _merges_by_id(vocab: Mapping[str, int], merges: Sequence[Any]) -> list[tuple[int, int, int]] | None:
    """(left, right, merged) ids; a merge is a pair of tokens, in old files joined by a space. None for other merges."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if any(len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys() for pair in pairs):
        return None
    return [(vocab[left], vocab[right], vocab[left + right]) for left, right in pairs]


def _printed(word: str) -> bytes:
    """As the `tokenizers` library's decoder has it: byte by byte where it could be spelled so, else as it is."""
    return bytes(BYTE_OF[c] for c in word) if all(c in BYTE_OF for c in word) else word.encode()


def _byte_characters() -> Iterator[tuple[str, int]]:
    """GPT-2's spelling of bytes: printable Latin-1 as itself, the others as the characters from U+0100 on."""
    spare = 0x100
    for byte in range(256):
        printable = 0x21 <= byte <= 0x7E or (0xA1 <= byte <= 0xFF and byte != 0xAD)
        yield chr(byte if printable else spare), byte
        spare += not printable


BYTE_OF = dict(_byte_characters())
