import dataclasses
import re
from pathlib import Path

import pytest

from recap_fast.defaults import MAX_IMAGE_PIXELS
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions, Sampling, SamplingOptions
from recap_fast.generate.spec import EngineSpec, Limits, PromptSpec
from recap_fast.launch.config import RunConfig, fingerprint, relocation
from recap_fast.machine import list_versions
from recap_fast.records import Preprocess

GIVEN = {"engine": Path("e"), "shards": ("a.tar",), "output": Path("o"), "max_image_pixels": 1000}


def config(**changed) -> RunConfig:
    return RunConfig(**{**GIVEN, **changed})


def spec() -> EngineSpec:
    return EngineSpec(
        name="tiny",
        backend="torch",
        precision="float32",
        vision=None,
        text=None,
        preprocess=Preprocess(336, "pad", (0.5,) * 3, (0.5,) * 3),
        prompt=PromptSpec(template="llama3", text="What is this?"),
        stop_ids=(128001, 128009),
        limits=Limits(max_new_tokens=128, max_text_tokens=40, num_slots=64, prefill_images=4),
        files={"weights.safetensors": "aa", "tokenizer.json": "bb"},
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shards": ()}, "--shards is missing"),
        ({"limit": 0}, "--limit 0: give a count of at least 1"),
        ({"decode_threads": 0}, "--decode-threads 0: give a count of at least 1"),
        ({"drain_seconds": -1}, "--drain-seconds -1: give 0 or more"),
        ({"max_error_rate": 1.5}, "--max-error-rate 1.5: give a share from 0 to 1"),
        ({"max_error_rate": float("nan")}, "--max-error-rate nan"),
        ({"images": "all", "image_key": "png"}, "--images all and --image-key: give one of them"),
        ({"retry_failed": ("corupt",)}, r"--retry-failed corupt: give one of all, .* Did you mean corrupt\?"),
        ({"accept_changed": ("prompt",)}, "--accept-changed prompt: give one of decoder, versions"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(changed, message):
    with pytest.raises(ConfigError, match=message):
        config(**changed)


def test_a_config_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().limit = 3


def test_the_fingerprint_is_all_that_decides_what_rows_say():
    assert fingerprint(config(), spec(), "dali") == {
        "versions": list_versions("torch", "dali"),
        "schema": 4,
        "engine": "tiny",
        "engine.tokenizer.json": "bb",
        "engine.weights.safetensors": "aa",
        "precision": "float32",
        "kv_precision": "auto",
        "template": "llama3",
        "prompt": "What is this?",
        "max_field_tokens": 128,
        "preprocess": "pad 336, mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)",
        "decoder": "dali",
        "background": None,
        "image_column": None,
        "caption_column": None,
        "images": "first",
        "image_key": None,
        "stop_ids": "128001,128009",
        "max_new_tokens": 128,
        "loop_stop": True,
        "sampling": "greedy",
    }


def mark(**changed) -> dict:
    return dict(fingerprint(config(**changed), spec(), "dali"))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"max_field_tokens": 5}, "max_field_tokens"),
        ({"image_column": "photo"}, "image_column"),
        ({"caption_column": "alt"}, "caption_column"),
        ({"images": "all"}, "images"),
        ({"image_key": "png"}, "image_key"),
        ({"options": EngineOptions(max_new_tokens=5)}, "max_new_tokens"),
        ({"options": EngineOptions(loop_stop=False)}, "loop_stop"),
        ({"options": EngineOptions(sampling=Sampling(temperature=0.5))}, "sampling"),
    ],
)
def test_what_changes_captions_changes_the_fingerprint(changed, field):
    assert {name for name, value in mark(**changed).items() if value != mark()[name]} == {field}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Sampling)])
def test_every_part_of_the_sampling_counts_once_it_is_on(field):
    def sampled(**changed):
        return mark(options=EngineOptions(sampling=Sampling(**{"temperature": 0.5, **changed})))["sampling"]

    assert sampled(**{field: 1}) != sampled(**{field: 0.25 if field in ("temperature", "top_p") else 2})


def test_a_seed_counts_for_nothing_where_there_is_no_sampling():
    assert mark(options=EngineOptions(sampling=Sampling(seed=4))) == mark()


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("/a=/b", "/a", "/b"),
        ("/a/date=2026=/b/date=2026", "/a/date=2026", "/b/date=2026"),
        ("s3://old/date=2026=gs://new", "s3://old/date=2026", "gs://new"),
        ("/a=~/b/", "/a", str(Path.home() / "b")),
        ("a=b", str(Path("a").absolute()), str(Path("b").absolute())),
        ("https://me:pw@h/a=https://you:pw@h/b?sig=y", "https://h/a", "https://h/b"),
    ],
)
def test_a_relocation_is_split_where_its_second_folder_begins(text, old, new):
    assert relocation(text) == (old, new)


@pytest.mark.parametrize("text", ["https://me:password@host/a", "=/b", "/a=", ""])
def test_what_is_no_relocation_is_refused_without_secrets(text):
    with pytest.raises(ConfigError, match="give the old folder, '=' and the new one") as caught:
        relocation(text)
    assert "password" not in str(caught.value)


def test_flat_options_have_the_names_of_the_command_line_and_none_is_the_default():
    made = RunConfig.of({**GIVEN, "max_image_pixels": None, "temperature": 0.5, "num_slots": 3, "prompt": None})
    assert (made.options, made.sampling) == (EngineOptions(num_slots=3), SamplingOptions(temperature=0.5))
    assert (made.max_image_pixels, made.prompt) == (MAX_IMAGE_PIXELS, ())
    assert RunConfig.of({**GIVEN, "prompt": "What?"}).prompt == ("What?",)
    assert RunConfig.of({**GIVEN, "prompt": ["What?", "Why?"]}).prompt == ("What?", "Why?")
    with pytest.raises(TypeError, match="temprature"):
        RunConfig.of({**GIVEN, "temprature": 1.0})


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"max_workers": 2}, "--max-workers is for Ray: give --ray ADDRESS"),
        ({"min_workers": 2}, "--min-workers is for Ray"),
        ({"runtime_env": Path("x.json")}, "--runtime-env is for Ray"),
        ({"ray": "auto", "part": "1/2"}, "--part and --ray: the workers of a cluster share all shards"),
        ({"ray": "auto", "shard_index": 0, "num_shards": 2}, "--part and --ray"),
        ({"ray": "ray://head:10001"}, "--ray ray://head:10001: Ray's client has no workers of ours"),
        (
            {"ray": "auto", "options": EngineOptions(device="cuda:1")},
            "--device cuda:1 and --ray: Ray gives each worker",
        ),
        ({"ray": "auto", "min_workers": 3, "max_workers": 2}, "--min-workers 3 and --max-workers 2"),
        ({"ray": "auto", "min_workers": -1}, "--min-workers -1"),
        ({"ray": "auto", "max_workers": 0}, "--max-workers 0"),
        ({"ray": "auto", "ray_worker_cpus": 0}, "--ray-worker-cpus 0: give a count of at least 1"),
    ],
)
def test_options_of_a_cluster_that_contradict_each_other_are_refused(changed, refusal):
    with pytest.raises(ConfigError, match=re.escape(refusal)):
        config(**changed)
