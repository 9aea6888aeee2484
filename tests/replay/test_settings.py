import dataclasses
import shutil

import pytest

from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions, Sampling
from recap_fast.generate.prompts import choose
from recap_fast.generate.spec import EngineSpec
from recap_fast.launch.config import RunConfig, fingerprint
from recap_fast.replay.settings import changes, settings_of

RUNS = {
    "the engine's own": {},
    "other text": {"prompt": ("Which? {org_caption}",), "max_field_tokens": 5, "background": "white"},
    "other limits": {"options": EngineOptions(max_new_tokens=7, loop_stop=False)},
    "sampled": {"options": EngineOptions(sampling=Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=-3))},
    "other images": {"images": "all", "image_column": "photo", "caption_column": "alt"},
}


def marks_of(engine, decoder="pillow", **changed):
    config = RunConfig(engine=engine, shards=("x",), output="out", decoder=decoder, **changed)
    return config, dict(fingerprint(config, EngineSpec.load(engine), decoder))


@pytest.mark.parametrize("run", RUNS)
def test_the_settings_are_those_of_the_run(tiny_engine, run):
    config, marks = marks_of(tiny_engine, **RUNS[run])
    found = settings_of(marks, tiny_engine)
    spec = EngineSpec.load(tiny_engine)
    limit = config.options.max_new_tokens or spec.limits.max_new_tokens
    assert found.options == dataclasses.replace(config.options, max_new_tokens=limit)
    questions = [next(iter(choose(spec.prompt, each.prompt)[0].questions.values())) for each in (found, config)]
    assert questions[0] == questions[1]
    for name in ("engine", "max_field_tokens", "background", "decoder", "selection"):
        assert getattr(found, name) == getattr(config, name), name
    assert changes(marks, found) == []


def test_another_engine_is_refused_and_what_differs_is_named(tiny_engine, tmp_path):
    _, marks = marks_of(tiny_engine)
    other = tmp_path / "other"
    shutil.copytree(tiny_engine, other)
    spec = EngineSpec.load(other)
    files = {**spec.files, "weights.safetensors": "0" * 64}
    dataclasses.replace(spec, files=files, stop_ids=(1,)).save(other)
    with pytest.raises(ConfigError, match=r"other is not the engine that made these rows:\n") as refusal:
        settings_of(marks, other)
    lines = str(refusal.value).splitlines()[1:]
    assert lines[0].startswith("  engine.weights.safetensors: '")
    assert lines[0].endswith(f" there, '{'0' * 64}' here")
    assert lines[1].startswith("  stop_ids: ")
    assert lines[2:] == ["Give the engine of that run as --engine."]


def test_another_decoder_and_other_versions_are_only_noted(tiny_engine):
    _, marks = marks_of(tiny_engine)
    marks |= {"versions": "recap-fast 0.0.1", "decoder": "dali"}
    found = settings_of(marks, tiny_engine, decoder="pillow")
    assert found.decoder == "pillow"
    noted = changes(marks, found)
    assert noted[0] == "decoder: 'dali' there, 'pillow' here"
    assert noted[1].startswith("versions: 'recap-fast 0.0.1' there, 'recap-fast ")


def test_what_no_run_writes_is_refused(tiny_engine):
    _, marks = marks_of(tiny_engine)
    with pytest.raises(ConfigError, match="sampling: 'wild' there, 'greedy' here"):
        settings_of({**marks, "sampling": "wild"}, tiny_engine)
    del marks["loop_stop"]
    with pytest.raises(
        ConfigError, match=r"run\.json lacks settings of the run, or has others \(KeyError\('loop_stop'"
    ):
        settings_of(marks, tiny_engine)


def test_the_device_and_the_pixel_limit_are_those_of_now(tiny_engine):
    _, marks = marks_of(tiny_engine)
    found = settings_of(marks, tiny_engine, device="cpu", max_image_pixels=99)
    assert (found.options.device, found.max_image_pixels) == ("cpu", 99)
