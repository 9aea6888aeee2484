"""The fake is as strict as its annotations, its traps are those of the library, and it leaves nothing behind."""

import importlib
import importlib.metadata
import json
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.tensorrt_fake.package import CONTENTS, installed
from support.tensorrt_fake.strict import TrapError

from inputs.oracle import random_requests
from recap_fast.build.checkpoint import open_checkpoint
from recap_fast.build.tensorrt_split import write_language_model

pytestmark = pytest.mark.usefixtures("gpu")
NUM_ROWS = 16


@pytest.fixture
def trt(fake):
    """The fake's modules by their last names."""
    return SimpleNamespace(**{name.rpartition(".")[2]: importlib.import_module(name) for name in CONTENTS})


@pytest.fixture
def model_folder(fake, build):
    """A compiled language model for four requests of 16 image tokens each."""
    return build() / "tensorrt_llm"


@pytest.fixture
def llama(fake, pair, tmp_path):
    """A plain Llama's folder."""
    source = open_checkpoint(pair.folder.parent / "checkpoint")
    write_language_model(tmp_path / "lm", pair.spec, source, lambda done, total: None)
    return tmp_path / "lm"


@pytest.fixture
def open_executor():
    """Opens an executor; changes go to its configuration. All are shut down at the end."""
    opened = []

    def make(folder, *, reuse=False, **changes):
        from tensorrt_llm.bindings import executor

        config = executor.ExecutorConfig(kv_cache_config=executor.KvCacheConfig(enable_block_reuse=reuse), **changes)
        opened.append(executor.Executor(folder, executor.ModelType.DECODER_ONLY, config))
        return opened[-1]

    yield make
    for each in opened:
        each.shutdown()


def ask(running, pair, table, *, more_ids=(), **changes):
    """The response to one greedy request, or what the executor raises."""
    from tensorrt_llm.bindings import executor

    (request,) = random_requests(pair, 1)
    vocab_size = pair.spec.text.vocab_size
    image = range(vocab_size, vocab_size + len(table))
    ids = [*pair.prompts.prefix_ids.tolist(), *image, *request.text_ids.tolist(), *more_ids]
    values: dict[str, Any] = {
        "sampling_config": executor.SamplingConfig(top_k=1),
        "output_config": executor.OutputConfig(exclude_input_from_output=True),
        "prompt_tuning_config": executor.PromptTuningConfig(table),
    }
    running.enqueue_request(executor.Request(ids, 8, **{**values, **changes}))
    while not (found := running.await_responses(timeout=timedelta(seconds=1))):
        pass
    return found[0]


def tokens_of(response):
    return response.result.output_token_ids[0]


def make_table(pair, seed=0, rows=NUM_ROWS):
    return torch.randn(rows, pair.spec.text.hidden_size, generator=torch.Generator().manual_seed(seed))


def test_names_that_the_backend_does_not_use_are_not_there(fake):
    with pytest.raises(ImportError):
        from tensorrt_llm.builder import BuilderConfig  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        import tensorrt_llm.runtime  # noqa: F401


def test_unknown_keywords_and_missing_arguments_raise(trt):
    with pytest.raises(TypeError, match="top_kk"):
        trt.executor.SamplingConfig(top_kk=1)
    with pytest.raises(TypeError, match="max_tokens"):
        trt.executor.Request([1, 2])
    with pytest.raises(TypeError, match="positional"):
        trt.executor.Request([1, 2], 3, False)
    with pytest.raises(TypeError, match="max_multimodal_len"):
        trt.builder.BuildConfig(max_multimodal_len=576)
    with pytest.raises(TypeError, match="build_config"):
        trt.builder.build(None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_token_ids", np.array([1, 2], np.int32)),
        ("input_token_ids", [np.int32(1)]),
        ("input_token_ids", (1, 2)),
        ("max_tokens", np.int64(4)),
        ("max_tokens", 4.0),
        ("max_tokens", True),
        ("client_id", "7"),
        ("stop_words", [7]),
        ("prompt_tuning_config", torch.zeros(2, 2)),
        ("output_config", {}),
    ],
)
def test_values_of_another_type_raise(name, value, trt):
    arguments: dict[str, Any] = {"input_token_ids": [1, 2], "max_tokens": 4, name: value}
    with pytest.raises(TypeError, match=name):
        trt.executor.Request(**arguments)


def test_unknown_attributes_raise_and_defaults_are_objects_of_their_own(trt):
    first, second = trt.executor.ExecutorConfig(), trt.executor.ExecutorConfig()
    first.kv_cache_config.enable_block_reuse = False
    assert second.kv_cache_config.enable_block_reuse is True
    with pytest.raises(AttributeError):
        first.enable_chunked_prefill = False
    with pytest.raises(TypeError, match="max_batch_size"):
        first.max_batch_size = 4.0


def test_values_are_dropped_on_demand(library):
    library(drop=("max_num_tokens", "gemm_plugin"))
    from tensorrt_llm.builder import BuildConfig

    config = BuildConfig(max_num_tokens=1234, max_batch_size=7)
    config.plugin_config.gemm_plugin = "float16"
    assert (config.max_num_tokens, config.max_batch_size, config.plugin_config.gemm_plugin) == (8192, 7, None)


def test_nothing_stays_behind(tmp_path):
    before = list(sys.path)
    with installed(tmp_path / "site"):
        assert importlib.metadata.version("tensorrt-llm") == "1.2.1"
    assert sys.path == before
    assert not any(name.split(".")[0] == "tensorrt_llm" for name in sys.modules)


@pytest.mark.parametrize("name", ["llava-llama3", "VILA-1.5"])
def test_two_words_in_a_path_are_a_trap(name, trt, llama):
    with pytest.raises(TrapError, match="is in the path"):
        trt.models.LLaMAForCausalLM.from_hugging_face(str(llama.rename(llama.with_name(name))))


