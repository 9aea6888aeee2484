"""Models of the Hub: what is downloaded of them, what engine.json says of it, and what is said where they cannot be
had."""

import dataclasses
import hashlib
import importlib
import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.model_hub import TOKEN, Model, ModelHub

from inputs import checkpoints, vocabularies
from recap_fast.build import hub as door
from recap_fast.build import model_files
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError

NAME = "org/small-llava"
OTHER_FILES = {
    "README.md": b"# Small",
    "pytorch_model.bin": b"a pickle",
    "original/consolidated.00.pth": b"a pickle",
    "checkpoint-1/model.safetensors": b"of an earlier step",
}


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A ModelHub, to which huggingface_hub speaks without Xet, with its token and a cache of its own."""
    from huggingface_hub import constants

    with ModelHub() as fake:
        files = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", fake.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.endpoint + files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        yield fake


@pytest.fixture
def offline(monkeypatch):
    """Makes the library think that HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def publish(service: ModelHub, tmp_path: Path, **options) -> Model:
    checkpoints.make_checkpoint(tmp_path / "made", **options)
    model = service.models[NAME] = Model()
    model.commit(files_of(tmp_path / "made") | OTHER_FILES)
    return model


def build(tmp_path: Path, checkpoint: str = NAME, **options):
    return build_engine("llava", checkpoint, tmp_path / "engine", overwrite=True, **options)


def refusal(tmp_path: Path, checkpoint: str = NAME, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        build(tmp_path, checkpoint, **options)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("num_files", [1, 3])
def test_the_engine_is_that_of_the_folder(service, tmp_path, num_files):
    model = publish(service, tmp_path, num_files=num_files)
    commit = model.names["main"]
    spec = build(tmp_path)
    weights = files_of(tmp_path / "engine")["weights.safetensors"]
    of_folder = build(tmp_path, str(tmp_path / "made"))
    assert files_of(tmp_path / "engine")["weights.safetensors"] == weights
    assert spec.name == "small-llava"
    assert dataclasses.replace(spec, sources={}, name="made") == dataclasses.replace(of_folder, sources={})
    origin = {"repository": NAME, "revision": commit}
    assert spec.sources["checkpoint"] == {**origin, "files": of_folder.sources["checkpoint"]["files"]}
    tokenizer = of_folder.sources["tokenizer"]["sha256"]
    assert spec.sources["tokenizer"] == {**origin, "file": "tokenizer.json", "sha256": tokenizer}
    assert str(tmp_path) not in str(spec.sources)


def test_what_is_not_read_is_not_downloaded(service, tmp_path):
    model = publish(service, tmp_path, num_files=2)
    model.commit(model.commits[model.names["main"]] | {"consolidated.safetensors": b"the same weights once more"})
    build(tmp_path)
    assert sorted(service.sent) == sorted(files_of(tmp_path / "made"))
    build(tmp_path)
    assert len(service.sent) == len(files_of(tmp_path / "made"))


def test_a_revision_is_a_branch_a_tag_or_a_commit(service, tmp_path):
    model = publish(service, tmp_path)
    first = model.names["main"]
    model.names["refs/pr/6"] = first
    second = model.commit(model.commits[first] | {"README.md": b"# New"})
    found = {name: build(tmp_path, name).sources["checkpoint"]["revision"] for name in (NAME, f"{NAME}@{first}")}
    assert found == {NAME: second, f"{NAME}@{first}": first}
    page = f"https://huggingface.co/{NAME}/tree/refs%2Fpr%2F6"
    assert build(tmp_path, page).sources["checkpoint"]["revision"] == first
    assert "has no revision 'v9'" in refusal(tmp_path, f"{NAME}@v9")


def test_a_folder_of_the_name_wins(service, tmp_path):
    publish(service, tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "made").rename(tmp_path / NAME)
    assert build(tmp_path).sources["checkpoint"]["folder"] == str(tmp_path / NAME)
    assert service.sent == []
    shutil.rmtree(tmp_path / NAME)
    (tmp_path / NAME).mkdir()
    page = f"https://huggingface.co/{NAME}"
    assert refusal(tmp_path).endswith(f"If the model on the Hub is meant, remove this folder, or give {page}.")
    assert build(tmp_path, page).sources["checkpoint"]["repository"] == NAME


def test_offline_the_cache_will_do(service, offline, tmp_path):
    publish(service, tmp_path)
    online = build(tmp_path)
    offline()
    assert build(tmp_path) == online
    shutil.rmtree(tmp_path / "cache")
    text = refusal(tmp_path)
    assert text.startswith(f"--checkpoint {NAME} cannot be downloaded: HF_HUB_OFFLINE is set, and not all of its files")


def test_offline_a_tokenizer_in_the_cache_is_no_checkpoint(service, offline, tmp_path):
    publish(service, tmp_path)
    build(tmp_path, str(tmp_path / "made"), tokenizer=NAME)
    offline()
    refusal(tmp_path)


def test_a_hub_that_does_not_answer(service, tmp_path, monkeypatch):
    from huggingface_hub import constants

    publish(service, tmp_path)
    online = build(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert build(tmp_path) == online
    text = refusal(tmp_path, "org/another")
    assert text.startswith("--checkpoint org/another cannot be downloaded: the Hub does not answer ([Errno 111] ")
    assert text.endswith("Run the same command again to go on.")


def test_a_tokenizer_is_downloaded_alone(service, tmp_path):
    (tmp_path / "vocabulary").mkdir()
    vocabularies.write_tokenizer(tmp_path / "vocabulary", "byte_level")
    service.models["org/words"] = Model()
    files = {**files_of(tmp_path / "vocabulary"), "model.safetensors": b"weights", "config.json": b"{}"}
    commit = service.models["org/words"].commit(files)
    checkpoints.make_checkpoint(tmp_path / "made", "original", tokenizer=None)
    spec = build(tmp_path, str(tmp_path / "made"), tokenizer="org/words")
    sha256 = hashlib.sha256(files["tokenizer.json"]).hexdigest()
    expected = {"repository": "org/words", "revision": commit, "file": "tokenizer.json", "sha256": sha256}
    assert spec.sources["tokenizer"] == expected
    assert service.sent == ["tokenizer.json"]
    service.models["org/none"] = Model()
    service.models["org/none"].commit({"config.json": b"{}"})
    text = refusal(tmp_path, str(tmp_path / "made"), tokenizer="org/none")
    assert text.startswith("--tokenizer org/none: there is no tokenizer.json or tokenizer.model.")


def test_who_may_not_have_it_is_told_what_to_do(service, tmp_path, monkeypatch):
    publish(service, tmp_path).is_gated = True
    text = refusal(tmp_path)
    assert text.startswith(f"--checkpoint {NAME} cannot be downloaded: its license has to be accepted first.")
    assert f"https://huggingface.co/{NAME}" in text
    assert "no such folder here, and no such model on the Hub." in refusal(tmp_path, "org/nowhere")
    assert "it can be no name on the Hub" in refusal(tmp_path, "org/a--b")
    monkeypatch.setenv("HF_TOKEN", "hf_AnotherToken")
    assert "the Hub refuses the token." in refusal(tmp_path)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"tokenizer.json": b"{}"}, f"{NAME} has no config.json: it is no model, or its download is not complete."),
        ({"config.json": b"{}", "q4.gguf": b""}, f"{NAME} has GGUF files only."),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, f"{NAME} holds pickles (pytorch_model.bin)"),
        (
            {"adapter_config.json": b'{"base_model_name_or_path": "org/base"}', "adapter_model.safetensors": b""},
            f"{NAME} is an adapter (LoRA), which holds what was added to the weights of org/base.",
        ),
        ({"config.json": b'{"model_type": "llava_next"}', "model.safetensors": b""}, "model_type 'llava_next'"),
    ],
)
def test_what_cannot_run_is_refused_before_its_weights_are_downloaded(service, tmp_path, files, text):
    service.models[NAME] = Model()
    service.models[NAME].commit(files)
    assert text in refusal(tmp_path)
    assert {name for name in service.sent if not name.endswith(".json")} == set()


