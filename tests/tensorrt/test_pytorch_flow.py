"""The fake's PyTorch flow: registered classes say what transformers' LLaVA says, and prompts go where 1.2.1 sends them.

Nothing here shows anything about the real library; see trtllm_fake.
"""

import asyncio
import queue
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import Pair, make_pair, random_requests
from trtllm_fake.callers import generate, open_llm, prompt_of, register_classes
from trtllm_fake.faults import Faults
from trtllm_fake.llama import TrapError
from trtllm_fake.loop import ON_DEMAND
from trtllm_fake.package import Fake
from trtllm_fake.plain_llama import write_plain_llama


@pytest.fixture(scope="session")
def checkpoint(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_llama(pair.model, tmp_path_factory.mktemp("plain") / "lm", "TestLlava")


@pytest.fixture
def classes(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The fake, with the classes registered, in a single process."""
    monkeypatch.setenv("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
    register_classes()
    return fake


def caption_of(output: Any) -> list[int]:
    return list(output.result(timeout=20).outputs[0].token_ids)


@pytest.mark.parametrize("text", [{}, {"tie_word_embeddings": True, "num_key_value_heads": 1}])
def test_captions_equal_transformers(classes: Fake, tmp_path: Path, text: dict[str, Any]) -> None:
    pair = make_pair(tmp_path / "pair", text=text)
    folder = write_plain_llama(pair.model, tmp_path / "lm", "TestLlava")
    requests = random_requests(pair, 9, fields=True)
    expected = [pair.reference(r, []) for r in requests]
    assert len({tuple(c) for c in expected}) > 4, "the captions must differ for this test to mean something"
    with open_llm(folder) as llm:
        outputs = [generate(llm, prompt_of(pair, r), pair.spec.text.vocab_size) for r in requests]
        assert [caption_of(output) for output in outputs] == expected


@pytest.mark.parametrize("faults", [Faults(keep_end_id=True), Faults(keep_end_id=False)], indirect=True)
def test_end_id_and_stop_ids(classes: Fake, checkpoint: Path, pair: Pair, faults: Faults) -> None:
    (request,) = random_requests(pair, 1)
    whole, vocab, prompt = pair.reference(request, []), pair.spec.text.vocab_size, prompt_of(pair, request)
    stop = whole[5]
    first = whole.index(stop)
    with open_llm(checkpoint) as llm:
        ended = generate(llm, prompt, vocab, end_id=stop)
        stopped = generate(llm, prompt, vocab, stop_token_ids=[stop])
        full = generate(llm, prompt, vocab)
        assert caption_of(ended) == whole[: first + faults.keep_end_id]
        assert caption_of(stopped) == whole[:first]
        assert caption_of(full) == whole
        reasons = [(o.outputs[0].finish_reason, o.outputs[0].stop_reason) for o in (ended, stopped, full)]
    assert reasons == [("stop", None), ("stop", stop), ("length", None)]


def test_finished_turns_true_where_the_answer_is_taken(classes: Fake, checkpoint: Path, pair: Pair) -> None:
    first, second = random_requests(pair, 2, max_new_tokens=2)
    with open_llm(checkpoint) as llm:
        early = generate(llm, prompt_of(pair, first), pair.spec.text.vocab_size)
        caption_of(generate(llm, prompt_of(pair, second), pair.spec.text.vocab_size))
        assert not early.finished
        caption_of(early)
        assert early.finished


def test_an_answer_can_be_awaited(classes: Fake, checkpoint: Path, pair: Pair) -> None:
    requests = random_requests(pair, 3)

    async def caption(llm: Any) -> list[list[int]]:
        outputs = [generate(llm, prompt_of(pair, r), pair.spec.text.vocab_size) for r in requests]
        return [list((await output).outputs[0].token_ids) for output in outputs]

    with open_llm(checkpoint) as llm:
        assert asyncio.run(caption(llm)) == [pair.reference(r, []) for r in requests]
        late = generate(llm, prompt_of(pair, requests[0]), pair.spec.text.vocab_size)
        with pytest.raises(AssertionError, match="event loop"):
            asyncio.run(late.aresult())


def test_result_gives_up_after_its_time(classes: Fake, checkpoint: Path, pair: Pair) -> None:
    (request,) = random_requests(pair, 1)
    with open_llm(checkpoint) as llm:
        output = generate(llm, prompt_of(pair, request), pair.spec.text.vocab_size)
        with pytest.raises(queue.Empty):
            output.result(timeout=0.0)
        assert caption_of(output) == pair.reference(request, [])


def test_block_reuse_gives_another_images_caption(classes: Fake, checkpoint: Path, pair: Pair) -> None:
    first, second = random_requests(pair, 2)
    with open_llm(checkpoint, reuse=True) as llm:
        found = [caption_of(generate(llm, prompt_of(pair, r), pair.spec.text.vocab_size)) for r in (first, second)]
    assert found == [pair.reference(first, [])] * 2
    assert found[1] != pair.reference(second, [])


def test_prompts_go_where_the_library_sends_them(classes: Fake, checkpoint: Path, pair: Pair) -> None:
    from tensorrt_llm.llmapi import SamplingParams

    (request,) = random_requests(pair, 1)
    before, after, table, most = prompt_of(pair, request)
    params = SamplingParams(max_tokens=most, end_id=-1)
    embeddings = {"multi_modal_embeddings": {"image": [table]}}
    vocab = pair.spec.text.vocab_size
    ids = [*before, *range(vocab, vocab + len(table)), *after]
    with open_llm(checkpoint) as llm:
        with pytest.raises(TrapError, match="drops the embeddings"):
            llm.generate_async({"prompt_token_ids": ids, **embeddings}, params)
        with pytest.raises(NotImplementedError):  # the processor's __call__, which is for what needs an encoder
            llm.generate_async({"prompt": "x", "multi_modal_data": None, **embeddings, "test_ids": ids}, params)
        with pytest.raises(TypeError, match="must be type"):
            llm.generate_async(embeddings, params)
        with pytest.raises(ValueError, match="end_id"):
            llm.generate_async({"prompt": "x", **embeddings, "test_ids": ids}, SamplingParams(max_tokens=most))
        both = {"prompt": "x", "prompt_token_ids": [*before, *after], **embeddings, "test_ids": ids}
        assert caption_of(llm.generate_async(both, params)) != pair.reference(request, []), "the image is left out"
        only_text = llm.generate_async([*before, *after], params)
        assert len(caption_of(only_text)) == most


@pytest.mark.parametrize("rows", [15, 17])
def test_counts_must_agree(classes: Fake, checkpoint: Path, pair: Pair, rows: int) -> None:
    from tensorrt_llm.llmapi import RequestError, SamplingParams

    (request,) = random_requests(pair, 1)
    vocab = pair.spec.text.vocab_size
    inputs = {
        "prompt": "x",
        "multi_modal_embeddings": {"image": [torch.zeros(rows, 64)]},
        "test_ids": [1, *range(vocab, vocab + 16), 2],
    }
    with open_llm(checkpoint) as llm:
        output = llm.generate_async(inputs, SamplingParams(max_tokens=4, end_id=-1))
        with pytest.raises(RequestError, match=f"found 16 image tokens in input_ids but received {rows}"):
            caption_of(output)
        assert caption_of(generate(llm, prompt_of(pair, request), vocab)) == pair.reference(request, [])


@pytest.mark.parametrize("faults", [Faults(failing=(1,))], indirect=True)
def test_a_request_fails_on_demand(classes: Fake, checkpoint: Path, pair: Pair) -> None:
    from tensorrt_llm.llmapi import RequestError

    requests = random_requests(pair, 3, max_new_tokens=4)
    with open_llm(checkpoint) as llm:
        outputs = [generate(llm, prompt_of(pair, r), pair.spec.text.vocab_size) for r in requests]
        with pytest.raises(RequestError, match=ON_DEMAND):
            caption_of(outputs[1])
        assert [caption_of(outputs[i]) for i in (0, 2)] == [pair.reference(requests[i], []) for i in (0, 2)]


@pytest.mark.parametrize("faults", [Faults(dies_after=1)], indirect=True)
def test_it_dies_on_demand(classes: Fake, checkpoint: Path, pair: Pair) -> None:
    requests = random_requests(pair, 2, max_new_tokens=24)
    llm = open_llm(checkpoint, max_batch_size=1)
    first, second = (generate(llm, prompt_of(pair, r), pair.spec.text.vocab_size) for r in requests)
    found = []
    for output in (first, second):
        try:
            found.append(caption_of(output))
        except RuntimeError as error:
            found.append(str(error))
    assert "the worker has ended" in found
    with pytest.raises(RuntimeError):
        generate(llm, prompt_of(pair, requests[0]), pair.spec.text.vocab_size)


def test_llm_arguments_that_it_refuses(classes: Fake, checkpoint: Path, llama: Path) -> None:
    from tensorrt_llm.llmapi import CudaGraphConfig

    with pytest.raises(TypeError, match="max_batchsize"):
        open_llm(checkpoint, max_batchsize=4)
    with pytest.raises(ValueError, match="only one"):
        open_llm(checkpoint, cuda_graph_config=CudaGraphConfig(batch_sizes=[1, 2], max_batch_size=2))
    with pytest.raises(ValueError, match="PyTorch flow"):
        open_llm(checkpoint, backend="tensorrt")
    with pytest.raises(TrapError, match="chunked"):
        open_llm(checkpoint, enable_chunked_prefill=True)
    with pytest.raises(TrapError, match="tokenizer"):
        open_llm(checkpoint, skip_tokenizer_init=False)


def test_a_prompt_over_max_num_tokens_is_refused(classes: Fake, checkpoint: Path, pair: Pair) -> None:
    (request,) = random_requests(pair, 1)
    with open_llm(checkpoint, max_num_tokens=20) as llm, pytest.raises(ValueError, match="max_num_tokens"):
        generate(llm, prompt_of(pair, request), pair.spec.text.vocab_size)


def test_classes_must_be_registered(fake: Fake, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
    with pytest.raises(ValueError, match="Unknown architecture for AutoModelForCausalLM: TestLlava"):
        open_llm(checkpoint)


def test_a_model_without_a_processor_takes_no_images(classes: Fake, llama: Path, pair: Pair) -> None:
    (request,) = random_requests(pair, 1)
    with open_llm(llama) as llm, pytest.raises(TrapError, match="DefaultInputProcessor"):
        generate(llm, prompt_of(pair, request), pair.spec.text.vocab_size)


def test_the_single_process_is_chosen_before_the_import(
    fake: Fake, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_classes()
    monkeypatch.setenv("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
    with pytest.raises(TrapError, match="was not 1 at the import"):
        open_llm(checkpoint)


def test_input_processors_have_all_that_is_abstract(fake: Fake) -> None:
    from tensorrt_llm.inputs.registry import BaseMultimodalInputProcessor, register_input_processor

    class Incomplete(BaseMultimodalInputProcessor):  # type: ignore[misc]
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete("path", None, None)
    with pytest.raises(ValueError, match="placeholder_metadata"):
        register_input_processor(Incomplete, model_type="x")


def test_the_llamas_forward_takes_no_multimodal_params(classes: Fake, llama: Path) -> None:
    from tensorrt_llm._torch.models.modeling_llama import LlamaForCausalLM

    with open_llm(llama) as llm:
        model = llm._behind._model
    assert type(model) is LlamaForCausalLM
    with pytest.raises(TypeError, match="take it out"):
        model.forward(None, torch.zeros(1, dtype=torch.int32), multimodal_params=["an image"])
    with pytest.raises(ValueError, match="either one"):
        model.forward(None)


def test_fuse_input_embeds(fake: Fake) -> None:
    from tensorrt_llm._torch.models.modeling_multimodal_utils import fuse_input_embeds

    words = torch.nn.Embedding(10, 4)
    ids = torch.tensor([3, 10, 11, 2])
    table = torch.randn(2, 4, dtype=torch.float64)
    none, rows = fuse_input_embeds(words, ids, [table[:1], table[1:]])
    assert none is None
    torch.testing.assert_close(rows, torch.stack([words.weight[3], *table.float(), words.weight[2]]))
    assert fuse_input_embeds(words, ids, []) == (ids, None)
    with pytest.raises(ValueError, match="Multimodal token count mismatch"):
        fuse_input_embeds(words, ids, [table, table])
