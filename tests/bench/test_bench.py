import dataclasses
import json
from contextlib import closing

import pytest
from click.testing import CliRunner
from support import shard_files

from inputs import oracle
from recap_fast.bench import roofline, synthetic
from recap_fast.bench.bench import STAGES, BenchConfig, bench
from recap_fast.bench.stages import Images, make_requests
from recap_fast.bench.synthetic import write_tars
from recap_fast.captioner.captioner import Captioner
from recap_fast.cli.main import cli
from recap_fast.errors import ConfigError, RecapError
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.pipeline.decoding import noise_key
from recap_fast.shards.expand import expand

SAMPLED = """
prompt = "both"
[prompts]
short = "What is it?"
long = "Describe it."
[prompt_sets]
both = ["short", "long"]
[sampling]
temperature = 0.5
top_k = 3
"""
OPTIONS = EngineOptions(device="cpu", num_slots=4, prefill_images=2, max_new_tokens=6)


@pytest.fixture(scope="module", autouse=True)
def quick_rates():
    """Rates of small products: how fast this machine is does not matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "CPU_SIDE", 256)
        patch.setattr(roofline, "CPU_COPY_BYTES", 1 << 20)
        patch.setattr(roofline, "MEASURE_S", 0.0)
        yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return oracle.make_pair(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def report(pair):
    config = BenchConfig(
        engine=pair.folder, limit=5, repeat=2, image_size=(48, 40), options=OPTIONS, decoder="pillow", decode_threads=1
    )
    return bench(config)


def test_every_stage_is_measured(report):
    stages = [m.stage for m in report.measurements]
    assert stages == ["read", "decode", "generate", "generate, all 6", "write", "end-to-end"]
    assert all(m.images == 5 for m in report.measurements)
    assert all(len(m.seconds) == 2 and min(m.seconds) > 0 for m in report.measurements)
    assert all(m.peak_memory["rss"] > 1 << 20 for m in report.measurements)


def test_fixed_lengths_are_the_longest(report):
    natural, fixed, end_to_end = (report.measurements[i] for i in (2, 3, 5))
    assert fixed.tokens_per_caption == 6
    assert natural.tokens <= fixed.tokens
    assert end_to_end.tokens == natural.tokens


def test_the_engine_is_measured_against_the_roofline(report):
    assert report.rates.copy > 0
    assert [m.stage for m in report.measurements if m.figures] == ["generate", "generate, all 6", "end-to-end"]
    natural, fixed, end_to_end = (m.figures for m in report.measurements if m.figures)
    assert fixed.share > 0
    assert sum(fixed.operations.values()) > sum(natural.operations.values()) * 0.999
    assert end_to_end.operations == natural.operations
    for figures in (natural, fixed, end_to_end):
        assert figures.decode_bytes_per_s > 0
        assert set(figures.idle_s) == {"input", "host"}
        assert figures.startup_s["weights"] > 0
        assert sum(figures.device_s.values()) > 0


def test_the_table_fits_a_terminal(report):
    lines = report.table().splitlines()
    assert max(map(len, lines[5:])) <= 100  # the lines above name the machine


def test_the_end_to_end_run_says_what_limits_it(report):
    details = report.measurements[-1].details
    assert details["limiting_stage"] in details["busy"]
    assert details["startup_s"] > 0
    assert report.limit.startswith(details["limiting_stage"])


def test_table_and_json_agree(report):
    table = report.table()
    content = json.loads(report.as_json(["recap-fast", "bench"]))
    assert set(content) >= {"command", "machine", "commit", "versions", "config", "measurements", "limit"}
    assert content["versions"]["torch"]
    assert content["rates"]["copy"] == report.rates.copy
    assert content["measurements"][2]["figures"]["share"] == report.measurements[2].figures.share
    assert content["measurements"][0]["figures"] is None
    for m in content["measurements"]:
        line = next(line for line in table.splitlines() if line.startswith(f"{m['stage']:<20}"))
        # the JSON has three decimals, the table one of all of them: they may round to either side of a half
        assert float(line[20:30].replace(",", "")) == pytest.approx(m["images_per_s"], abs=0.0506)
    assert f"slowest   {content['limit']}" in table


def test_shards_of_the_user_are_used_and_bad_images_do_not_matter(pair, tmp_path):
    tar = write_tars(tmp_path, 4, [(40, 40)])[0]
    content = tar.read_bytes()
    place = content.index(b"\xff\xd8\xff")  # the first JPEG
    tar.write_bytes(content[:place] + b"not" + content[place + 3 :])
    config = BenchConfig(engine=pair.folder, shards=(str(tar),), repeat=1, options=OPTIONS, decoder="pillow")
    found = {m.stage: m for m in bench(config).measurements}
    assert {stage: m.images for stage, m in found.items()} == {
        "read": 4,
        "decode": 4,
        "generate": 3,
        "generate, all 6": 3,
        "write": 4,
        "end-to-end": 3,
    }
    assert found["end-to-end"].details["failed"] == {"not_an_image": 1}


def test_copies_of_an_image_are_all_captioned(pair, tmp_path):
    image = synthetic.jpeg(40, 40, seed=1)
    tar = shard_files.write_tar(tmp_path / "copies.tar", [(f"{number}.jpg", image) for number in range(4)])
    stages = ("generate", "end-to-end")
    config = BenchConfig(
        engine=pair.folder, shards=(str(tar),), stages=stages, repeat=1, options=OPTIONS, decoder="pillow"
    )
    generate, _, end_to_end = bench(config).measurements
    assert (end_to_end.images, end_to_end.tokens) == (generate.images, generate.tokens) == (4, generate.tokens)


def test_several_prompts_are_asked_in_every_stage(pair):
    """The engine computes each image once, as in a run, and images stay what is counted."""
    stages = ("generate", "write", "end-to-end")
    config = BenchConfig(
        engine=pair.folder, stages=stages, limit=3, repeat=1, options=OPTIONS, decoder="pillow", prompt=("a?", "b?")
    )
    found = {m.stage: m for m in bench(config).measurements}
    assert {(m.images, m.captions, m.captions_per_image) for m in found.values()} == {(3, 6, 2.0)}
    assert found["generate, all 6"].tokens == 36
    assert found["generate, all 6"].tokens_per_caption == 6
    one = dataclasses.replace(config, stages=("generate",), prompt=("a?",))
    alone = {m.stage: m for m in bench(one).measurements}["generate, all 6"].figures.operations
    both = found["generate, all 6"].figures.operations
    assert both["vision_linear"] == alone["vision_linear"]
    assert both["decode_linear"] == 2 * alone["decode_linear"]


def test_an_engine_is_measured_as_it_captions(tmp_path, monkeypatch):
    """With its own prompts, and with its own sampling also where the engine runs alone."""
    (tmp_path / "recipe.toml").write_text(SAMPLED)
    pair = oracle.make_pair(tmp_path, recipe=str(tmp_path / "recipe.toml"))
    opened = []
    opens = PreparedEngine.open
    monkeypatch.setattr(PreparedEngine, "open", lambda self, how: opened.append(how.sampling) or opens(self, how))
    given = {"engine": pair.folder, "stages": ("generate",), "limit": 2, "repeat": 1, "num_slots": 4}
    measured = bench(BenchConfig.of({**given, "max_new_tokens": 3})).measurements
    assert [(sampling.temperature, sampling.top_k) for sampling in opened] == [(0.5, 3)] * 2
    assert [m.captions for m in measured] == [4, 4]


def test_each_image_has_random_numbers_of_its_own(pair, tmp_path):
    """Else captions that are sampled would end in the same places where the engine runs alone, as in no run."""
    tar = shard_files.write_tar(tmp_path / "a.tar", [(f"{i}.jpg", synthetic.jpeg(40, 40, seed=i)) for i in range(4)])
    images = Images(expand((str(tar),)).unregistered(), limit=4)
    config = BenchConfig(engine=pair.folder, options=OPTIONS, decoder="pillow")
    with closing(Captioner(config)) as captioner:
        keys = [request.noise_key for request in make_requests(images, captioner)]
    assert keys == [noise_key(sample) for sample in images]
    assert len(set(keys)) == 4


def test_shards_without_a_good_image_are_an_error(pair, tmp_path):
    tar = shard_files.write_tar(tmp_path / "bad.tar", [("a.jpg", b"no image"), ("b.jpg", b"none either")])
    for stage in ("generate", "end-to-end"):
        config = BenchConfig(engine=pair.folder, shards=(str(tar),), stages=(stage,), options=OPTIONS, decoder="pillow")
        with pytest.raises(ConfigError, match="None of the images can be decoded: there is nothing to generate"):
            bench(config)


def test_a_run_that_fails_is_an_error(pair, tmp_path):
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 500)
    shards = (str(tmp_path / "broken.tar"),)
    config = BenchConfig(engine=pair.folder, shards=shards, stages=("end-to-end",), decoder="pillow")
    with pytest.raises(RecapError, match=r"exit code 1, 0 captions\. .*broken\.tar"):
        bench(config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 0}, "--limit 0: give a count of at least 1"),
        ({"repeat": 0}, "--repeat 0: give a count of at least 1"),
        ({"image_size": (8, 64)}, "--image-size 8x64: give at least 16x16"),
        ({"stages": ("resize",)}, "--stage resize: there are read, decode, generate, write, end-to-end"),
    ],
)
def test_config_is_checked(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        BenchConfig(engine=tmp_path, **given)


def test_the_command_prints_the_table_and_writes_json(pair, tmp_path):
    file = tmp_path / "figures.json"
    arguments = ["bench", "--engine", str(pair.folder), "--limit", "3", "--repeat", "1", "--image-size", "32x32"]
    result = CliRunner().invoke(cli, [*arguments, "--stage", "write", "--decoder", "pillow", "--json", str(file)])
    assert result.exit_code == 0, result.output
    content = json.loads(file.read_text())
    assert [m["stage"] for m in content["measurements"]] == ["write"]
    assert content["rates"] is None
    assert "slowest   write, measured alone" in result.output


def test_the_command_refuses_a_size_that_is_none(pair):
    result = CliRunner().invoke(cli, ["bench", "--engine", str(pair.folder), "--image-size", "512"])
    assert isinstance(result.exception, ConfigError)
    assert "--image-size 512: give width and height" in str(result.exception)


def test_the_stages_of_the_command_are_those_there_are():
    choice = next(p.type for p in cli.commands["bench"].params if p.name == "stage")
    assert tuple(choice.choices) == ("all", *STAGES)
