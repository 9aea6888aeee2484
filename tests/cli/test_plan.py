"""`recap-fast plan`: its lines, and that its counts are the rows that a run then has."""

import json
from datetime import UTC, datetime

import make_shards
import numpy as np
from click.testing import CliRunner
from support.runs import read_rows
from support.shard_files import webdataset_members, write_table, write_tar
from support.web import Web

from recap_fast.cli.main import cli
from recap_fast.cli.plan import conclude, describe
from recap_fast.launch.estimate import Estimate
from recap_fast.launch.remaining import Done
from recap_fast.launch.speeds import Speed
from recap_fast.shards.census import Census, Extrapolation, Problem, Tally

NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
CENSUS = Census(
    counted={"stats": Tally(12_000, 120_000_000, 6 << 40)},
    estimated=(Extrapolation(Tally(896, 8_960_000, 458_752 << 20), Tally(16, 160_000, 8 << 30), 0.0123),),
    unreadable=Tally(4, 0, 0),
    problems=tuple(Problem(f"s3://b/{number}.tar", "is not there") for number in range(4)),
)
NOTHING = Census(counted={}, estimated=(), unreadable=Tally(), problems=())


def planned(*words):
    done = CliRunner().invoke(cli, ["plan", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def lines(**changed):
    given = {"census": CENSUS, "done": Done(), "speed": Speed(100.0, "as given"), "workers": 8, "price_per_hour": 2.5}
    found = Estimate(**{**given, **changed})
    return [*describe(found, None, NOW), ("", conclude(found))]


def test_the_lines_of_a_worked_example():
    assert lines() == [
        ("shards", "12,900 to do"),
        ("images", "about 128,960,000 to do"),
        ("bytes", "6,592.0 GiB"),
        ("counted", "120,000,000 images in 12,000 shards by img2dataset's _stats.json"),
        (
            "estimated",
            "8,960,000 images in 896 tars by their bytes, from 160,000 images in 8.0 GiB of 16 tars, give or take 1.2%",
        ),
        ("unreadable", "4 shards, which will have no rows"),
        *[("problem", f"s3://b/{number}.tar is not there") for number in range(3)],
        ("problem", "1 more"),
        ("speed", "100 images/s on one GPU: as given"),
        ("GPU-hours", "358"),
        ("time", "44 h 47 min with 8 workers; begun now, it ends at 2026-11-29 04:46"),
        ("cost", "$895.56; $6.94 for a million images"),
        ("output", "25.8 GiB, at 215 bytes a row as in the output of the demo"),
        (
            "",
            "Estimated: 6.9% of the images, from 8.0 GiB for 448.0 GiB; hours and cost, from images/s and without the "
            "time to start; the output, from the bytes of a row.",
        ),
    ]


def test_what_is_done_is_said_and_its_rows_are_the_measure():
    said = dict(lines(census=NOTHING, done=Done(shards=3, rows=4_000, size_bytes=1_600_000)))
    assert said["shards"] == "0 to do, 3 done"
    assert said["images"] == "0 to do, 4,000 done"
    assert said["output"] == "0 bytes, at 400 bytes a row as in 4,000 rows that are done"
    assert said["time"] == "0 s with 8 workers; begun now, it ends at 2026-11-27 08:00"


def test_rows_that_may_have_several_images_are_said_to_be_a_least_number():
    several = Census(counted={"rows": Tally(2, 500, 9)}, estimated=(), unreadable=Tally(), problems=())
    said = dict(lines(census=several))
    assert said["images"] == "at least 500 to do"
    assert said[""].startswith("Estimated: 500 rows of Parquet files, as one image each; hours and cost, ")


def test_a_run_that_takes_ages_has_no_date():
    assert dict(lines(speed=Speed(1e-9, "as given")))["time"].endswith(" h with 8 workers")


def test_without_images_per_second_it_says_how_to_get_them(tiny_engine, small_inputs):
    said = planned("--shards", small_inputs)
    assert "unknown: run `recap-fast tune --engine DIR` on the card and give --engine DIR, or give --images" in said
    assert "\nGPU-hours" not in said
    said = planned("--shards", small_inputs, "--engine", tiny_engine)
    assert f"unknown: this engine was not tuned. Run `recap-fast tune --engine {tiny_engine}` on the card" in said
    assert said.endswith("\nAll images were counted. Estimated: the output, from the bytes of a row.\n")


def test_its_counts_are_the_rows_of_a_run(start, tmp_path):
    inputs = tmp_path / "mixed"
    inputs.mkdir()
    for number in range(2):
        make_shards.write_shard(inputs, number, make_shards.make_entries(number, 20, np.random.default_rng(number)))
    write_tar(inputs / "plain.tar", webdataset_members(3))
    write_table(inputs / "table.parquet", {"jpg": [b"image"] * 4})
    (inputs / "photos").mkdir()
    (inputs / "photos/a.jpg").write_bytes(b"no image")
    plan = json.loads(planned("--shards", inputs, "--json"))
    assert {origin: tally["images"] for origin, tally in plan["counted"].items()} == {
        "stats": 40,
        "headers": 3,
        "footer": 4,
        "listing": 1,
    }
    assert plan["to_do"]["shards"] == 5
    start(shards=(str(inputs),), max_error_rate=1.0)
    found = read_rows(tmp_path / "out")
    assert plan["to_do"]["images"] == len(found) == 48
    again = json.loads(planned("--shards", inputs, "--json", "--output", tmp_path / "out"))
    assert (again["to_do"]["images"], again["done"]["rows"], again["done"]["shards"]) == (0, 48, 5)
    data = sum(path.stat().st_size for path in (tmp_path / "out/data").rglob("*.parquet"))
    assert again["done"]["size_bytes"] == data


def test_a_web_server_is_asked_for_its_tars_and_no_secret_is_shown(small_inputs):
    with Web() as web:
        web.files["in/a.tar"] = (small_inputs / "00000.tar").read_bytes()
        web.files["in/b.tar"] = b"<html>" * 200
        web.login = "anna:secret"
        said = planned(
            *("--shards", f"{web.url('in/{a,b}.tar', 'anna:secret@')}?signature=secret", "--images-per-second", 3)
        )
    assert "\ncounted    6 images in 1 shard by the headers of tars\n" in said
    assert f"\nproblem    http://127.0.0.1:{web.port}/in/b.tar is not a tar: " in said
    assert "secret" not in said


def test_what_is_given_wrong_is_a_sentence(tmp_path):
    done = CliRunner().invoke(cli, ["plan", "--shards", str(tmp_path / "none.tar")])
    assert str(done.exception).endswith("nothing matches it: no tar, Parquet file or image is there.")
