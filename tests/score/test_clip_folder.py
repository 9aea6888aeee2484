"""Which folders are models, and what is said of those that are none."""

import json

import pytest
from safetensors.torch import load_file, save_file

from inputs.clips import make_clip
from recap_fast.errors import ConfigError
from recap_fast.score.clip_folder import ClipFolder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "model", hidden_size=64, num_layers=1)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy whose files may be changed."""
    made = tmp_path / "model"
    made.mkdir()
    for file in whole.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    return made


def refusal(path):
    with pytest.raises(ConfigError) as refused:
        ClipFolder.open(path)
    return str(refused.value)


def change(folder, name, **changes):
    content = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps(content))


def test_what_config_says(folder):
    found = ClipFolder.open(folder)
    assert (found.name, found.model_type, found.num_tokens) == ("model", "clip", 77)
    assert (found.preprocess.image_size, found.preprocess.mode) == (112, "crop")


def test_what_config_leaves_out_is_clips(folder):
    change(
        folder, "config.json", text_config={"hidden_size": 64}, vision_config={"hidden_size": 64, "image_size": None}
    )
    change(folder, "preprocessor_config.json", size={"shortest_edge": 224}, crop_size=224)
    found = ClipFolder.open(folder)
    assert (found.num_tokens, found.preprocess.image_size) == (77, 224)


def test_a_name_on_the_hub_is_answered_with_its_download(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    text = refusal(Path("openai/clip-vit-large-patch14"))
    assert text.startswith("There is no folder openai/clip-vit-large-patch14: --model takes the folder of a CLIP")
    assert "\n  hf download openai/clip-vit-large-patch14 --local-dir clip-vit-large-patch14\n" in text
    assert text.endswith("and give --model clip-vit-large-patch14.")


def test_a_file_is_answered_with_its_folder(folder):
    assert refusal(folder / "model.safetensors").endswith(f"give the folder of the model, --model {folder}.")


def test_a_folder_that_is_no_model(tmp_path):
    assert refusal(tmp_path).endswith("has no config.json: --model takes a folder in the layout of transformers.")


def test_pickles_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    text = refusal(folder)
    assert "pytorch_model.bin may run any program when it is loaded, so it is not read." in text
    (folder / "pytorch_model.bin").unlink()
    assert refusal(folder).endswith("has no model.safetensors. Download it with the other files of the model.")


@pytest.mark.parametrize(
    ("model_type", "advice"),
    [
        ("llava", "expected 'clip' or 'siglip': --model takes a CLIP, LongCLIP or SigLIP."),
        ("siglip2", "such as google/siglip2-base-patch16-224."),
        ("clip_text_model", "one half of a model. Scores need both: take the whole model."),
        (None, "'model_type' is None, expected 'clip' or 'siglip'"),
    ],
)
def test_other_models_are_refused_by_their_type(folder, model_type, advice):
    change(folder, "config.json", model_type=model_type)
    assert advice in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": 3}, "'text_config' must be a table, not 3"),
        ({"text_config": {"max_position_embeddings": 0}}, "'text_config.max_position_embeddings' must be an integer"),
        ({"vision_config": {"image_size": "big"}}, "'vision_config.image_size' must be an integer"),
        ({"vision_config": {"image_size": 224}}, "size .* is not the vision tower's image size, 224"),
    ],
)
def test_damaged_configurations_are_refused(folder, changes, message):
    change(folder, "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        ClipFolder.open(folder)


def test_filters_that_no_decoder_has_are_refused(folder):
    change(folder, "preprocessor_config.json", resample=0)
    assert "resample 0 (nearest) is not supported" in refusal(folder)


def test_files_that_are_missing_are_named(folder):
    tokenizer = (folder / "tokenizer.json"), (folder / "tokenizer_config.json")
    for path in tokenizer:
        path.unlink()
    assert "has no tokenizer.json: download it" in refusal(folder)


def test_a_siglip_needs_its_preprocessing(tmp_path):
    made = make_clip(tmp_path / "m", "siglip", tokens=64, image_size=96, hidden_size=64, num_layers=1)
    assert ClipFolder.open(made).preprocess.mode == "stretch"
    (made / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json: download it" in refusal(made)


def test_weights_in_several_files(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {"a.safetensors": sorted(tensors)[::2], "b.safetensors": sorted(tensors)[1::2]}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = ClipFolder.open(folder)
    assert found.weight_files() == ["a.safetensors", "b.safetensors"]
    assert {"a.safetensors", "b.safetensors", "config.json", "tokenizer.json"} <= {*found.digests()}
    (folder / "b.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"names 'b.safetensors', which is not in the folder"):
        found.weight_files()


@pytest.mark.parametrize("weight_map", [None, {}, {"x": "../a.safetensors"}, {"x": 3}])
def test_an_index_that_leads_nowhere_is_refused(folder, weight_map):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ConfigError, match=r"index\.json names"):
        ClipFolder.open(folder).weight_files()


def test_digests_change_with_the_weights(folder):
    before = ClipFolder.open(folder).digests()
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    after = ClipFolder.open(folder).digests()
    assert {name for name in before if before[name] != after[name]} == {"model.safetensors"}
