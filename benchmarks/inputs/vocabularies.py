"""Small vocabularies, trained on the fly: Llama-3's byte-level BPE, as two kinds of file, Qwen2's, and Llama-2's."""

import base64
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from recap_fast.generate.byte_level import LLAMA3_PATTERN

CORPUS = [
    "Please generate a detailed caption of this image. Please be as descriptive as possible.",
    "user\n\nassistant\n\nA small red circle is at the top left, and three blue squares are below it.",
    "The photograph shows a large green triangle on a white background; nothing else is visible, it's empty.",
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful answers.",
] * 4
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<image>",
    "<pad>",
)
"""Those of Llama 3 that a conversation needs, and LLaVA's own; they get the last ids of a vocabulary."""
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
QWEN_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
"""Each digit is a word of its own."""


def write_tokenizer(folder: Path, kind: str) -> dict[str, int]:
    """Writes a vocabulary of this kind and returns its special tokens."""
    if kind == "tiktoken":
        tokens = sorted(_base_vocabulary(train_byte_level()).items(), key=lambda item: item[1])
        lines = [base64.b64encode(token) + b" %d" % token_id for token, token_id in tokens]
        (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
        names = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>"}
        return {name: len(tokens) + i for i, name in {**names, 9: "<|eot_id|>", 255: "<last>"}.items()}
    tokenizer = {"byte_level": train_byte_level, "llama2": train_llama2, "qwen": train_qwen}[kind]()
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    return {t["content"]: t["id"] for t in json.loads(tokenizer)["added_tokens"]}


@functools.cache
def train_byte_level(vocab_size: int = 407) -> str:
    """A tokenizer.json with Llama-3's pre-tokenizer and special tokens, merges learnt from a few sentences."""
    return train_vocabulary(CORPUS, vocab_size).to_str()


@functools.cache
def train_qwen() -> str:
    """A tokenizer.json as Qwen2 has: byte-level BPE of text in normal form C, and no BOS."""
    tokenizer = _byte_level(models.BPE(), QWEN_PATTERN)
    tokenizer.normalizer = normalizers.NFC()
    return _with_special_tokens(_trained(tokenizer, CORPUS, 400), QWEN_TOKENS).to_str()


@functools.cache
def train_llama2() -> str:
    """A tokenizer.json as Llama 2 has: SentencePiece's BPE with bytes for unknown characters."""
    controls, byte_tokens = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=[*controls, *byte_tokens], show_progress=False, max_token_length=8
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<image>", "<pad>")])
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in byte_tokens]
    return json.dumps(content, ensure_ascii=False)


def train_vocabulary(corpus: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE as Llama 3 has it, of at most `vocab_size` tokens, with merges learnt from the corpus."""
    tokenizer = _byte_level(models.BPE(ignore_merges=True))
    return _with_special_tokens(_trained(tokenizer, corpus, vocab_size - len(SPECIAL_TOKENS)))


def word_vocabulary(texts: Sequence[str], vocab_size: int, special: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
    """One of exactly `vocab_size` tokens without merges, made in a moment.

    Each word of `texts` is a token, as common words are in Llama 3's; any other text is single bytes. `special` tokens
    are the last ones.
    """
    pre_tokenizer = _byte_level(models.BPE()).pre_tokenizer
    words = [word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(text)]
    tokens = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *words])
    missing = vocab_size - len(special) - len(tokens)
    tokens |= dict.fromkeys(f"w{number}" for number in range(missing))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return _with_special_tokens(_byte_level(models.BPE(vocabulary, [], ignore_merges=True)), special)


def _base_vocabulary(tokenizer: str) -> dict[bytes, int]:
    """Tokens as bytes, by way of the library's own decoder table."""
    kept = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or 0xAE <= b <= 0xFF]
    spelt = {chr(b): b for b in kept} | {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in kept)}
    return {bytes(spelt[c] for c in token): i for token, i in json.loads(tokenizer)["model"]["vocab"].items()}


def _byte_level(model: models.BPE, pattern: str = LLAMA3_PATTERN) -> Tokenizer:
    """Text is cut and its bytes are written as Llama 3 does it."""
    tokenizer = Tokenizer(model)
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _trained(tokenizer: Tokenizer, corpus: Sequence[str], vocab_size: int) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def _with_special_tokens(tokenizer: Tokenizer, names: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer
