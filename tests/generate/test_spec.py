import json

import pytest

from inputs import shapes
from recap_fast.errors import ConfigError
from recap_fast.generate.spec import EngineSpec


def test_the_file_is_that_of_the_first_version(tmp_path):
    shapes.llava_llama3_8b(backend_data={"flow": "trt"}).save(tmp_path)
    content = json.loads((tmp_path / "engine.json").read_text())
    assert list(content) == [
        *("format", "name", "backend", "precision", "kv_precision", "vision", "text", "preprocess", "prompt"),
        *("sampling", "stop_ids", "limits", "cards", "tensorrt_llm", "notice", "sources", "files", "checksums"),
    ]
    assert (content["format"], content["tensorrt_llm"]) == (1, {"flow": "trt"})
    later = ("kv_precision", "sampling", "cards", "tensorrt_llm", "notice", "checksums")
    for name in later:
        del content[name]
    (tmp_path / "engine.json").write_text(json.dumps(content))
    assert EngineSpec.load(tmp_path) == shapes.llava_llama3_8b()


def test_towers_of_earlier_versions_are_clips(tmp_path):
    shapes.llava_llama3_8b().save(tmp_path)
    content = json.loads((tmp_path / "engine.json").read_text())
    for name in ("has_class_token", "has_pre_norm", "has_patch_bias", "select"):
        del content["vision"][name]
    (tmp_path / "engine.json").write_text(json.dumps(content))
    assert EngineSpec.load(tmp_path) == shapes.llava_llama3_8b()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 337}, "'vision.patch_size' must be at most vision.image_size, 336"),
        ({"patch_size": 336, "has_class_token": False}, "'vision.select' must be 'full' where there is one position"),
        ({"num_heads": 15}, "'vision.num_heads' must be a divisor of vision.hidden_size, 1024"),
        ({"select": "cls"}, "'vision.select' must be one of default, full"),
    ],
)
def test_towers_that_contradict_themselves_are_refused(tmp_path, changes, message):
    shapes.llava_llama3_8b().save(tmp_path)
    content = json.loads((tmp_path / "engine.json").read_text())
    content["vision"] |= changes
    (tmp_path / "engine.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        EngineSpec.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, this version reads 1: build the engine again"),
        ({"color": "red"}, r"has an unknown key 'color'\. Known keys: name, backend.*\. Build the engine again\."),
        ({"vision": {}}, "'vision.hidden_size' is missing. Build the engine again"),
        ({"text": None}, "'text' must be a table, not None. Build the engine again"),
    ],
)
def test_another_file_is_refused(tmp_path, change, message):
    shapes.llava_llama3_8b().save(tmp_path)
    content = json.loads((tmp_path / "engine.json").read_text())
    (tmp_path / "engine.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ConfigError, match=message):
        EngineSpec.load(tmp_path)


def test_a_folder_without_it_is_no_engine(tmp_path):
    with pytest.raises(ConfigError, match=r"is not an engine directory: it has no engine\.json"):
        EngineSpec.load(tmp_path)
