"""The tokenizers that the core is compared with, and a way to test a core that is not the installed one."""

import base64
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow  # noqa: F401 - before the core, as recap_fast/arrow_core.py does it
import pytest
from support import reference
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

if core_file := os.environ.get("RECAP_FAST_CORE"):  # set by ctest: a build with sanitizers, say
    spec = importlib.util.spec_from_file_location("recap_fast._core", core_file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["recap_fast._core"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["recap_fast._core"])

from recap_fast.arrow_core import core

SPECIAL_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eot_id|>x", "<image>", "<pad>", "pad")
CORPUS = [
    "A small red circle at the top left, and a large blue square; it's 1234 pixels wide.\n\n",
    "They'll say WE'VE seen 3 naïve cafés — don't we? \t\t  Größe, Straße, ὕδωρ, вода, עברית, العربية\r\n",
    "日本語のテキスト、中文文本、한국어 텍스트 👩‍👩‍👧‍👦🇫🇷 ①②③ ½ ٣٤٥ aaaaaaaa bbbbbbbb        !!!!!!!!\n\n\n",
]


def byte_level(model: models.BPE) -> Tokenizer:
    """A tokenizer of the `tokenizers` library with Llama-3's pre-tokenizer, whose `encode` reads no special tokens."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(reference.LLAMA3_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(ignore_merges: bool) -> Tokenizer:
    """A small vocabulary, learnt here, with a word that no merges lead to."""
    trained = byte_level(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        CORPUS * 20, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    )
    arguments = reference.core_arguments(trained)
    byte_names = reference.byte_alphabet()
    names = ["".join(byte_names[b] for b in token) for token in arguments["tokens"]]
    vocabulary = {name: i for i, name in enumerate([*names, "Ġunreachable"])}
    merges = [(names[left], names[right]) for left, right, _ in arguments["merges"]]
    tokenizer = byte_level(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


@pytest.fixture(scope="session", params=[True, False], ids=["ignore_merges", "merges"])
def small(request: pytest.FixtureRequest) -> tuple[Tokenizer, core.Tokenizer]:
    """The small vocabulary in both libraries."""
    tokenizer = train(request.param)
    return tokenizer, core.Tokenizer(**reference.core_arguments(tokenizer))


@pytest.fixture(scope="session")
def ranks() -> dict[bytes, int]:
    """Llama-3's real vocabulary, where the llama_models package brings it."""
    package = importlib.util.find_spec("llama_models")
    if package is None or package.origin is None:
        pytest.skip("llama_models is not installed: no real vocabulary")
    lines = (Path(package.origin).parent / "llama3" / "tokenizer.model").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


@pytest.fixture(scope="session")
def real(ranks: dict[bytes, int]) -> tuple[Tokenizer, core.Tokenizer]:
    """Llama-3's real vocabulary: in the `tokenizers` library with merges derived from ranks, in the core with ranks."""
    byte_names = reference.byte_alphabet()
    name = {token: "".join(byte_names[byte] for byte in token) for token in ranks}
    merges = [
        (rank, ranks[token[:i]], ranks[token[i:]], token[:i], token[i:])
        for token, rank in ranks.items()
        for i in range(1, len(token))
        if token[:i] in ranks and token[i:] in ranks
    ]
    pairs = [(name[left], name[right]) for *_, left, right in sorted(merges)]
    vocabulary = {name[token]: rank for token, rank in ranks.items()}
    tokenizer = byte_level(models.BPE(vocabulary, pairs, ignore_merges=True))
    special_tokens = [token for token in SPECIAL_TOKENS if token.encode() not in ranks]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    special = {token: tokenizer.token_to_id(token) for token in special_tokens}
    return tokenizer, core.Tokenizer(list(ranks), None, special, True)


def longest_pause(action: Callable[[], object]) -> tuple[float, float]:
    """How long the action took, and for how long at most another Python thread stood still in the meantime; seconds."""
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    action()
    end = time.perf_counter()
    stop.set()
    thread.join()
    moments = [begin, *(t for t in ticks if begin < t < end), end]
    return end - begin, max(b - a for a, b in pairwise(moments))


@pytest.fixture
def assert_releases_gil() -> Callable[[Callable[[], object]], None]:
    """Fails where other threads stand still while the action runs, which must take 50 ms or more to tell."""

    def check(action: Callable[[], object]) -> None:
        seconds, pause = longest_pause(action)
        assert seconds > 0.05, f"{seconds * 1000:.0f} ms are too short to tell"
        assert pause < 0.5 * seconds, f"another thread stood still for {pause:.3f} of {seconds:.3f} s"

    return check
