"""The fake's executor: its Llama says what transformers' LLaVA says, and its traps are those of the library.

Nothing here shows anything about the real library; see trtllm_fake.
"""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import Pair, make_pair, random_requests
from trtllm_fake.callers import await_all, build_engine, make_request, open_executor, prompt_of, tokens_of
from trtllm_fake.faults import Faults
from trtllm_fake.llama import TrapError
from trtllm_fake.loop import ON_DEMAND
from trtllm_fake.package import Fake
from trtllm_fake.plain_llama import write_plain_llama

NUM_ROWS = 16


def error_of(running: Any, request: Any) -> str:
    running.enqueue_request(request)
    (response,) = await_all(running, 1)
    return str(response.error_msg)


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"tie_word_embeddings": True},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ],
)
def test_captions_equal_transformers(fake: Fake, tmp_path: Path, text: dict[str, Any]) -> None:
    pair = make_pair(tmp_path / "pair", text=text)
    llama = write_plain_llama(pair.model, tmp_path / "lm")
    requests = random_requests(pair, 9, fields=True)
    expected = [pair.reference(r, []) for r in requests]
    assert len({tuple(c) for c in expected}) > 4, "the captions must differ for this test to mean something"
    vocab = pair.spec.text.vocab_size
    with open_executor(build_engine(llama, tmp_path / "engine", NUM_ROWS)) as running:
        running.enqueue_requests([make_request(prompt_of(pair, r), vocab, r.id) for r in requests])
        responses = await_all(running, len(requests))
    assert {r.client_id: tokens_of(r) for r in responses} == dict(enumerate(expected))


def test_end_id_and_stop_words(engine: Path, pair: Pair) -> None:
    from tensorrt_llm.bindings.executor import FinishReason

    (request,) = random_requests(pair, 1)
    whole, vocab, prompt = pair.reference(request, []), pair.spec.text.vocab_size, prompt_of(pair, request)
    stop = whole[5]
    first = whole.index(stop)
    with open_executor(engine) as running:
        running.enqueue_request(make_request(prompt, vocab, 0, end_id=stop))
        running.enqueue_request(make_request(prompt, vocab, 1, stop_words=[[stop]]))
        running.enqueue_request(make_request(prompt, vocab, 2))
        found = {r.client_id: (tokens_of(r), r.result.finish_reasons) for r in await_all(running, 3)}
    assert found == {
        0: (whole[:first], [FinishReason.END_ID]),
        1: (whole[: first + 1], [FinishReason.STOP_WORDS]),
        2: (whole, [FinishReason.LENGTH]),
    }


def test_sampling_is_by_seed(engine: Path, pair: Pair) -> None:
    from tensorrt_llm.bindings.executor import SamplingConfig

    (request,) = random_requests(pair, 1)
    prompt, vocab = prompt_of(pair, request), pair.spec.text.vocab_size
    with open_executor(engine) as running:
        for client_id, seed in enumerate((1, 2, 1)):
            config = SamplingConfig(temperature=1.5, top_k=50, top_p=0.95, seed=seed)
            running.enqueue_request(make_request(prompt, vocab, client_id, sampling_config=config))
        found = {r.client_id: tokens_of(r) for r in await_all(running, 3)}
    assert found[0] == found[2]
    assert found[0] != found[1]


def test_answers_overtake_one_another_and_polls_are_empty(engine: Path, pair: Pair) -> None:
    vocab, requests = pair.spec.text.vocab_size, random_requests(pair, 4, max_new_tokens=3)
    with open_executor(engine) as running:
        running.enqueue_requests([make_request(prompt_of(pair, r), vocab, r.id) for r in requests])
        polls: list[list[Any]] = []
        while sum(map(len, polls)) < 4:
            polls.append(running.await_responses(timeout=timedelta(seconds=1)))
    assert [] in polls
    assert [r.client_id for poll in polls for r in poll] == [1, 0, 3, 2]


def test_no_more_run_at_once_than_the_batch(engine: Path, pair: Pair) -> None:
    requests = random_requests(pair, 9, max_new_tokens=4)
    with open_executor(engine, max_batch_size=3) as running:
        vocab = pair.spec.text.vocab_size
        running.enqueue_requests([make_request(prompt_of(pair, r), vocab, r.id) for r in requests])
        await_all(running, 9)
        assert running._behind._loop.most_active == 3


def test_a_poll_ends_when_its_time_is_over(engine: Path) -> None:
    with open_executor(engine) as running:
        started = time.monotonic()
        assert running.await_responses(timeout=timedelta(milliseconds=30)) == []
        assert time.monotonic() - started >= 0.03


def test_block_reuse_gives_another_images_caption(engine: Path, pair: Pair) -> None:
    first, second = random_requests(pair, 2)
    vocab = pair.spec.text.vocab_size
    assert pair.reference(first, []) != pair.reference(second, [])
    with open_executor(engine, reuse=True) as running:
        found = []
        for request in (first, second):
            running.enqueue_request(make_request(prompt_of(pair, request), vocab))
            found += [tokens_of(r) for r in await_all(running, 1)]
    assert found == [pair.reference(first, [])] * 2


def test_the_prompt_is_in_the_output_unless_excluded(engine: Path, pair: Pair) -> None:
    from tensorrt_llm.bindings.executor import OutputConfig

    (request,) = random_requests(pair, 1)
    made = make_request(prompt_of(pair, request), pair.spec.text.vocab_size, output_config=OutputConfig())
    with open_executor(engine) as running:
        running.enqueue_request(made)
        (response,) = await_all(running, 1)
    assert tokens_of(response) == [*made.input_token_ids, *pair.reference(request, [])]


