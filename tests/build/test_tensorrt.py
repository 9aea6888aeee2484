"""`build-engine --backend tensorrt-llm`: what TensorRT-LLM is told, what is written, what is refused."""

import hashlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import checkpoints
from support.engines import caption_all, random_requests

from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tensorrt_backend.manifest import Manifest

pytestmark = pytest.mark.usefixtures("gpu")
FLOWS = ["trt", "pytorch"]


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"A photo of {i} red cubes on a table.\n" for i in range(40)))
    return path


def test_the_manifest_of_flow_trt(fake, pair, build):
    spec = EngineSpec.load(build("trt"))
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


@pytest.mark.parametrize("flow", FLOWS)
def test_every_file_has_its_hash(flow, fake, build):
    folder = build(flow)
    files = EngineSpec.load(folder).files
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != "engine.json"}
    assert files == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}
    assert "weights.safetensors" in files


@pytest.mark.parametrize("flow", FLOWS)
def test_vision_and_projector_are_those_of_the_torch_engine(flow, fake, pair, build):
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (build(flow), pair.folder))
    assert ours.keys() == {name for name in theirs if not name.startswith("text.")}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
@pytest.mark.parametrize("flow", FLOWS)
def test_every_layout_makes_the_same_captions(flow, layout, fake, pair, build, start, tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint", layout)
    requests = random_requests(pair, 3)
    done = caption_all(start(build(flow, checkpoint=tmp_path / "checkpoint")), requests)
    reference = pair.open()
    truth = caption_all(reference, requests)
    assert all(done[i].token_ids.tolist() == truth[i].token_ids.tolist() for i in truth)


@pytest.mark.parametrize("field", ["max_prompt_embedding_table_size", "max_batch_size", "gemm_plugin"])
def test_a_value_that_is_dropped_is_noticed(field, library, build, tmp_path):
    library(drop=(field,))
    with pytest.raises(EngineError, match=rf"{field} .* after it was set to"):
        build("trt")
    assert not (tmp_path / "engine-trt").exists()


def test_the_path_that_tensorrt_llm_sees_is_neutral(fake, pair, tmp_path):
    output = tmp_path / "LLaVA-engines" / "vila"
    recipe = tmp_path / "small.toml"
    recipe.write_text('precision = "float32"\n[limits]\nmax_new_tokens = 8\nnum_slots = 2\n')
    build_engine(recipe, pair.folder.parent / "checkpoint", output, backend="tensorrt-llm")
    (call,) = fake.calls("models.LLaMAForCausalLM.from_hugging_face")
    assert "llava" not in call["hf_model_or_dir"].lower()
    assert "vila" not in call["hf_model_or_dir"].lower()
    assert call["dtype"] == "float32"
    assert sorted(p.name for p in output.iterdir()) == [
        "engine.json",
        "tensorrt_llm",
        "tokenizer.json",
        "weights.safetensors",
    ]


def test_plugins_of_16_bits(fake, build):
    build("trt", precision="bfloat16")
    (call,) = fake.calls("builder.build")
    plugins = call["build_config"].plugin_config
    assert (plugins.dtype, plugins.gemm_plugin) == ("bfloat16", "bfloat16")
    assert Path(call["build_config"].output_timing_cache).is_absolute()


@pytest.mark.parametrize("kv_precision", ["auto", "fp8"])
def test_flow_trt_in_fp8(kv_precision, fake, pair, build, start, captions):
    folder = build("trt", precision="fp8", kv_precision=kv_precision, calibration=captions)
    kv_cache = "FP8" if kv_precision == "fp8" else None
    (call,) = fake.calls("models.LLaMAForCausalLM.quantize")
    config = call["quant_config"]
    assert (config.quant_algo, config.kv_cache_quant_algo) == ("FP8", kv_cache)
    assert (call["calib_batches"], call["dtype"]) == (40, "bfloat16")
    (built,) = fake.calls("builder.build")
    assert built["build_config"].plugin_config.gemm_plugin is None
    manifest = Manifest.parse(EngineSpec.load(folder).backend_data)
    assert (manifest.quant_algo, manifest.kv_cache_quant_algo, manifest.dtype) == ("FP8", kv_cache, "bfloat16")
    assert len(manifest.calibration_sha256) == 64
    assert len(caption_all(start(folder), random_requests(pair, 3))) == 3


def fake_modelopt(seen):
    """modelopt 0.37 as far as it is called: it exports what it was given, and says FP8."""

    def quantize(model, config, forward_loop=None):
        assert config == "FP8_DEFAULT_CFG"
        forward_loop(lambda **given: seen.append(given["input_ids"]))
        return model

    def export_hf_checkpoint(model, dtype=None, export_dir=None, save_modelopt_state=False):
        model.save_pretrained(export_dir)
        quantization = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
        (export_dir / "hf_quant_config.json").write_text(json.dumps(quantization))

    made = {name: types.ModuleType(name) for name in ("modelopt", "modelopt.torch")}
    made["modelopt.torch.quantization"] = types.SimpleNamespace(quantize=quantize, FP8_DEFAULT_CFG="FP8_DEFAULT_CFG")
    made["modelopt.torch.export"] = types.SimpleNamespace(export_hf_checkpoint=export_hf_checkpoint)
    made["modelopt.torch"].quantization = made["modelopt.torch.quantization"]
    return made


def test_flow_pytorch_in_fp8(fake, pair, build, captions, monkeypatch):
    seen = []
    for name, module in fake_modelopt(seen).items():
        monkeypatch.setitem(sys.modules, name, module)
    folder = build("pytorch", precision="fp8", kv_precision="fp8", calibration=captions)
    assert len(seen) == 40
    start_ids = np.concatenate([pair.prompts.prefix_ids, pair.prompts.text_ids({})[0]])
    assert all(ids[0, : len(start_ids)].tolist() == start_ids.tolist() for ids in seen)
    assert all(ids.shape[1] > len(start_ids) for ids in seen)
    manifest = Manifest.parse(EngineSpec.load(folder).backend_data)
    assert (manifest.quant_algo, manifest.kv_cache_quant_algo) == ("FP8", "FP8")
    model = folder / "tensorrt_llm"
    assert json.loads((model / "config.json").read_text())["architectures"] == ["RecapLlavaForCausalLM"]
    assert (model / "hf_quant_config.json").is_file()


def test_fp8_without_modelopt_says_so(fake, build, captions, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization", None)
    with pytest.raises(ConfigError, match="needs nvidia-modelopt"):
        build("pytorch", precision="fp8", calibration=captions)


@pytest.mark.parametrize(
    ("flow", "choices", "reason"),
    [
        ("trt", {"precision": "int8"}, "int8 is the torch backend's"),
        ("trt", {"precision": "fp8"}, "needs --calibration"),
        ("pytorch", {"precision": "fp8"}, "needs --calibration"),
        ("trt", {"kv_precision": "fp8"}, "kv_precision fp8 in flow trt"),
    ],
)
def test_what_does_not_go_together_is_refused(flow, choices, reason, fake, build):
    with pytest.raises(ConfigError, match=reason):
        build(flow, **choices)


def test_calibration_is_for_fp8(fake, build, captions):
    with pytest.raises(ConfigError, match="leave it out"):
        build("trt", calibration=captions)


def test_fp8_of_flow_trt_needs_a_tokenizer_json(fake, pair, build, captions, tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint", tokenizer="tiktoken")
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        build("trt", precision="fp8", calibration=captions, checkpoint=tmp_path / "checkpoint")


def test_flow_and_calibration_are_not_for_torch(pair, tmp_path):
    with pytest.raises(ConfigError, match="--backend tensorrt-llm"):
        build_engine("llava", pair.folder.parent / "checkpoint", tmp_path / "engine", flow="trt")


def test_nothing_is_built_with_a_version_that_is_refused(library, build, tmp_path):
    library(version="1.2.0")
    with pytest.raises(ConfigError, match="corrupts its key-value cache"):
        build("trt")
    assert not (tmp_path / "engine-trt").exists()
