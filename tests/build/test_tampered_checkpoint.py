"""Nonsense in any place of a checkpoint's json files or of a recipe is a ConfigError, or works."""

import json
import re

import pytest
from support.tamper import NONSENSE, places, tampered

from inputs import checkpoints
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError
from recap_fast.generate.spec import EngineSpec

TEXT = {
    "rope_parameters": checkpoints.LLAMA31_ROPE,
    "head_dim": 16,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "eos_token_id": [1, 2],
}


LAYOUTS = ("hf4", "hf5", "original")


@pytest.fixture(scope="module", params=LAYOUTS)
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoints.make_checkpoint(folder, request.param, text=TEXT)
    generation = {"eos_token_id": [1, 2], "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        *((layout, name) for layout in LAYOUTS for name in ("config.json", "generation_config.json")),
        *((layout, "preprocessor_config.json") for layout in LAYOUTS if layout != "original"),
    ],
    indirect=["checkpoint"],
)
@pytest.mark.parametrize("label", NONSENSE)
def test_nonsense_in_any_place_is_refused_or_builds_an_engine(checkpoint, tmp_path, name, label):
    file = checkpoint / name
    whole = file.read_text()
    content, refusals = json.loads(whole), []
    try:
        for number, place in enumerate(places(content)):
            file.write_text(json.dumps(tampered(content, place, NONSENSE[label])))
            output = tmp_path / str(number)
            try:
                build_engine("llava", checkpoint, output)
            except ConfigError as error:
                refusals.append(str(error))
                assert not output.exists()
            else:
                EngineSpec.load(output)
    finally:
        file.write_text(whole)
    assert all(refusals)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            "text_config/hidden_size",
            "wide",
            "'text_config.hidden_size' must be an integer from 1 to 1048576, not",
        ),
        (
            "text_config/num_hidden_layers",
            0,
            "'text_config.num_hidden_layers' must be an integer from 1 to 1024, not",
        ),
        ("text_config/rms_norm_eps", "1e-5", "'text_config.rms_norm_eps' must be a number from 0.0 to 1.0, not '1e-5'"),
        ("text_config/vocab_size", None, "'text_config.vocab_size' must be an integer from 1 to 4194304, not None"),
        ("vision_config/image_size", -32, "'vision_config.image_size' must be an integer from 1 to 16384, not -32"),
        ("vision_config", 7, "'vision_config' must be a table, not 7"),
        ("model_type", ["llava"], "model_type ['llava'] (LlavaForConditionalGeneration) is not supported"),
    ],
)
def test_the_field_of_a_config_is_named(tmp_path, place, value, message):
    checkpoints.make_checkpoint(tmp_path / "c", "hf5")
    file = tmp_path / "c" / "config.json"
    file.write_text(json.dumps(tampered(json.loads(file.read_text()), tuple(place.split("/")), value)))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: {re.escape(message)}"):
        build_engine("llava", tmp_path / "c", tmp_path / "engine")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("</s>", "'eos_token_id' must be a list of integers from 0 to 4194303, not ['</s>']"),
        ([10**6], "Stop ids [1000000] are outside the vocabulary"),
        ([[1]], "'eos_token_id' must be a list of integers from 0 to 4194303, not [[1]]"),
    ],
)
def test_stop_ids_are_ids(tmp_path, value, message):
    checkpoints.make_checkpoint(tmp_path / "c", "hf4")
    (tmp_path / "c" / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_engine("llava", tmp_path / "c", tmp_path / "engine")
