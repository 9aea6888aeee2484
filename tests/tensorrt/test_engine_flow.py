"""The fake's compiled flow, until the engine is on disk: what it reads and refuses, and what it writes.

Nothing here shows anything about the real library; see trtllm_fake.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import Pair, random_requests
from trtllm_fake.callers import await_all, make_request, open_executor, prompt_of, tokens_of
from trtllm_fake.llama import TrapError
from trtllm_fake.package import Fake
from trtllm_fake.plain_llama import write_plain_llama

NUM_ROWS = 16
CALIBRATION = '{"text": "a red square"}\n{"text": "two circles"}\n'


@pytest.mark.parametrize("name", ["llava-llama3", "VILA-1.5", "a/my-llava/b"])
def test_two_words_change_what_is_read(fake: Fake, llama: Path, name: str) -> None:
    from tensorrt_llm.models import LLaMAForCausalLM

    with pytest.raises(TrapError, match="is in the path"):
        LLaMAForCausalLM.from_hugging_face(str(llama / name))


def test_a_config_without_rope_theta_is_refused(fake: Fake, llama: Path, tmp_path: Path) -> None:
    from tensorrt_llm.models import LLaMAForCausalLM

    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "rope_theta"}))
    neutral = tmp_path.rename(tmp_path.parent / "neutral")
    with pytest.raises(TrapError, match="rope_theta"):
        LLaMAForCausalLM.from_hugging_face(str(neutral))
    neutral.rename(tmp_path)


def test_a_model_is_built_once(fake: Fake, llama: Path) -> None:
    from tensorrt_llm.builder import BuildConfig, build
    from tensorrt_llm.models import LLaMAForCausalLM

    model = LLaMAForCausalLM.from_hugging_face(str(llama))
    build(model, BuildConfig(max_seq_len=1024))
    with pytest.raises(TrapError, match="fresh"):
        build(model, BuildConfig(max_seq_len=1024))


def test_an_engines_config_holds_what_was_built(engine: Path, fake: Fake, pair: Pair) -> None:
    content = json.loads((engine / "config.json").read_text())
    assert content["version"] == "1.2.1"
    assert content["pretrained_config"]["vocab_size"] == pair.spec.text.vocab_size
    assert content["pretrained_config"]["dtype"] == "float32"
    assert content["build_config"]["max_prompt_embedding_table_size"] == 4 * NUM_ROWS
    assert content["build_config"]["plugin_config"]["gemm_plugin"] is None
    assert {p.name for p in engine.iterdir()} == {"config.json", "rank0.engine"}


def test_an_engine_of_another_version_or_a_larger_batch_is_refused(engine: Path) -> None:
    with pytest.raises(RuntimeError, match="max_batch_size 5"):
        open_executor(engine, max_batch_size=5)
    path = engine / "config.json"
    path.write_text(path.read_text().replace("1.2.1", "1.2.0"))
    with pytest.raises(RuntimeError, match="engine of version"):
        open_executor(engine)


def test_fp8_needs_a_tokenizer_and_local_texts(fake: Fake, llama: Path, pair: Pair, tmp_path: Path) -> None:
    from tensorrt_llm.builder import BuildConfig, build
    from tensorrt_llm.llmapi import QuantAlgo, QuantConfig
    from tensorrt_llm.models import LLaMAForCausalLM

    config = QuantConfig(quant_algo=QuantAlgo.FP8, kv_cache_quant_algo=QuantAlgo.FP8)
    source = write_plain_llama(pair.model, tmp_path / "lm")
    texts = tmp_path / "texts"
    texts.mkdir()

    def quantize(**changes: Any) -> None:
        values = {"quant_config": config, "calib_dataset": str(texts), **changes}
        LLaMAForCausalLM.quantize(str(source), str(tmp_path / "fp8"), **values)

    with pytest.raises(OSError, match="no tokenizer"):
        quantize()
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(TrapError, match="column 'text'"):
        quantize()
    (texts / "train.jsonl").write_text(CALIBRATION)
    with pytest.raises(ValueError, match="needs no calibration"):
        quantize(quant_config=QuantConfig())
    with pytest.raises(TrapError, match="network"):
        LLaMAForCausalLM.quantize(str(source), str(tmp_path / "fp8"), quant_config=config)
    quantize()
    model = LLaMAForCausalLM.from_checkpoint(str(tmp_path / "fp8"))
    limits = {"max_batch_size": 4, "max_input_len": 256, "max_seq_len": 320, "max_num_tokens": 1024}
    build(model, BuildConfig(max_prompt_embedding_table_size=64, **limits)).save(str(tmp_path / "engine"))
    content = json.loads((tmp_path / "engine" / "config.json").read_text())
    assert content["pretrained_config"]["quantization"] == {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    (request,) = random_requests(pair, 1)
    with open_executor(tmp_path / "engine") as running:
        running.enqueue_request(make_request(prompt_of(pair, request), pair.spec.text.vocab_size))
        assert len(tokens_of(await_all(running, 1)[0])) == 24


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_types_run_too(fake: Fake, llama: Path, pair: Pair, tmp_path: Path, dtype: str) -> None:
    from tensorrt_llm.builder import BuildConfig, build
    from tensorrt_llm.models import LLaMAForCausalLM

    model = LLaMAForCausalLM.from_hugging_face(str(llama), dtype=dtype)
    config = BuildConfig(max_batch_size=1, max_input_len=256, max_seq_len=320, max_prompt_embedding_table_size=NUM_ROWS)
    config.plugin_config.gemm_plugin = dtype
    build(model, config).save(str(tmp_path / "engine"))
    (request,) = random_requests(pair, 1)
    before, after, table, most = prompt_of(pair, request)
    prompt = (before, after, table.to(getattr(torch, dtype)), most)
    with open_executor(tmp_path / "engine") as running:
        running.enqueue_request(make_request(prompt, pair.spec.text.vocab_size))
        assert len(tokens_of(await_all(running, 1)[0])) == most
