"""Where the images/s of an estimate come from."""

import json

import pytest

from recap_fast.errors import ConfigError
from recap_fast.generate.torch_backend.tuning_file import write_tuning
from recap_fast.launch.speeds import Speed, find_speed

MACHINE = {"cpu": "EPYC", "gpus": ["NVIDIA L4"], "cores": 2}


def report(path, **changed):
    measured = [{"stage": "generate", "images_per_s": 20.5}, {"stage": "end-to-end", "images_per_s": 18.25}]
    path.write_text(json.dumps({"machine": MACHINE, "measurements": measured, "limit": "generate", **changed}))
    return path


def test_what_the_user_says_comes_first(tmp_path):
    assert find_speed(50.0, tmp_path / "none.json", tmp_path) == Speed(50.0, "as given")


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError, match=f"^--images-per-second {rate:g}: give a number above 0.$"):
        find_speed(rate, None, None)


def test_of_a_report_the_whole_run_counts_and_then_the_engine_alone(tmp_path):
    assert find_speed(None, report(tmp_path / "a.json"), None) == Speed(18.25, "bench on NVIDIA L4, whole runs")
    alone = report(tmp_path / "b.json", measurements=[{"stage": "generate", "images_per_s": 20.5}])
    assert find_speed(None, alone, None) == Speed(20.5, "bench on NVIDIA L4, the engine alone")
    no_gpu = report(tmp_path / "c.json", machine={"cpu": "EPYC", "gpus": []})
    assert find_speed(None, no_gpu, None) == Speed(18.25, "bench on EPYC, whole runs")


def test_a_report_of_several_captions_an_image_says_so(tmp_path):
    whole = {"stage": "end-to-end", "images_per_s": 9.5, "captions_per_image": 4.0}
    file = report(tmp_path / "a.json", measurements=[whole])
    assert find_speed(None, file, None) == Speed(9.5, "bench on NVIDIA L4, whole runs, 4 captions an image")


@pytest.mark.parametrize(
    "changed",
    [
        {"measurements": None},
        {"measurements": []},
        {"measurements": [{"stage": "decode", "images_per_s": 90.0}]},
        {"measurements": [{"stage": "generate"}]},
        {"machine": None},
    ],
)
def test_a_report_without_such_figures_is_refused(tmp_path, changed):
    with pytest.raises(ConfigError, match=r"a\.json.*Give a file that `recap-fast bench --json` wrote\."):
        find_speed(None, report(tmp_path / "a.json", **changed), None)


def test_what_bench_writes_is_read(tiny_engine, tmp_path):
    from recap_fast.bench.bench import BenchConfig, bench

    figures = bench(BenchConfig.of({"engine": tiny_engine, "stages": ("generate",), "limit": 4, "repeat": 1}))
    (tmp_path / "a.json").write_text(figures.as_json(["bench"]))
    found = find_speed(None, tmp_path / "a.json", None)
    assert found.images_per_s == round(figures.measurements[0].images_per_s, 3)
    assert found.origin.endswith(", the engine alone")


def test_of_several_tuned_devices_the_latest_counts_and_the_others_are_named(tiny_engine, tmp_path):
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / "engine.json").write_bytes((tiny_engine / "engine.json").read_bytes())
    assert find_speed(None, None, engine) is None
    for name, rate, day in (("NVIDIA H200", 102.4, "27"), ("NVIDIA L4", 9.5, "26")):
        write_tuning(engine, name, {"images_per_s": rate, "measured": f"2026-11-{day}T08:00:00+00:00"})
    origin = "tune on NVIDIA H200, 2026-11-27, the engine alone; it was also tuned at 9.5 on NVIDIA L4"
    assert find_speed(None, None, engine) == Speed(102.4, origin)


def test_an_engine_that_was_tuned_with_several_captions_says_so(tiny_engine, tmp_path):
    (tmp_path / "engine.json").write_bytes((tiny_engine / "engine.json").read_bytes())
    entry = {"images_per_s": 54.5, "captions_per_image": 3, "measured": "2026-11-27T08:00:00+00:00"}
    write_tuning(tmp_path, "NVIDIA H200", entry)
    origin = "tune on NVIDIA H200, 2026-11-27, the engine alone, 3 captions an image"
    assert find_speed(None, None, tmp_path) == Speed(54.5, origin)


def test_a_folder_that_is_no_engine_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not an engine directory"):
        find_speed(None, None, tmp_path)
