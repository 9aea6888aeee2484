"""engine.json against the engine's own config.json."""

import dataclasses
import json

import pytest

from recap_fast.errors import ConfigError
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tensorrt_backend.compatibility import MODEL_FOLDER

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("version", "1.2.2"),
        ("pretrained_config.vocab_size", 999),
        ("pretrained_config.dtype", "float16"),
        ("pretrained_config.quantization.quant_algo", "FP8"),
        ("build_config.max_batch_size", 8),
        ("build_config.max_prompt_embedding_table_size", 1),
        ("build_config.max_seq_len", None),
    ],
)
def test_every_difference_is_named(place, value, fake, build, open_engine):
    folder = build()
    path = folder / MODEL_FOLDER / "config.json"
    content = json.loads(path.read_text())
    *parents, last = place.split(".")
    table = content
    for part in parents:
        table = table[part]
    table[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"does not belong to the engine\.json") as caught:
        open_engine(folder)
    assert f"{place} is {value!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["rank0.engine", "config.json"])
def test_a_missing_file_is_named(name, fake, build, open_engine):
    folder = build()
    (folder / MODEL_FOLDER / name).unlink()
    with pytest.raises(ConfigError, match=rf"tensorrt_llm lacks {name}: build the engine again"):
        open_engine(folder)


def test_an_engine_json_without_the_table_is_refused(fake, build, open_engine):
    folder = build()
    dataclasses.replace(EngineSpec.load(folder), backend_data=None).save(folder)
    with pytest.raises(ConfigError, match="says nothing of TensorRT-LLM"):
        open_engine(folder)


def test_an_engine_of_the_flow_that_is_gone_is_refused_with_what_to_do(fake, build, open_engine):
    path = build() / "engine.json"
    path.write_text(path.read_text().replace('"flow": "trt"', '"flow": "pytorch"'))
    with pytest.raises(ConfigError, match="flow 'pytorch', and this version runs only 'trt': build it again, with"):
        open_engine(path.parent)