def test_prompt_tables_are_checked(fake: Fake, llama: Path, pair: Pair, tmp_path: Path) -> None:
    (request,) = random_requests(pair, 1)
    before, after, table, most = prompt_of(pair, request)
    vocab = pair.spec.text.vocab_size
    with open_executor(build_engine(llama, tmp_path / "engine", NUM_ROWS - 1)) as running:
        error = error_of(running, make_request((before, after, table, most), vocab))
        assert "Prompt vocab size 16 is larger than max prompt vocab size 15" in error
        halves = table[:15].to(torch.float16)
        error = error_of(running, make_request((before, after, halves, most), vocab))
        assert "Request embedding table data type doesn't match model weight data type." in error
        assert "embedding table [15, 32]" in error_of(
            running, make_request((before, after, table[:15, :32].contiguous(), most), vocab)
        )
        with pytest.raises(RuntimeError, match="not contiguous"):
            make_request((before, after, table[::2], most), vocab)
        running.enqueue_request(make_request((before, after, table[:15].contiguous(), most), vocab))
        (response,) = await_all(running, 1)
        assert not response.has_error()


def test_lengths_are_checked_or_cut(fake: Fake, llama: Path, pair: Pair, tmp_path: Path) -> None:
    (request,) = random_requests(pair, 1)
    prompt, vocab = prompt_of(pair, request), pair.spec.text.vocab_size
    length = len(prompt[0]) + len(prompt[1]) + NUM_ROWS
    engine = build_engine(llama, tmp_path / "a", NUM_ROWS, max_input_len=length - 1)
    with open_executor(engine) as running:
        assert f"Prompt length ({length}) exceeds" in error_of(running, make_request(prompt, vocab))
    engine = build_engine(llama, tmp_path / "b", NUM_ROWS, max_input_len=length, max_seq_len=length + 2)
    with open_executor(engine) as running:
        running.enqueue_request(make_request(prompt, vocab))
        assert tokens_of(await_all(running, 1)[0]) == pair.reference(request, [])[:2]


def test_traps_stop_the_executor(engine: Path, pair: Pair) -> None:
    (request,) = random_requests(pair, 1)
    before, after, table, most = prompt_of(pair, request)
    vocab = pair.spec.text.vocab_size
    with open_executor(engine, enable_chunked_context=True) as running:
        running.enqueue_request(make_request((before, after, table, most), vocab))
        with pytest.raises(TrapError, match="chunked"):
            await_all(running, 1)
        assert not running.can_enqueue_requests()
    with open_executor(engine) as running:
        running.enqueue_request(make_request((before, [*after, vocab + NUM_ROWS], table, most), vocab))
        with pytest.raises(TrapError, match=f"id {vocab + NUM_ROWS} "):
            await_all(running, 1)


@pytest.mark.parametrize("faults", [Faults(failing=(1,))], indirect=True)
def test_a_request_fails_on_demand(engine: Path, pair: Pair) -> None:
    requests = random_requests(pair, 3, max_new_tokens=4)
    with open_executor(engine) as running:
        vocab = pair.spec.text.vocab_size
        running.enqueue_requests([make_request(prompt_of(pair, r), vocab, r.id) for r in requests])
        found = {r.client_id: r for r in await_all(running, 3)}
    assert [found[i].has_error() for i in range(3)] == [False, True, False]
    assert found[1].error_msg == ON_DEMAND
    with pytest.raises(RuntimeError, match="Cannot get result"):
        _ = found[1].result


@pytest.mark.parametrize("faults", [Faults(dies_after=2)], indirect=True)
def test_it_dies_on_demand(engine: Path, pair: Pair) -> None:
    running = open_executor(engine)
    vocab = pair.spec.text.vocab_size
    running.enqueue_requests(
        [make_request(prompt_of(pair, r), vocab, r.id) for r in random_requests(pair, 4, max_new_tokens=4)]
    )
    await_all(running, 2)
    with pytest.raises(RuntimeError, match="worker has ended"):
        await_all(running, 1)
    assert not running.can_enqueue_requests()


@pytest.mark.parametrize("faults", [Faults(dies_after=1, dies_silently=True)], indirect=True)
def test_it_dies_silently_on_demand(engine: Path, pair: Pair) -> None:
    running = open_executor(engine)
    vocab = pair.spec.text.vocab_size
    running.enqueue_requests(
        [make_request(prompt_of(pair, r), vocab, r.id) for r in random_requests(pair, 2, max_new_tokens=4)]
    )
    await_all(running, 1)
    assert running.await_responses(timeout=timedelta(milliseconds=20)) == []
    assert not running.can_enqueue_requests()


def test_cancelled_requests_end(engine: Path, pair: Pair) -> None:
    from tensorrt_llm.bindings.executor import FinishReason

    first, second = random_requests(pair, 2, max_new_tokens=200)
    vocab = pair.spec.text.vocab_size
    with open_executor(engine, max_batch_size=1) as running:
        ids = running.enqueue_requests([make_request(prompt_of(pair, r), vocab) for r in (first, second)])
        running.cancel_request(ids[1])  # it waits for two hundred tokens of the other one
        (response,) = running.await_responses(ids[1])
    assert response.result.finish_reasons == [FinishReason.CANCELLED]
    assert len(tokens_of(response)) == 1


def test_after_shutdown_nothing_is_taken(engine: Path, pair: Pair) -> None:
    (request,) = random_requests(pair, 1)
    running = open_executor(engine)
    running.shutdown()
    with pytest.raises(RuntimeError, match="Shutdown"):
        running.enqueue_request(make_request(prompt_of(pair, request), pair.spec.text.vocab_size))