def test_a_config_without_rope_theta_is_a_trap(trt, llama):
    config = json.loads((llama / "config.json").read_text())
    del config["rope_theta"]
    (llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrapError, match="rope_theta"):
        trt.models.LLaMAForCausalLM.from_hugging_face(str(llama))


def test_a_second_build_of_one_model_is_a_trap(trt, llama):
    model = trt.models.LLaMAForCausalLM.from_hugging_face(str(llama))
    trt.builder.build(model, trt.builder.BuildConfig())
    with pytest.raises(TrapError, match="fresh"):
        trt.builder.build(model, trt.builder.BuildConfig())


def test_calibration_texts_that_would_be_fetched_are_a_trap(trt, llama, tmp_path):
    (tmp_path / "texts").mkdir()
    folders = str(llama), str(tmp_path / "fp8")
    config = trt.modeling_utils.QuantConfig(quant_algo=trt.quantization.QuantAlgo.FP8)
    with pytest.raises(OSError, match="no tokenizer"):
        trt.models.LLaMAForCausalLM.quantize(*folders, quant_config=config)
    (llama / "tokenizer.json").write_text("{}")
    with pytest.raises(TrapError, match="network"):
        trt.models.LLaMAForCausalLM.quantize(*folders, quant_config=config)
    with pytest.raises(TrapError, match="column 'text'"):
        trt.models.LLaMAForCausalLM.quantize(*folders, quant_config=config, calib_dataset=str(tmp_path / "texts"))


def test_an_engine_of_another_version_or_a_larger_batch_is_refused(model_folder, open_executor):
    with pytest.raises(RuntimeError, match="max_batch_size 5"):
        open_executor(model_folder, max_batch_size=5)
    path = model_folder / "config.json"
    path.write_text(path.read_text().replace("1.2.1", "1.2.0"))
    with pytest.raises(RuntimeError, match="engine of version"):
        open_executor(model_folder)


def test_block_reuse_gives_another_images_caption(model_folder, pair, open_executor):
    first, second = make_table(pair, 1), make_table(pair, 2)
    alone = open_executor(model_folder)
    truth = [tokens_of(ask(alone, pair, table)) for table in (first, second)]
    assert truth[0] != truth[1]
    reusing = open_executor(model_folder, reuse=True)
    assert [tokens_of(ask(reusing, pair, table)) for table in (first, second)] == [truth[0], truth[0]]


def test_the_prompt_is_in_the_output_unless_excluded(trt, model_folder, pair, open_executor):
    running, table = open_executor(model_folder), make_table(pair)
    whole = tokens_of(ask(running, pair, table, output_config=trt.executor.OutputConfig()))
    assert whole[-8:] == tokens_of(ask(running, pair, table))
    assert whole[: len(pair.prompts.prefix_ids)] == pair.prompts.prefix_ids.tolist()


def test_prompt_tables_of_another_shape_size_or_type_fail_their_request(trt, model_folder, pair, open_executor):
    running = open_executor(model_folder)
    response = ask(running, pair, make_table(pair, rows=NUM_ROWS + 1))
    assert response.error_msg == "Prompt vocab size 17 is larger than max prompt vocab size 16."
    with pytest.raises(RuntimeError, match="Cannot get result"):
        _ = response.result
    assert "data type doesn't match" in ask(running, pair, make_table(pair).half()).error_msg
    assert "embedding table [16, 32]" in ask(running, pair, make_table(pair)[:, :32].contiguous()).error_msg
    with pytest.raises(RuntimeError, match="not contiguous"):
        trt.executor.PromptTuningConfig(make_table(pair)[::2])


def test_captions_are_cut_where_the_sequence_ends(model_folder, pair, open_executor):
    path = model_folder / "config.json"
    content = json.loads(path.read_text())
    whole = tokens_of(ask(open_executor(model_folder), pair, make_table(pair)))
    prompt = len(pair.prompts.prefix_ids) + NUM_ROWS + len(random_requests(pair, 1)[0].text_ids)
    content["build_config"]["max_seq_len"] = prompt + 2
    path.write_text(json.dumps(content))
    assert tokens_of(ask(open_executor(model_folder), pair, make_table(pair))) == whole[:2]


def test_chunked_context_and_ids_outside_the_table_are_traps(model_folder, pair, open_executor):
    running = open_executor(model_folder, enable_chunked_context=True)
    with pytest.raises(TrapError, match="chunked"):
        ask(running, pair, make_table(pair))
    assert not running.can_enqueue_requests()
    unknown = pair.spec.text.vocab_size + NUM_ROWS
    with pytest.raises(TrapError, match=f"id {unknown} "):
        ask(open_executor(model_folder), pair, make_table(pair)[:-1], more_ids=[unknown])


def test_after_shutdown_nothing_is_taken(model_folder, pair, open_executor):
    running = open_executor(model_folder)
    running.shutdown()
    with pytest.raises(RuntimeError, match="Shutdown"):
        ask(running, pair, make_table(pair))


def test_answers_overtake_one_another_and_polls_are_empty(library, build, pair, open_executor):
    library(empty_polls=2)
    from tensorrt_llm.bindings import executor

    running = open_executor(build() / "tensorrt_llm")
    with running._changed:  # so that all four are in line before the first is answered
        for client_id in range(4):
            running.enqueue_request(executor.Request([1, 2, 3], 1, client_id=client_id))
    polls = []
    while sum(map(len, polls)) < 4:
        polls.append(running.await_responses(timeout=timedelta(seconds=5)))
    assert polls[:2] == [[], []]
    assert [r.client_id for poll in polls for r in poll] == [1, 0, 3, 2]
