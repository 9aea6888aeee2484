"""Loading a model and its tokenizer; the features themselves are compared in test_clip.py."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from inputs.clips import make_clip
from recap_fast.errors import ConfigError, EngineError
from recap_fast.score.clip_folder import ClipFolder
from recap_fast.score.clip_model import MAX_CHARACTERS, ClipModel

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return make_clip(tmp_path / "model", hidden_size=64, num_layers=1)


def open_model(folder, precision="float32"):
    return ClipModel(ClipFolder.open(folder), CPU, precision)


def test_tokens_end_with_the_end_mark_even_where_they_are_cut(folder):
    model = open_model(folder)
    short, long, longer = model.tokenize(["a red circle", "a red circle " * 40, "a" * (MAX_CHARACTERS + 1)])
    assert (len(short[0]), short[1]) == (5, False)
    assert (len(long[0]), long[1]) == (77, True)
    assert longer[1]
    assert {ids[-1] for ids, _ in (short, long, longer)} == {short[0][-1]}
    assert model.tokenize([]) == []


def test_a_text_that_fits_exactly_is_not_cut(folder):
    model = open_model(folder)
    ((ids, cut),) = model.tokenize([" ".join(["red"] * 75)])
    assert (len(ids), cut) == (77, False)
    ((ids, cut),) = model.tokenize([" ".join(["red"] * 76)])
    assert (len(ids), cut) == (77, True)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_other_precisions_are_near(folder, precision):
    pixels = torch.randint(0, 256, (4, 3, 112, 112), dtype=torch.uint8)
    exact, near = (open_model(folder, each).image_features(pixels) for each in ("float32", precision))
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert torch.cosine_similarity(exact, near).min() > 0.999


@pytest.mark.parametrize(("name", "value"), [("eos_token_id", 77_777), ("vocab_size", 3)])
def test_the_tokenizer_of_another_model_is_refused(folder, name, value):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    if name == "vocab_size":
        tensors = load_file(folder / "model.safetensors")
        tensors["text_model.embeddings.token_embedding.weight"] = torch.zeros(3, 64)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="its tokenizer is not the one of this model"):
        open_model(folder)


def test_a_tokenizer_without_its_words_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"a": 0}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ConfigError, match="transformers cannot load"):
        open_model(folder)


def test_weights_that_are_missing_are_not_made_up(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ConfigError, match=r"1 weights are missing or of another shape, such as text_projection\.weight"
    ):
        open_model(folder)


def test_weights_of_another_shape_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["text_projection.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"text_projection\.weight|cannot load"):
        open_model(folder)


def test_files_that_are_damaged_are_one_sentence(folder):
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match=r"transformers cannot load .*model \(.*\): download its files again\."):
        open_model(folder)


def test_a_tokenizer_with_code_of_its_own_is_not_run(folder):
    change = json.loads((folder / "tokenizer_config.json").read_text())
    change["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(change))
    (folder / "evil.py").write_text("raise SystemExit('it was run')\n")
    assert open_model(folder).tokenize(["red"])


def test_without_transformers_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'recap-fast\[score\]'"):
        open_model(folder)


def test_a_batch_that_does_not_fit_is_an_engine_error(folder, monkeypatch):
    model = open_model(folder)

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("recap_fast.score.clip_tower.Tower.read", fail)
    with pytest.raises(EngineError, match="give a smaller --batch-size"):
        model.text_features([[1, 2]])
