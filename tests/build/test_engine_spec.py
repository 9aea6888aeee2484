import dataclasses
import json
import logging
import re
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inputs import checkpoints, shapes, vocabularies
from recap_fast.build import engine_spec
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError
from recap_fast.generate.device import Hardware
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec, PromptSpec, SamplingSpec, Sizes
from recap_fast.generate.tokenizer import load_tokenizer


def recipe(folder: Path, text: str) -> Path:
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return folder / "recipe.toml"


def test_the_recipe_comes_before_the_checkpoint(tmp_path, checkpoint):
    text = """
        name = "mine"
        template = "llama3_vicuna_system"
        prompt = "Describe {org_caption} of {key}."
        stop_ids = [7]
        stop_tokens = ["<|eot_id|>"]
        preprocess = "stretch"
        precision = "bfloat16"
        kv_precision = "fp8"
        notice = "For tests."
        [limits]
        max_new_tokens = 16
        num_slots = 3
        [cards]
        "A100 80GB" = { num_slots = 320, prefill_images = 5 }
    """
    spec = build_engine(recipe(tmp_path, textwrap.dedent(text)), checkpoint, tmp_path / "engine")
    assert (spec.name, spec.notice, spec.precision, spec.preprocess.mode) == (
        "mine",
        "For tests.",
        "bfloat16",
        "stretch",
    )
    assert (spec.prompt.template, spec.prompt.text) == ("llama3_vicuna_system", "Describe {org_caption} of {key}.")
    assert spec.stop_ids == (7, load_tokenizer(checkpoint).special.get("<|eot_id|>"))
    assert (spec.limits.max_new_tokens, spec.limits.num_slots, spec.limits.prefill_images) == (16, 3, 3)
    assert (spec.kv_precision, spec.cards) == ("fp8", {"A100 80GB": Sizes(num_slots=320, prefill_images=5)})
    assert EngineSpec.load(tmp_path / "engine") == spec
    assert 256 < spec.limits.max_text_tokens < 320
    assert {t.dtype for t in load_file(tmp_path / "engine/weights.safetensors").values()} == {torch.bfloat16}


def test_precision_on_the_command_line_comes_first(tmp_path, checkpoint):
    spec = build_engine("recap_tiny", checkpoint, tmp_path / "engine", precision="fp8")
    assert spec.precision == "fp8"
    assert spec.notice.startswith("recap-tiny knows only")
    with pytest.raises(ConfigError, match="--precision int4: expected float32, bfloat16, float16, fp8 or int8"):
        build_engine("recap_tiny", checkpoint, tmp_path / "other", precision="int4")


def test_a_card_without_the_precision_is_refused_before_anything_is_written(tmp_path, checkpoint, monkeypatch):
    card = Hardware(device=torch.device("cpu"), name="NVIDIA A100-SXM4-40GB", capability=(8, 0))
    monkeypatch.setattr(engine_spec, "find_hardware", lambda device: card)
    message = r"A100-SXM4-40GB has 8\.0.*It takes float32, bfloat16, float16, int8\. To build it for another machine"
    with pytest.raises(ConfigError, match=message):
        build_engine("llava", checkpoint, tmp_path / "engine", precision="fp8")
    assert not (tmp_path / "engine").exists()
    assert build_engine("llava", checkpoint, tmp_path / "engine", precision="int8").precision == "int8"


def test_a_precision_that_is_slow_here_is_said_to_be(tmp_path, checkpoint, monkeypatch, caplog):
    cpu = Hardware(device=torch.device("cpu"), name="this CPU", capability=None, slow=frozenset({"fp8"}))
    monkeypatch.setattr(engine_spec, "find_hardware", lambda device: cpu)
    build_engine("llava", checkpoint, tmp_path / "1", precision="int8")
    assert caplog.text == ""
    build_engine("llava", checkpoint, tmp_path / "2", precision="fp8")
    assert (
        "the engine will be slow: fp8 is emulated in float32 on a CPU; --precision int8, bfloat16 or float32"
        in caplog.text
    )


def test_auto_precision_is_that_of_the_language_model(tmp_path):
    checkpoints.make_checkpoint(tmp_path / "c", "original", dtype=(torch.float16, torch.float32))
    assert build_engine("llava", tmp_path / "c", tmp_path / "engine").precision == "float16"


