import hashlib
import zlib
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from inputs import checkpoints
from recap_fast.build import weights
from recap_fast.build.architecture import read_architecture
from recap_fast.build.checkpoint import open_checkpoint
from recap_fast.build.weights import check_sides, write_weights
from recap_fast.errors import ConfigError
from recap_fast.generate.layout import EIGHT_BITS


def convert(folder, precision):
    """The tensors that are written, with the file's hash and progress up to its end."""
    plan, out, calls = read_architecture(folder).plan(), folder / f"{precision}.out", []
    written = write_weights(out, plan, open_checkpoint(folder), precision, lambda *call: calls.append(call))
    assert written.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    found = load_file(out)
    data = {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in found.items()}
    assert written.checksums == {name: f"{zlib.crc32(content):08x}" for name, content in data.items()}
    total = sum(tensor.nbytes for tensor in found.values())
    assert calls == [(done, total) for done in sorted(done for done, _ in calls)]
    assert calls[-1] == (total, total)
    return found


def reference(model) -> dict[str, torch.Tensor]:
    """The engine's tensors, written out from the layout, out of transformers' model."""
    vision, text, projector = model.model.vision_tower, model.model.language_model, model.model.multi_modal_projector
    weights = {
        "vision.patch": vision.embeddings.patch_embedding.weight.flatten(1),
        "text.embed": text.embed_tokens.weight,
        "text.norm": text.norm.weight,
        "text.head": model.lm_head.weight,
    }
    modules = {"projector.0": projector.linear_1, "projector.1": projector.linear_2}
    modules |= {"vision.pre_norm": vision.pre_layrnorm}
    for i, layer in enumerate(vision.encoder.layers[:-1]):
        parts = {"norm1": layer.layer_norm1, "norm2": layer.layer_norm2, "out": layer.self_attn.out_proj}
        parts |= {"qkv": fused(layer.self_attn, "q_proj", "k_proj", "v_proj")}
        parts |= {"fc1": layer.mlp.fc1, "fc2": layer.mlp.fc2}
        modules |= {f"vision.layers.{i}.{name}": module for name, module in parts.items()}
    for i, layer in enumerate(text.layers):
        parts = {"norm1": layer.input_layernorm, "norm2": layer.post_attention_layernorm}
        parts |= {"qkv": fused(layer.self_attn, "q_proj", "k_proj", "v_proj"), "out": layer.self_attn.o_proj}
        parts |= {"gate_up": fused(layer.mlp, "gate_proj", "up_proj"), "down": layer.mlp.down_proj}
        weights |= {f"text.layers.{i}.{name}": module.weight for name, module in parts.items()}
    embeddings = vision.embeddings
    out = {"vision.class": embeddings.class_embedding, "vision.position": embeddings.position_embedding.weight}
    out |= {f"{name}.weight": tensor for name, tensor in weights.items()}
    out |= {f"{name}.{kind}": getattr(module, kind) for name, module in modules.items() for kind in ("weight", "bias")}
    return {name: tensor.detach() for name, tensor in out.items()}


def fused(module, *names) -> SimpleNamespace:
    """Its layers of these names, one below the other; text layers have no biases."""
    layers = [getattr(module, name) for name in names]
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return SimpleNamespace(weight=torch.cat([layer.weight for layer in layers]), bias=bias)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_tensors_are_those_of_the_model(tmp_path, monkeypatch, precision, chunk_bytes):
    monkeypatch.setattr(weights, "CHUNK_BYTES", chunk_bytes)
    expected = reference(checkpoints.make_checkpoint(tmp_path))
    found = convert(tmp_path, precision)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == getattr(torch, precision), name
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name


def test_tied_head_is_left_out(tmp_path):
    model = checkpoints.make_checkpoint(tmp_path, text={"tie_word_embeddings": True})
    assert convert(tmp_path, "float32").keys() == reference(model).keys() - {"text.head.weight"}


def test_projector_without_bias_has_zeros(tmp_path):
    checkpoints.make_checkpoint(tmp_path, llava={"multimodal_projector_bias": False})
    found = convert(tmp_path, "float32")
    assert found["projector.0.bias"].tolist() == found["projector.1.bias"].tolist() == [0.0] * 64


@pytest.mark.parametrize("precision", ["fp8", "int8"])
@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_eight_bits_are_for_linear_layers_of_the_language_model_only(tmp_path, monkeypatch, chunk_bytes, precision):
    monkeypatch.setattr(weights, "CHUNK_BYTES", chunk_bytes)
    dtype, largest = EIGHT_BITS[precision].dtype, 448 if precision == "fp8" else 127
    expected = reference(checkpoints.make_checkpoint(tmp_path))
    found = convert(tmp_path, precision)
    linear = {n for n in expected if n.startswith("text.layers.") and "norm" not in n}
    assert {n for n, t in found.items() if t.dtype == dtype} == linear
    for name in linear:
        scale = found[name.replace(".weight", ".scale")]
        assert scale.dtype == torch.float32
        assert torch.equal(scale, expected[name].abs().amax(1) / largest)
        error = (found[name].float() * scale[:, None] - expected[name]).abs()
        # e4m3 has 3 bits of mantissa: half a step is 1/16 of the value, and 2^-10 of the scale near zero
        steps = expected[name].abs() / 16 + scale[:, None] * 2**-10 if precision == "fp8" else scale[:, None] * 0.50001
        assert (error <= steps).all(), name
    for name in expected.keys() - linear:
        assert torch.equal(found[name], expected[name].bfloat16()), name


@pytest.mark.parametrize(
    ("precision", "inner", "multiple", "another"), [("fp8", 168, 16, "int8"), ("int8", 164, 8, "bfloat16")]
)
def test_eight_bits_need_sides_of_a_multiple(tmp_path, precision, inner, multiple, another):
    checkpoints.make_checkpoint(tmp_path, text={"intermediate_size": inner, "hidden_size": 64})
    plan = read_architecture(tmp_path).plan()
    check_sides(plan[:5], precision)
    check_sides(plan, another)
    message = rf"down.weight is \[64, {inner}\], and {precision} takes multiples of {multiple}. Use precision bfloat16"
    with pytest.raises(ConfigError, match=message):
        check_sides(plan, precision)


@pytest.mark.parametrize(
    ("value", "precision", "message"),
    [(float("nan"), "float32", "a weight is not finite"), (1e6, "float16", "a weight is too large for float16")],
)
def test_weights_that_cannot_be_kept_are_refused(tmp_path, change, value, precision, message):
    checkpoints.make_checkpoint(tmp_path, "hf4")
    change(tmp_path, {"language_model.model.norm.weight": torch.ones(64).index_fill(0, torch.tensor(3), value)})
    with pytest.raises(ConfigError, match=f"tensor language_model.model.norm.weight in .*: {message}"):
        convert(tmp_path, precision)


def test_a_disk_without_room_is_refused_before_a_weight_is_read(tmp_path, checkpoint, monkeypatch):
    plan, source = read_architecture(checkpoint).plan(), open_checkpoint(checkpoint)
    disk = SimpleNamespace(total=1 << 40, free=100 << 10)
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda folder: disk)
    with pytest.raises(ConfigError, match=r"The weights take 1 MiB, and \S+ has 0 MiB free: make room there"):
        write_weights(tmp_path / "w", plan, source, "float32")
    assert not (tmp_path / "w").exists()
    disk.total = disk.free = 0
    write_weights(tmp_path / "w", plan, source, "float32")
