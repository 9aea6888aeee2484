import dataclasses
import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inputs import checkpoints, vocabularies
from inputs.shapes import SHAPES
from recap_fast.build import model_files
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import load_tokenizer


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def comparable(spec: EngineSpec) -> EngineSpec:
    return dataclasses.replace(spec, sources={})


VARIANTS = {
    "plain": {},
    "float16": {"dtype": torch.float16},
    "mixed": {"dtype": (torch.float16, torch.float32)},
    "bfloat16": {"dtype": torch.bfloat16},
    "tied": {"text": {"tie_word_embeddings": True}},
    "several files": {"num_files": 3},
    "llama 3.1": {"text": {"rope_parameters": checkpoints.LLAMA31_ROPE}},
    "llama 2": {"tokenizer": "llama2", "text": {"num_key_value_heads": 4}},
    "tiktoken": {"tokenizer": "tiktoken"},
    "another layer": {"llava": {"vision_feature_layer": -3}, "vision": {"num_hidden_layers": 5}},
    "wide heads": {"text": {"head_dim": 24}},
    "siglip": {
        "vision": {"model_type": "siglip_vision_model", "image_size": 37},
        "llava": {"vision_feature_select_strategy": "full"},
        "preprocess": "stretch",
    },
    "class token": {"llava": {"vision_feature_select_strategy": "full"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_gives_the_same_engine(tmp_path, variant):
    specs = {}
    for layout in checkpoints.LAYOUTS:
        checkpoints.make_checkpoint(tmp_path / layout / "model", layout, **VARIANTS[variant])
        specs[layout] = build_engine("llava", tmp_path / layout / "model", tmp_path / f"{layout}.engine")
        assert sha256(tmp_path / f"{layout}.engine/weights.safetensors") == specs[layout].files["weights.safetensors"]
    assert {layout: comparable(spec) for layout, spec in specs.items()} == dict.fromkeys(
        checkpoints.LAYOUTS, comparable(specs["hf5"])
    )


def test_engine_json_says_all(tmp_path, checkpoint):
    spec = build_engine("llava", checkpoint, tmp_path / "engine")
    tokenizer = load_tokenizer(checkpoint)
    assert EngineSpec.load(tmp_path / "engine") == spec
    assert {p.name for p in (tmp_path / "engine").iterdir()} == {"engine.json", "tokenizer.json", "weights.safetensors"}
    assert spec.files == {
        "weights.safetensors": sha256(tmp_path / "engine/weights.safetensors"),
        "tokenizer.json": sha256(checkpoint / "tokenizer.json"),
    }
    assert spec.sources["checkpoint"]["files"]["model.safetensors"] == sha256(checkpoint / "model.safetensors")
    assert set(spec.sources["checkpoint"]["files"]) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert (spec.sources["recipe"]["file"], spec.sources["recipe"]["bases"]) == ("llava.toml", [])
    assert spec.sources["versions"]["torch"] == torch.__version__
    assert (spec.name, spec.precision, spec.preprocess.mode) == ("checkpoint", "float32", "pad")
    assert spec.prompt.template == "llama3"
    assert spec.stop_ids == (tokenizer.special.get("<|end_of_text|>"), tokenizer.special.get("<|eot_id|>"))
    assert spec.vision.num_layers == SHAPES["tiny"].vision.num_layers


def test_engine_json_has_the_checksums_of_all_bases(tmp_path, checkpoint):
    names = ("first.toml", "second.toml", "third.toml")
    for name, text in zip(names, ("base = 'second.toml'", "base = 'third.toml'", "name = 'mine'"), strict=True):
        (tmp_path / name).write_text(text)
    first, *bases = ({"file": name, "sha256": sha256(tmp_path / name)} for name in names)
    spec = build_engine(tmp_path / "first.toml", checkpoint, tmp_path / "engine")
    assert spec.sources["recipe"] == {**first, "bases": bases}


def test_original_llava_takes_its_tokenizer_from_elsewhere(tmp_path):
    checkpoints.make_checkpoint(tmp_path / "c", "original", tokenizer=None)
    with pytest.raises(
        ConfigError, match=r"has no tokenizer.json or tokenizer.model. Give the language model's with --tok"
    ):
        build_engine("llava", tmp_path / "c", tmp_path / "engine")
    with pytest.raises(ConfigError, match=r"--tokenizer .*: there is no tokenizer.json or tokenizer.model"):
        build_engine("llava", tmp_path / "c", tmp_path / "engine", tokenizer=tmp_path)
    vocabularies.write_tokenizer(tmp_path, "byte_level")
    by_folder = build_engine("llava", tmp_path / "c", tmp_path / "1", tokenizer=tmp_path)
    by_file = build_engine("llava", tmp_path / "c", tmp_path / "2", tokenizer=tmp_path / "tokenizer.json")
    assert by_folder == by_file
    assert load_tokenizer(tmp_path / "1").encode("red").tolist() == load_tokenizer(tmp_path).encode("red").tolist()


@pytest.fixture
def original(tmp_path, monkeypatch):
    """A checkpoint that passes for one of Llama 3, its tokenizer beside its folder."""
    monkeypatch.setattr(model_files, "LLAMA3_VOCABULARIES", range(129_000))
    checkpoints.make_checkpoint(tmp_path / "c", "original", tokenizer="tiktoken")
    (tmp_path / "c/tokenizer.model").rename(tmp_path / "tokenizer.model")
    return tmp_path / "c"


@pytest.mark.parametrize(("given", "without"), [(None, ""), ("nowhere/tokenizer.model", " without --tokenizer")])
def test_llama_3_without_a_tokenizer_is_told_where_to_get_it(tmp_path, monkeypatch, original, given, without):
    monkeypatch.setattr(model_files, "LLAMA3_SHA256", "of another file")
    with pytest.raises(ConfigError, match=r"there is no|has no") as caught:
        build_engine("llava_llama3_8b", original, tmp_path / "engine", tokenizer=given)
    what, install, again = str(caught.value).splitlines()
    assert what.endswith("o tokenizer.json or tokenizer.model. Llama 3's is in a package of PyPI:")
    assert install == "  pip install --no-deps llama-models==0.3.0"
    assert again == f"Then the same command{without} finds it there."


def test_llama_3_finds_its_tokenizer_in_the_package(tmp_path, monkeypatch, caplog, original):
    package = tmp_path / "site/llama_models"
    (package / "llama3").mkdir(parents=True)
    (tmp_path / "tokenizer.model").rename(package / "llama3/tokenizer.model")
    (package / "__init__.py").write_text("raise ImportError('its dependencies are not there')")
    monkeypatch.delitem(sys.modules, "llama_models", raising=False)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(model_files, "LLAMA3_SHA256", sha256(package / "llama3/tokenizer.model"))
    spec = build_engine("llava", original, tmp_path / "engine")
    assert spec.files["tokenizer.model"] == sha256(package / "llama3/tokenizer.model")
    assert "has no tokenizer.json or tokenizer.model: using Llama 3's, of the package llama-models." in caplog.text


def test_a_tied_head_in_the_file_must_be_the_embedding(tmp_path, change):
    checkpoints.make_checkpoint(tmp_path / "c", "hf4", text={"tie_word_embeddings": True})
    plain = build_engine("llava", tmp_path / "c", tmp_path / "1")
    embedding = load_file(tmp_path / "c/model.safetensors")["language_model.model.embed_tokens.weight"]
    change(tmp_path / "c", {"language_model.lm_head.weight": embedding})
    assert comparable(build_engine("llava", tmp_path / "c", tmp_path / "2")) == comparable(plain)
    change(tmp_path / "c", {"language_model.lm_head.weight": embedding + 1})
    with pytest.raises(ConfigError, match=r"ties the head to the embedding, and language_model.lm_head.weight differs"):
        build_engine("llava", tmp_path / "c", tmp_path / "3")


def test_outputs_are_not_overwritten_by_mistake(tmp_path, checkpoint):
    output = tmp_path / "engine"
    first = build_engine("llava", checkpoint, output)
    with pytest.raises(ConfigError, match="holds an engine: give another folder, or --overwrite"):
        build_engine("llava", checkpoint, output)
    assert build_engine("recap_tiny", checkpoint, output, overwrite=True).name == "recap-tiny" != first.name
    assert EngineSpec.load(output).name == "recap-tiny"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    for target in (tmp_path / "photos", checkpoint / "config.json"):
        with pytest.raises(ConfigError, match="exists and is not an engine directory: give another folder"):
            build_engine("llava", checkpoint, target, overwrite=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_build_leaves_no_trace(tmp_path, checkpoint, error, overwrite):
    if overwrite:
        build_engine("recap_tiny", checkpoint, tmp_path / "engine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def interrupt(done, total):
        if done > total // 2:
            raise error

    with pytest.raises(error):
        build_engine("llava", checkpoint, tmp_path / "engine", overwrite=overwrite, progress=interrupt)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_killed_build_leaves_nothing_that_looks_like_an_engine(tmp_path, checkpoint):
    code = f"""
        import os, signal
        from pathlib import Path
        from recap_fast.build.engine_directory import build_engine

        def kill(done, total):
            if done == total:
                os.kill(os.getpid(), signal.SIGKILL)

        build_engine("llava", Path({str(checkpoint)!r}), Path({str(tmp_path / "engine")!r}), progress=kill)
    """
    assert run_python(code).returncode == -9
    assert not (tmp_path / "engine").exists()
    assert not list(tmp_path.rglob("engine.json"))
    build_engine("llava", checkpoint, tmp_path / "engine")
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint", "engine"}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def sized_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sized")
    large = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16, "num_hidden_layers": 6}
    checkpoints.make_checkpoint(folder / "small", "hf4", dtype=torch.float16)
    checkpoints.make_checkpoint(folder / "large", "hf4", dtype=torch.float16, text=large)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "fp8", "int8"])
def test_memory_is_bounded_whatever_the_size(sized_checkpoints, tmp_path, precision):
    """The peak grows by a few pieces of 16 MiB between checkpoints of 1 MB and of 700 MB."""
    peak_mib = {}
    for name in ("small", "large"):
        # VmHWM: getrusage's peak would include that of the process that started this one
        code = f"""
            import re
            from pathlib import Path
            from recap_fast.build.engine_directory import build_engine

            folder, output = Path({str(sized_checkpoints / name)!r}), Path({str(tmp_path / name)!r})
            build_engine("llava", folder, output, precision={precision!r})
            print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
        """
        result = run_python(code)
        assert result.returncode == 0, result.stderr
        peak_mib[name] = int(result.stdout)
    assert (sized_checkpoints / "large/model.safetensors").stat().st_size > 600 << 20
    assert peak_mib["large"] - peak_mib["small"] < 250, peak_mib
