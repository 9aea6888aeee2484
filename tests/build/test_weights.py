import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from inputs import checkpoints
from recap_fast.build import weights
from recap_fast.build.architecture import read_architecture
from recap_fast.build.checkpoint import open_checkpoint
from recap_fast.build.weights import check_sides, write_weights
from recap_fast.errors import ConfigError
from recap_fast.generate.layout import EIGHT_BITS


def convert(folder, precision, progress=lambda done, total: None):
    plan = read_architecture(folder).plan()
    out = folder / f"{precision}.out"
    digest = write_weights(out, plan, open_checkpoint(folder), precision, progress)
    assert digest == hashlib.sha256(out.read_bytes()).hexdigest()
    return load_file(out)


def reference(model) -> dict[str, torch.Tensor]:
    """The engine's tensors, written out from the layout, out of transformers' model."""
    vision, text, projector = model.model.vision_tower, model.model.language_model, model.model.multi_modal_projector
    out = {
        "vision.patch.weight": vision.embeddings.patch_embedding.weight.flatten(1),
        "vision.class": vision.embeddings.class_embedding,
        "vision.position": vision.embeddings.position_embedding.weight,
        "vision.pre_norm": vision.pre_layrnorm,
        "projector.0": projector.linear_1,
        "projector.1": projector.linear_2,
        "text.embed.weight": text.embed_tokens.weight,
        "text.norm.weight": text.norm.weight,
        "text.head.weight": model.lm_head.weight,
    }
    for i, layer in enumerate(vision.encoder.layers[:-1]):
        attention, name = layer.self_attn, f"vision.layers.{i}"
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        out |= {
            f"{name}.norm1": layer.layer_norm1,
            f"{name}.norm2": layer.layer_norm2,
            f"{name}.out": attention.out_proj,
        }
        out |= {f"{name}.fc1": layer.mlp.fc1, f"{name}.fc2": layer.mlp.fc2}
        out |= {f"{name}.qkv.{part}": torch.cat([getattr(p, part) for p in qkv]) for part in ("weight", "bias")}
    for i, layer in enumerate(text.layers):
        attention, mlp, name = layer.self_attn, layer.mlp, f"text.layers.{i}"
        qkv = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
        out |= {
            f"{name}.norm1.weight": layer.input_layernorm.weight,
            f"{name}.qkv.weight": torch.cat(qkv),
            f"{name}.out.weight": attention.o_proj.weight,
            f"{name}.norm2.weight": layer.post_attention_layernorm.weight,
            f"{name}.gate_up.weight": torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
            f"{name}.down.weight": mlp.down_proj.weight,
        }
    modules = {n: m for n, m in out.items() if isinstance(m, torch.nn.Module)}
    pairs = {f"{n}.{part}": getattr(m, part) for n, m in modules.items() for part in ("weight", "bias")}
    return {n: t.detach() for n, t in {**{n: t for n, t in out.items() if n not in modules}, **pairs}.items()}


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


@pytest.mark.parametrize(("precision", "inner", "multiple"), [("fp8", 168, 16), ("int8", 164, 8)])
def test_eight_bits_need_sides_of_a_multiple(tmp_path, precision, inner, multiple):
    checkpoints.make_checkpoint(tmp_path, text={"intermediate_size": inner, "hidden_size": 64})
    plan = read_architecture(tmp_path).plan()
    check_sides(plan[:5], precision)
    check_sides(plan, "bfloat16")
    message = rf"down.weight is \[64, {inner}\], and {precision} takes multiples of {multiple}. Use precision bfloat16"
    with pytest.raises(ConfigError, match=message):
        check_sides(plan, precision)


def test_int8_takes_sides_that_fp8_does_not(tmp_path):
    checkpoints.make_checkpoint(tmp_path, text={"intermediate_size": 168, "hidden_size": 64})
    check_sides(read_architecture(tmp_path).plan(), "int8")


@pytest.mark.parametrize(
    ("value", "precision", "message"),
    [(float("nan"), "float32", "a weight is not finite"), (1e6, "float16", "a weight is too large for float16")],
)
def test_weights_that_cannot_be_kept_are_refused(tmp_path, value, precision, message):
    checkpoints.make_checkpoint(tmp_path, "hf4")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["language_model.model.norm.weight"][3] = value
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=f"tensor language_model.model.norm.weight in .*: {message}"):
        convert(tmp_path, precision)


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_progress_reaches_the_end(tmp_path, precision):
    checkpoints.make_checkpoint(tmp_path)
    calls = []
    found = convert(tmp_path, precision, lambda done, total: calls.append((done, total)))
    total = sum(t.nbytes for t in found.values())
    assert {t for _, t in calls} == {total}
    assert [d for d, _ in calls] == sorted(d for d, _ in calls)
    assert calls[-1] == (total, total)