def test_a_checkpoint_in_float32_is_slow_on_a_gpu(tmp_path, checkpoint, monkeypatch, caplog):
    card = Hardware(device=torch.device("cpu"), name="NVIDIA H100", capability=(9, 0))
    monkeypatch.setattr(engine_spec, "find_hardware", lambda device: card)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert build_engine("llava", checkpoint, tmp_path / "1").precision == "float32"
    assert "The checkpoint is in float32, so the engine is in float32; --precision bfloat16 is faster." in caplog.text
    caplog.clear()
    build_engine("recap_tiny", checkpoint, tmp_path / "2")
    assert not caplog.text


def test_generation_config_comes_before_config_for_stop_ids(tmp_path, checkpoint, caplog):
    tokenizer = load_tokenizer(checkpoint)
    own = {tokenizer.special.get("<|end_of_text|>"), tokenizer.special.get("<|eot_id|>")}
    content = {"eos_token_id": [5, tokenizer.special.get("<pad>")], "do_sample": True, "temperature": 0.6}
    (checkpoint / "generation_config.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        spec = build_engine("llava", checkpoint, tmp_path / "engine")
    assert set(spec.stop_ids) == {5, tokenizer.special.get("<pad>"), *own}
    assert "stops at token 5, which is text: '&'" in caplog.text


def test_what_changes_captions_in_transformers_alone_is_said(tmp_path, checkpoint, caplog):
    file = checkpoint / "generation_config.json"
    content = {"repetition_penalty": 1.0, "num_beams": 1, "bad_words_ids": None, "suppress_tokens": [], "top_k": 20}
    file.write_text(json.dumps(content))
    build_engine("llava", checkpoint, tmp_path / "1")
    assert not caplog.text
    file.write_text(json.dumps({**content, "repetition_penalty": 1.1, "suppress_tokens": [5]}))
    build_engine("recap_tiny", checkpoint, tmp_path / "2")
    expected = "generation_config.json asks for repetition_penalty 1.1 and suppress_tokens [5]. recap-fast does not"
    assert expected in caplog.text


NAMED = """
prompt = "{}"
[prompts]
short = "What is it?"
long = "Describe {{org_caption}} in detail, please."
[prompt_sets]
all = ["short", "long"]
mixed = {{ long = 3, short = 0.5 }}
[sampling]
temperature = 0.6
top_p = 0.9
"""


@pytest.mark.parametrize(
    ("prompt", "default", "text"),
    [
        ("long", "long", "Describe {org_caption} in detail, please."),
        ("all", "all", "What is it?"),
        ("mixed", "mixed", "Describe {org_caption} in detail, please."),
        ("Why is it?", None, "Why is it?"),
        ("why=is it?", None, "why=is it?"),
    ],
)
def test_prompts_by_name_are_in_the_engine_and_the_longest_decides_its_room(
    tmp_path, checkpoint, prompt, default, text
):
    spec = build_engine(recipe(tmp_path, NAMED.format(prompt)), checkpoint, tmp_path / "engine")
    assert EngineSpec.load(tmp_path / "engine") == spec
    assert (spec.prompt.default, spec.prompt.text) == (default, text)
    assert spec.prompt.prompts == {
        "short": "What is it?",
        "long": "Describe {org_caption} in detail, please.",
    }
    assert spec.prompt.sets == {"all": ("short", "long"), "mixed": {"long": 3.0, "short": 0.5}}
    assert spec.sampling == SamplingSpec(temperature=0.6, top_p=0.9)
    longest = PromptSpec(template=spec.prompt.template, text=spec.prompt.prompts["long"])
    assert spec.limits.max_text_tokens == PromptEncoder(load_tokenizer(checkpoint), longest).max_text_tokens
    rooms = {
        name: PreparedEngine.read(tmp_path / "engine", prompts=[name]).prompts.max_text_tokens
        for name in ("short", "long", "all")
    }
    assert rooms["short"] < rooms["long"] == rooms["all"] == spec.limits.max_text_tokens
    roomy = recipe(tmp_path, NAMED.format(prompt) + "[limits]\nmax_text_tokens = 256\n")
    assert build_engine(roomy, checkpoint, tmp_path / "roomy").limits.max_text_tokens == 256


def test_an_engine_json_of_an_earlier_version_has_no_names_and_is_greedy(tmp_path, checkpoint):
    build_engine("llava", checkpoint, tmp_path / "engine")
    path = tmp_path / "engine/engine.json"
    content = json.loads(path.read_text())
    del content["sampling"]
    content["prompt"] = {name: content["prompt"][name] for name in ("template", "text")}
    path.write_text(json.dumps(content))
    prepared = PreparedEngine.read(tmp_path / "engine")
    assert prepared.spec.sampling == SamplingSpec()
    assert (prepared.prompts.is_plain, prepared.prompts.text) == (True, content["prompt"]["text"])
    content["prompt"]["sets"] = {"all": ["shrot"]}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"The set prompt_sets.all has 'shrot', which is no prompt: there are none"):
        PreparedEngine.read(tmp_path / "engine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            NAMED.format("shrot"),
            r"recipe's prompt 'shrot' is none .*\(did you mean 'short'\?\): .*put it under \[prompts\]",
        ),
        (NAMED.format("all") + "top_k = 3\n[limits]\nmax_text_tokens = 16", r"^long: The prompt has \d+ tokens after"),
        ("[sampling]\ntop_k = 3", r"\[sampling\] has top_k or top_p and no temperature above 0"),
        (
            "base = 'joycaption'\ntemplate = 'llama3'\nsampling.temperature = 0",
            r"no temperature above 0: .* Where they are the base's, write top_k = 0 and top_p = 1",
        ),
        ("[prompts]\n'a b' = 'x'", "'a b' cannot be the name of a prompt"),
        ("template = 'vicuna'", "no template 'vicuna'. Known templates: llama3"),
        ("stop_tokens = ['<|im_end|>']", r"has no special tokens <\|im_end\|>, which the recipe's stop_tokens name"),
        ("prompt = 'About {0}'", r"unknown field \{0\}"),
        ("stop_ids = [100000]", r"Stop ids \[100000\] are outside the vocabulary"),
        ("[limits]\nmax_text_tokens = 10", "tokens after the image, the engine takes 10"),
        (
            "[limits]\nmax_new_tokens = 1000",
            r"has 1024 positions and a caption needs 1\d\d\d \(\d+ before the image, 16 of",
        ),
    ],
)
def test_recipes_that_do_not_fit_the_checkpoint_are_refused(tmp_path, checkpoint, text, message):
    with pytest.raises(ConfigError, match=message):
        build_engine(recipe(tmp_path, text), checkpoint, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_another_models_tokenizer_is_refused(tmp_path, checkpoint):
    (tmp_path / "t").mkdir()
    vocabularies.write_tokenizer(tmp_path / "t", "tiktoken")
    with pytest.raises(
        ConfigError, match="has 656 tokens and the model's embedding 407 rows: it belongs to another model"
    ):
        build_engine("llava", checkpoint, tmp_path / "engine", tokenizer=tmp_path / "t")


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("llava-llama3-8b", 128256, "llava-llama3-8b"),
        ("llava_llama3_8b_fp8", 128320, "llava_llama3_8b_fp8"),
        ("mine-13b", 128256, "mine-8.03b"),
        ("mine-1.5b.b8", 128256, "mine-8.03b.b8"),
        ("8bit", 128256, "8bit"),
    ],
)
def test_a_size_in_a_recipe_s_name_is_the_language_model_s(name, rows, expected, caplog):
    text = dataclasses.replace(shapes.llava_llama3_8b().text, vocab_size=rows)
    assert engine_spec._sized_name(name, text) == expected
    assert ("this one has 8.03 billion" in caplog.text) == (name != expected)


def test_the_paper_s_recipe_does_not_name_a_small_model_after_the_large_one(tmp_path, checkpoint, caplog):
    name = build_engine("llava_llama3_8b", checkpoint, tmp_path / "engine").name
    assert re.fullmatch(r"llava-llama3-0\.\d+m", name)
    assert f"million: the engine is called {name}." in caplog.text
