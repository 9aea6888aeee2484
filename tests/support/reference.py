"""Slow, obvious Python versions of everything in csrc/, and the byte alphabet of the `tokenizers` library."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from tokenizers import Regex, Tokenizer, pre_tokenizers

LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_alphabet() -> dict[int, str]:
    """The character that stands for each byte in a byte-level tokenizer.json (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def token_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level tokenizer.json stands for."""
    byte_of = {character: byte for byte, character in byte_alphabet().items()}
    return bytes(byte_of[character] for character in token)


def core_arguments(tokenizer: Tokenizer) -> dict[str, object]:
    """What `_core.Tokenizer` takes, from a tokenizer of the `tokenizers` library."""
    content = json.loads(tokenizer.to_str())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    byte_of = {character: byte for byte, character in byte_alphabet().items()}
    tokens = [b""] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        tokens[index] = bytes(byte_of[character] for character in token)
    return {
        "tokens": tokens,
        "merges": [(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in merges],
        "special": {token["content"]: token["id"] for token in content["added_tokens"]},
        "ignore_merges": content["model"]["ignore_merges"],
    }


def split_words(text: str) -> list[str]:
    """The words of Llama-3's regex, by the regex engine of the `tokenizers` library."""
    return [word for word, _ in pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated").pre_tokenize_str(text)]


def merge_by_rank(word: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """tiktoken's merging: the neighbors whose joined bytes have the lowest rank are joined, the leftmost first."""
    pieces = [word[i : i + 1] for i in range(len(word))]
    while True:
        joined = [ranks.get(left + right) for left, right in pairwise(pieces)]
        known = [rank for rank in joined if rank is not None]
        if not known:
            return [ranks[piece] for piece in pieces]
        at = joined.index(min(known))
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def encode_by_rank(text: str, ranks: Mapping[bytes, int]) -> list[int]:
    """The ids of a text by a tiktoken vocabulary, special tokens not known."""
    return [index for word in split_words(text) for index in merge_by_rank(word.encode(), ranks)]


def detokenize(rows: Sequence[Sequence[int]], tokens: Sequence[bytes], special: Sequence[int]) -> list[str]:
    """The text of each row of ids, special tokens left out, U+FFFD for bytes that are not UTF-8."""
    return [b"".join(tokens[i] for i in row if i not in special).decode("utf-8", "replace") for row in rows]


def pack_prompts(
    texts: Sequence[Sequence[int]], num_image_tokens: int, width: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Text ids and last rows, read off a picture of the matrix of new positions."""
    texts = [*texts, *[[]] * (rows - len(texts))]
    flat = np.arange(rows * (num_image_tokens + width)).reshape(rows, num_image_tokens + width)
    return (
        np.array([[*text, *[0] * (width - len(text))] for text in texts], np.int32).reshape(rows, width),
        np.array([row[num_image_tokens + len(text) - 1] for row, text in zip(flat, texts, strict=True)]),
    )
