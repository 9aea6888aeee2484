"""A LLaVA's language model as a plain Llama: what transformers reads of it is what it was."""

import tempfile

import pytest
import torch
from transformers import AutoModelForCausalLM

from inputs import checkpoints
from recap_fast.build.architecture import read_architecture
from recap_fast.build.checkpoint import open_checkpoint
from recap_fast.build.engine_directory import build_engine
from recap_fast.build.tensorrt_split import is_neutral, llama_config, neutral_folder, write_language_model
from recap_fast.errors import ConfigError
from recap_fast.generate.spec import EngineSpec


@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
@pytest.mark.parametrize("text", [{}, {"tie_word_embeddings": True}, {"rope_parameters": checkpoints.LLAMA31_ROPE}])
def test_transformers_gets_the_same_logits(layout, text, tmp_path):
    model = checkpoints.make_checkpoint(tmp_path / "checkpoint", layout, text=text).float()
    spec = build_engine("llava", tmp_path / "checkpoint", tmp_path / "engine", precision="float32")
    source = open_checkpoint(tmp_path / "checkpoint")
    write_language_model(tmp_path / "lm", spec, source, lambda done, total: None)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "lm", dtype=torch.float32).eval()
    assert type(plain).__name__ == "LlamaForCausalLM"
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        embeds = model.get_input_embeddings()(ids)
        wanted = model(inputs_embeds=embeds).logits
        assert torch.equal(plain(input_ids=ids).logits, wanted)


def test_the_config_is_in_transformers_4s_spelling(tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint", text={"rope_parameters": checkpoints.LLAMA31_ROPE})
    spec = build_engine("llava", tmp_path / "checkpoint", tmp_path / "engine", precision="bfloat16")
    config = llama_config(spec)
    assert (config["model_type"], config["torch_dtype"], config["rope_theta"]) == ("llama", "bfloat16", 500000.0)
    assert config["rope_scaling"]["factor"] == 8.0
    assert read_architecture(tmp_path / "checkpoint").text == EngineSpec.load(tmp_path / "engine").text


def test_a_neutral_folder_is_beside_the_output_where_it_can_be(tmp_path):
    with neutral_folder(tmp_path / "engine") as folder:
        assert folder.parent == tmp_path
        assert is_neutral(folder)
    assert not folder.exists()


def test_no_neutral_place_is_an_error(tmp_path, monkeypatch):
    place = tmp_path / "Avila"
    place.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(place))
    with pytest.raises(ConfigError, match="Set TMPDIR"), neutral_folder(tmp_path / "llava-7b" / "engine"):
        pass
