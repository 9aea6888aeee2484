"""The fake is as strict as its annotations, and its traps are those of the library."""

import importlib
import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.tensorrt_fake.package import CONTENTS
from support.tensorrt_fake.strict import TrapError

from recap_fast.build.checkpoint import open_checkpoint
from recap_fast.build.tensorrt_split import write_language_model

pytestmark = pytest.mark.usefixtures("gpu")
NUM_ROWS = 16


@pytest.fixture
def trt(fake):
    """The fake's modules by their last names."""
    return SimpleNamespace(**{name.rpartition(".")[2]: importlib.import_module(name) for name in CONTENTS})


@pytest.fixture
def llama(fake, pair, tmp_path):
    """A plain Llama's folder."""
    source = open_checkpoint(pair.folder.parent / "checkpoint")
    write_language_model(tmp_path / "lm", pair.spec, source, lambda done, total: None)
    return tmp_path / "lm"


@pytest.fixture
def open_executor(trt, build):
    """Opens an executor of four requests of 16 image tokens each; changes go to its configuration."""
    opened, folder = [], build() / "tensorrt_llm"

    def make(*, reuse=False, **changes):
        cache = trt.executor.KvCacheConfig(enable_block_reuse=reuse)
        config = trt.executor.ExecutorConfig(kv_cache_config=cache, **changes)
        opened.append(trt.executor.Executor(folder, trt.executor.ModelType.DECODER_ONLY, config))
        return opened[-1]

    yield make
    for each in opened:
        each.shutdown()


@pytest.fixture
def ask(trt, pair):
    """The response to one greedy request, or what the executor raises."""

    def make(running, table, *more_ids):
        image = range(pair.spec.text.vocab_size, pair.spec.text.vocab_size + len(table))
        tuning = trt.executor.PromptTuningConfig(table)
        running.enqueue_request(trt.executor.Request([1, *image, 2, *more_ids], 8, prompt_tuning_config=tuning))
        while not (found := running.await_responses(timeout=timedelta(seconds=1))):
            pass
        return found[0]

    return make


def table_of(rows=NUM_ROWS, width=64, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize(
    ("name", "without", "message"),
    [
        ("llava-llama3", None, "'llava' is in the path"),
        ("VILA-1.5", None, "'vila' is in the path"),
        ("lm", "rope_theta", "rope_theta"),
    ],
)
def test_what_the_library_would_take_for_something_else_is_a_trap(name, without, message, trt, llama):
    config = json.loads((llama / "config.json").read_text())
    config.pop(without, None)
    (llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrapError, match=message):
        trt.models.LLaMAForCausalLM.from_hugging_face(str(llama.rename(llama.with_name(name))))


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


def test_block_reuse_gives_another_images_caption(open_executor, ask):
    tables = table_of(seed=1), table_of(seed=2)
    alone, reusing = open_executor(), open_executor(reuse=True)
    truth = [ask(alone, table).result for table in tables]
    assert truth[0] != truth[1]
    assert [ask(reusing, table).result for table in tables] == [truth[0], truth[0]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (table_of(rows=NUM_ROWS + 1), "Prompt vocab size 17 is larger than max prompt vocab size 16."),
        (table_of().half(), "Request embedding table data type doesn't match model weight data type."),
        (table_of(width=32), "embedding table [16, 32]: expected [rows, 64]"),
    ],
)
def test_prompt_tables_of_another_size_type_or_shape_fail_their_request(table, message, open_executor, ask):
    assert ask(open_executor(), table).error_msg == message


def test_tables_in_pieces_chunked_context_and_ids_outside_the_table_are_traps(pair, open_executor, ask):
    with pytest.raises(RuntimeError, match="not contiguous"):
        ask(open_executor(), table_of(2 * NUM_ROWS)[::2])
    chunking = open_executor(enable_chunked_context=True)
    with pytest.raises(TrapError, match="chunked"):
        ask(chunking, table_of())
    assert not chunking.can_enqueue_requests()
    unknown = pair.spec.text.vocab_size + NUM_ROWS
    with pytest.raises(TrapError, match=f"id {unknown} "):
        ask(open_executor(), table_of(NUM_ROWS - 1), unknown)
