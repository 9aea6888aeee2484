"""What people give as a checkpoint that is none: the error says what to type instead."""

import json
from pathlib import Path

import pytest

from recap_fast.build.checkpoint import open_checkpoint
from recap_fast.build.checkpoint_folder import check_folder
from recap_fast.errors import ConfigError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        open_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("given", ["/models/name", "../org/name", "name", "a/b/c"])
def test_a_path_that_is_not_there(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    assert refusal(Path(given)) == (
        f"There is no folder {given}: --checkpoint takes the folder of a model, or its name on the Hugging Face Hub, "
        "ORG/NAME."
    )


def test_a_url_of_elsewhere_is_to_be_copied():
    assert refusal(Path("s3://bucket/model")).endswith(" Copy the files of a URL to a folder first.")


def test_a_file_of_weights_is_answered_with_its_folder(tmp_path):
    make(tmp_path, "config.json", "model-00001-of-00004.safetensors")
    text = refusal(tmp_path / "model-00001-of-00004.safetensors")
    assert text.endswith(f"is not a folder: give the folder of the model, --checkpoint {tmp_path}.")


def test_gguf_is_named_as_a_file_and_as_a_folder(tmp_path):
    make(tmp_path, "config.json", "llava-Q4_K_M.gguf", "mmproj.gguf")
    assert "is a GGUF file. GGUF is llama.cpp's format" in refusal(tmp_path / "mmproj.gguf")
    assert "has GGUF files only." in refusal(tmp_path)
    check_folder(make(tmp_path, "model.safetensors"))


@pytest.mark.parametrize("rest", [(), ("config.json", "non_lora_trainables.bin")])
def test_an_adapter_is_answered_with_how_to_merge_it(tmp_path, rest):
    make(tmp_path, "adapter_model.safetensors", "adapter_config.json", *rest)
    assert "added to the weights of BASE. Merge both" in refusal(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    text = refusal(tmp_path)
    assert ("scripts/merge_lora_weights.py" in text) == bool(rest)
    assert ("merge_and_unload().save_pretrained('merged')" in text) != bool(rest)
    assert "org/base" in text
    assert str(tmp_path) in text
    assert text.endswith("give --checkpoint merged.")
    check_folder(make(tmp_path, "config.json", "model.safetensors"))  # a whole model that has its adapter beside it


@pytest.mark.parametrize("given", ["hub", "hub/models--org--name", "hub/models--org--name/snapshots"])
def test_the_hub_s_cache_is_answered_with_the_snapshots_in_it(tmp_path, given):
    snapshot = "hub/models--org--name/snapshots/0a1b2c"
    make(tmp_path, f"{snapshot}/config.json", "hub/models--org--name/refs/main")
    text = refusal(tmp_path / given)
    assert text.endswith(f"there are models in it. Give one:\n  --checkpoint {tmp_path / snapshot}")
    check_folder(tmp_path / snapshot)


def test_a_folder_of_nothing_that_is_known(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path} has no config.json: it is no model, or its download is not complete."
    text = refusal(make(tmp_path, "config.json"))
    assert text == f"{tmp_path} has no *.safetensors: is it the folder of a model, and is the download complete?"


def test_a_folder_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", deny)
    assert refusal(tmp_path).startswith(f"{tmp_path} cannot be read: permission denied.")


def test_weights_that_may_not_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    make(tmp_path, "config.json", "model.safetensors")

    def deny(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)
    assert refusal(tmp_path).startswith(f"{tmp_path}/model.safetensors cannot be read: permission denied.")
