import json

import pytest
import torch
from safetensors.torch import load_file

from inputs import checkpoints
from recap_fast.build.architecture import read_architecture
from recap_fast.build.checkpoint import canonical_name, open_checkpoint
from recap_fast.build.weights import expected_shapes
from recap_fast.errors import ConfigError


def check(folder):
    architecture = read_architecture(folder)
    last = f"vision.encoder.layers.{architecture.num_vision_layers - 1}."
    open_checkpoint(folder).check(expected_shapes(architecture.plan()), [last])


@pytest.fixture
def folder(tmp_path):
    checkpoints.make_checkpoint(tmp_path, "hf4")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("model.embed_tokens.weight", "text.embed_tokens.weight"),
        ("language_model.model.norm.weight", "text.norm.weight"),
        ("model.language_model.norm.weight", "text.norm.weight"),
        ("lm_head.weight", "head.weight"),
        ("language_model.lm_head.weight", "head.weight"),
        ("model.mm_projector.2.bias", "projector.1.bias"),
        ("multi_modal_projector.linear_1.weight", "projector.0.weight"),
        ("model.multi_modal_projector.linear_2.weight", "projector.1.weight"),
        ("model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias", "vision.pre_layrnorm.bias"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "vision.pre_layrnorm.bias"),
        ("model.vision_tower.vision_model.pre_layrnorm.bias", "vision.pre_layrnorm.bias"),
        ("model.vision_tower.pre_layrnorm.bias", "vision.pre_layrnorm.bias"),
        ("vision_tower.pre_layrnorm.bias", "vision.pre_layrnorm.bias"),
        ("something.else", "something.else"),
    ],
)
def test_names_of_every_layout(name, ours):
    assert canonical_name(name) == ours


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 1 << 20])
def test_tensors_are_read_whole_in_pieces(folder, chunk_bytes):
    whole = load_file(folder / "model.safetensors")
    for source in open_checkpoint(folder).tensors.values():
        pieces = list(source.read(chunk_bytes))
        assert all(p.nbytes <= chunk_bytes or len(p) == 1 for p in pieces)
        assert torch.equal(torch.cat(pieces), whole[source.name])


def test_what_llava_does_not_read_may_be_there(folder, change):
    names = (
        "vision_tower.vision_model.embeddings.position_ids",
        "language_model.model.layers.1.self_attn.rotary_emb.inv_freq",
        "model.vision_tower.vision_tower.text_model.final_layer_norm.weight",
        "model.vision_tower.vision_tower.logit_scale",
    )
    change(folder, dict.fromkeys(names, torch.arange(17)[None]))
    check(folder)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("missing", "language_model.model.norm.weight"),
        ("missing", "vision_tower.vision_model.encoder.layers.2.mlp.fc1.bias"),
        ("missing", "multi_modal_projector.linear_2.bias"),
        ("missing", "language_model.lm_head.weight"),
        ("unexpected", "image_newline"),
        ("unexpected", "language_model.model.layers.2.mlp.up_proj.weight"),
        ("unexpected", "language_model.model.layers.0.self_attn.q_proj.bias"),
        ("unexpected", "vision_tower.vision_model.encoder.layers.4.mlp.fc1.bias"),
    ],
)
def test_missing_and_unexpected_tensors_are_named(folder, change, kind, name):
    change(folder, {name: None if kind == "missing" else torch.zeros(4)})
    with pytest.raises(ConfigError, match=f"1 {kind} tensor: {name}. The weights and config.json do not belong"):
        check(folder)


def test_misshapen_tensors_are_named(folder, change):
    change(folder, {"language_model.model.norm.weight": torch.zeros(63)})
    expected = r"1 misshapen tensor: language_model.model.norm.weight of shape \[63\] where config.json says \[64\]"
    with pytest.raises(ConfigError, match=expected):
        check(folder)


def test_many_wrong_tensors_are_counted(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"9 missing tensors: .* and 4 more"):
        check(folder)


def test_a_checkpoint_without_its_tower_says_so(folder, change):
    change(folder, {name: None for name in load_file(folder / "model.safetensors") if "vision" in name})
    with pytest.raises(ConfigError, match="has no weights of the vision tower"):
        check(folder)


def test_a_tensor_under_two_names_is_refused(folder, change):
    change(folder, {"model.language_model.norm.weight": torch.ones(64)})
    with pytest.raises(ConfigError, match="is in the checkpoint twice: also as "):
        open_checkpoint(folder)


def test_quantized_tensors_are_refused(folder, change):
    change(folder, {"language_model.model.norm.weight": torch.ones(64, dtype=torch.int8)})
    with pytest.raises(
        ConfigError, match=r"language_model.model.norm.weight in .* is I8, which is quantized. Give the checkpoint"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "weights.pt"])
def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path, name):
    torch.save({"lm_head.weight": torch.ones(2)}, tmp_path / name)
    with pytest.raises(
        ConfigError, match=rf"holds pickles \({name}\), which can run code.*torch.load\('FILE.bin', weights"
    ):
        open_checkpoint(tmp_path)


def test_damaged_and_incomplete_downloads_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"model.safetensors is damaged .* is the download complete\?"):
        open_checkpoint(folder)
    file.unlink()
    with pytest.raises(ConfigError, match=r"has no \*.safetensors"):
        open_checkpoint(folder)
    with pytest.raises(ConfigError, match=f"is not a folder: give the folder of the model, --checkpoint {folder}"):
        open_checkpoint(folder / "config.json")


def test_an_index_must_find_its_files(tmp_path):
    checkpoints.make_checkpoint(tmp_path, "hf4", num_files=3)
    assert len(open_checkpoint(tmp_path).files) == 3
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks model-00002-of-00003.safetensors, which model.safetensors.index"):
        open_checkpoint(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ConfigError, match=r"lacks ../a.safetensors"):
        open_checkpoint(tmp_path)
    for wrong, message in (
        ("{}", "'weight_map' must be a table, not None"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": ["b"]}}', r"'weight_map.a' must be a string, not \['b'\]"),
    ):
        index.write_text(wrong)
        with pytest.raises(ConfigError, match=message):
            open_checkpoint(tmp_path)