def test_a_disk_without_room(service, tmp_path, monkeypatch):
    publish(service, tmp_path)
    free = (tmp_path / "made/model.safetensors").stat().st_size - 1
    monkeypatch.setattr(door.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    text = refusal(tmp_path)
    assert f"and the disk of {tmp_path / 'cache'} has 1 MiB free. Make room there, or set HF_HOME" in text
    assert "model.safetensors" not in service.sent


def test_a_model_that_changes_meanwhile(service, tmp_path, monkeypatch):
    model = publish(service, tmp_path)

    def check(*arguments):
        model.commit(model.commits[model.names["main"]] | {"README.md": b"# New"})

    monkeypatch.setattr(door, "check_content", check)
    assert refusal(tmp_path).endswith("has just been changed on the Hub. Run the same command again.")


def test_without_the_library(service, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    text = refusal(tmp_path)
    assert text.startswith(f"There is no folder {NAME} here.")
    assert text.endswith("pip install 'recap-fast[hub]'")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_is_shown_on_a_terminal_only(service, tmp_path, monkeypatch, is_terminal):
    class Screen(io.StringIO):
        def isatty(self):
            return is_terminal

    publish(service, tmp_path)
    bars = importlib.import_module("huggingface_hub.utils.tqdm")
    monkeypatch.setattr(bars, "progress_bar_states", {})  # what makes the checkpoint switched them off
    monkeypatch.setattr(sys, "stderr", Screen())
    build(tmp_path)
    shown = sys.stderr.getvalue()
    assert ("Fetching" in shown) == is_terminal
    assert "dry-run" not in shown


def test_a_tokenizer_of_a_package_is_named_by_it(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"words")
    monkeypatch.setattr(model_files, "_packaged_llama3", lambda: tmp_path / "tokenizer.model")
    found = model_files.find_tokenizer_file(None, model_files.Found(tmp_path / "model"), 128_256)
    assert found.record_file() == {
        "package": "llama-models==0.3.0",
        "file": "tokenizer.model",
        "sha256": hashlib.sha256(b"words").hexdigest(),
    }
