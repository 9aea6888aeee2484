"""`build-engine --backend tensorrt-llm`: what TensorRT-LLM is told, what is written, what is refused."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.engines import caption_all
from support.tensorrt_fake import builder

from inputs import checkpoints
from inputs.oracle import random_requests
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tensorrt_backend.compatibility import Manifest

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"A photo of {i} red cubes on a table.\n" for i in range(40)))
    return path


def test_the_manifest_says_what_was_built(fake, pair, build):
    spec = EngineSpec.load(build())
    manifest, image = Manifest.parse(spec.backend_data), pair.spec.vision.num_image_tokens
    longest = len(pair.prompts.prefix_ids) + image + pair.spec.limits.max_text_tokens
    limits = manifest.limits
    assert (limits.max_batch_size, limits.max_prompt_embedding_table_size) == (4, 4 * image)
    assert (limits.max_input_len, limits.max_seq_len) == (longest, longest + 24)
    assert limits.max_num_tokens == 4 * (longest + 24) < 8192  # what `build` would lower it to
    assert (manifest.flow, manifest.gpu, manifest.sm) == ("trt", "NVIDIA H100 80GB HBM3", "9.0")
    assert manifest.versions["tensorrt_llm"] == "1.2.1"
    assert {"tensorrt", "modelopt"} <= manifest.versions.keys()
    assert manifest.vocab_size == manifest.fake_id_base == pair.spec.text.vocab_size
    assert (manifest.dtype, manifest.quant_algo, manifest.kv_cache_quant_algo) == ("float32", None, None)


def test_every_file_has_its_hash(fake, build):
    folder = build()
    files = EngineSpec.load(folder).files
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != "engine.json"}
    assert files == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}
    assert "weights.safetensors" in files


def test_vision_and_projector_are_those_of_the_torch_engine(fake, pair, build):
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (build(), pair.folder))
    assert ours.keys() == {name for name in theirs if not name.startswith("text.")}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("field", ["max_prompt_embedding_table_size", "max_batch_size", "gemm_plugin"])
def test_a_value_that_is_dropped_is_noticed(field, library, build, tmp_path):
    library(drop=(field,))
    with pytest.raises(EngineError, match=rf"{field} .* after it was set to"):
        build()
    assert not (tmp_path / "engine").exists()


def test_another_engine_than_was_asked_for_is_refused(fake, build, monkeypatch, tmp_path):
    save = builder.Engine.save

    def save_another(engine, engine_dir):
        limits = {**engine._config["build_config"], "max_seq_len": 7}
        save(dataclasses.replace(engine, _config={**engine._config, "build_config": limits}), engine_dir)

    monkeypatch.setattr(builder.Engine, "save", save_another)
    with pytest.raises(EngineError, match=r"built another engine: build_config\.max_seq_len is 7 where"):
        build()
    assert not (tmp_path / "engine").exists()


def test_the_path_that_tensorrt_llm_sees_is_neutral(fake, pair, tmp_path):
    output = tmp_path / "LLaVA-engines" / "vila"
    recipe = tmp_path / "small.toml"
    recipe.write_text('precision = "float32"\n[limits]\nmax_new_tokens = 8\nnum_slots = 2\n')
    build_engine(recipe, pair.folder.parent / "checkpoint", output, backend="tensorrt-llm")
    (call,) = fake.calls("LLaMAForCausalLM.from_hugging_face")
    assert "llava" not in call["hf_model_or_dir"].lower()
    assert "vila" not in call["hf_model_or_dir"].lower()
    assert call["dtype"] == "float32"
    assert sorted(p.name for p in output.iterdir()) == [
        "engine.json",
        "tensorrt_llm",
        "tokenizer.json",
        "weights.safetensors",
    ]


def test_plugins_have_the_models_16_bits(fake, build):
    build(precision="bfloat16")
    (call,) = fake.calls("build")
    plugins = call["build_config"].plugin_config
    assert (plugins.dtype, plugins.gemm_plugin) == ("bfloat16", "bfloat16")
    assert Path(call["build_config"].output_timing_cache).is_absolute()


@pytest.mark.parametrize("kv_precision", ["auto", "fp8"])
def test_fp8_is_calibrated_and_compiled(kv_precision, fake, pair, build, open_engine, captions):
    folder = build(precision="fp8", kv_precision=kv_precision, calibration=captions)
    kv_cache = "FP8" if kv_precision == "fp8" else None
    (call,) = fake.calls("LLaMAForCausalLM.quantize")
    config = call["quant_config"]
    assert (config.quant_algo, config.kv_cache_quant_algo) == ("FP8", kv_cache)
    assert (call["calib_batches"], call["dtype"]) == (40, "bfloat16")
    (built,) = fake.calls("build")
    assert built["build_config"].plugin_config.gemm_plugin is None
    manifest = Manifest.parse(EngineSpec.load(folder).backend_data)
    assert (manifest.quant_algo, manifest.kv_cache_quant_algo, manifest.dtype) == ("FP8", kv_cache, "bfloat16")
    assert len(manifest.calibration_sha256) == 64
    assert len(caption_all(open_engine(folder), random_requests(pair, 3))) == 3


@pytest.mark.parametrize(
    ("choices", "is_calibrated", "reason"),
    [
        ({"precision": "int8"}, False, "int8 is the torch backend's"),
        ({"precision": "fp8"}, False, "needs --calibration"),
        ({"kv_precision": "fp8"}, False, "use precision fp8 too"),
        ({}, True, "leave it out"),
    ],
)
def test_what_does_not_go_together_is_refused(choices, is_calibrated, reason, fake, build, captions):
    with pytest.raises(ConfigError, match=reason):
        build(**choices, calibration=captions if is_calibrated else None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            {"model_type": "qwen2"},
            "has biases of queries, keys and values, as Qwen2. With TensorRT-LLM, recap-fast compil",
        ),
        ({"model_type": "qwen3", "head_dim": 16}, "has norms of heads, as Qwen3"),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "has rotary positions of the kind 'linear'. .*Llama and Mistral, .* use --backend torch",
        ),
    ],
)
def test_other_decoders_than_llama_are_refused(text, message, fake, build, tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint", text=text)
    with pytest.raises(ConfigError, match=message):
        build(checkpoint=tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "text",
    [
        {"model_type": "mistral", "sliding_window": None},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ],
)
def test_mistral_is_a_llama(text, fake, build, open_engine, tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint", text=text)
    folder = build(checkpoint=tmp_path / "checkpoint")
    assert open_engine(folder).free_slots > 0


def test_fp8_needs_a_tokenizer_json(fake, pair, build, captions, tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint", tokenizer="tiktoken")
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        build(precision="fp8", calibration=captions, checkpoint=tmp_path / "checkpoint")


def test_calibration_is_not_for_torch(pair, captions, tmp_path):
    with pytest.raises(ConfigError, match="--backend tensorrt-llm"):
        build_engine("llava", pair.folder.parent / "checkpoint", tmp_path / "engine", calibration=captions)


def test_nothing_is_built_with_a_version_that_is_refused(library, build, tmp_path):
    library(version="1.2.0")
    with pytest.raises(ConfigError, match="corrupts its key-value cache"):
        build()
    assert not (tmp_path / "engine").exists()
