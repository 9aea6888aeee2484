"""The tokenizers that the core is compared with, and a way to test a core that is not the installed one."""

import base64
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import built, reference  # noqa: F401 - before the modules that it may replace
from support.guard import GUARD_S
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

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


@pytest.fixture
def assert_releases_gil() -> Iterator[Callable[..., None]]:
    """Fails where no other Python thread can run while the action does.

    The interpreter takes the lock from no thread before the interval is over, which is for ever here: another thread
    runs only where the action itself lets go. It is tried until the system wakes that thread in time. `prepare` makes
    the action's arguments, each time anew.
    """
    interval = sys.getswitchinterval()

    def lets_go(action: Callable[..., object], arguments: tuple[object, ...]) -> bool:
        ran: list[bool] = []
        gate = threading.Lock()
        gate.acquire()
        thread = threading.Thread(target=lambda: (gate.acquire(), ran.append(True)))
        thread.start()
        gate.release()
        action(*arguments)
        released = bool(ran)
        thread.join()
        return released

    def check(action: Callable[..., object], prepare: Callable[[], tuple[object, ...]] = tuple) -> None:
        end = time.monotonic() + GUARD_S
        while not lets_go(action, prepare()):
            assert time.monotonic() < end, "no other thread could run"

    sys.setswitchinterval(10 * GUARD_S)
    yield check
    sys.setswitchinterval(interval)
