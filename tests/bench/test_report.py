import dataclasses
import json

from recap_fast.bench.report import Measurement, Report
from recap_fast.bench.roofline import Figures, Rates

READ = Measurement(stage="read", images=100, seconds=(0.1, 0.4, 0.2), peak_memory={"rss": 10**9})
GENERATE = Measurement(
    stage="generate",
    images=100,
    captions=100,
    tokens=5000,
    seconds=(2.0, 1.0, 4.0),
    peak_memory={"rss": 10**9, "cuda": 3 * 10**9},
)


def test_rates_are_of_the_median():
    assert READ.images_per_s == 500
    assert (GENERATE.images_per_s, GENERATE.tokens_per_s, GENERATE.tokens_per_caption) == (50, 2500, 50)


def test_json_has_token_rates_only_where_there_are_tokens():
    assert "tokens_per_s" not in READ.as_json()
    assert GENERATE.as_json()["tokens_per_s"] == 2500


def test_the_table_says_where_images_have_several_captions():
    several = dataclasses.replace(GENERATE, captions=300)
    assert (several.captions_per_image, round(several.tokens_per_caption, 2)) == (3, 16.67)
    assert several.as_json()["captions_per_image"] == 3
    for rows, words in (((READ, several), "100, 3 captions each"), ((READ, GENERATE), "100")):
        line = next(li for li in Report("tiny", "pillow", {}, rows).table().splitlines() if li.startswith("images "))
        assert line == f"images    {words}; median of 3 after a warm-up"


def test_the_table_shows_both_memories():
    table = Report("tiny", "pillow", {}, (READ, GENERATE)).table()
    assert table.splitlines()[-1] == "slowest   generate, measured alone"
    line = next(line for line in table.splitlines() if line.startswith("generate"))
    assert line.split() == ["generate", "50.0", "2,500", "50.0", "1.00", "GB", "rss", "+", "3.00", "GB", "cuda"]


def test_json_shows_addresses_without_secrets():
    url = "https://me:password@host/l?sig=x"
    report = Report("tiny", "pillow", {"shards": (url,)}, (READ,))
    content = json.loads(report.as_json(["bench", "--shards", f"@{url}"]))
    assert content["command"] == ["bench", "--shards", "@https://host/l"]
    assert content["config"] == {"shards": ["https://host/l"]}


def test_the_engine_has_lines_of_its_own():
    rates = Rates(precisions=("int8", "float32"), linear=2e12, other=1e12, copy=4e10)
    figures = Figures(
        share=0.625,
        operations={"head": 1.0},
        kv_bytes=1,
        decode_bytes_per_s=None,
        device_s={},
        idle_s={"input": 1.5, "host": 0.25},
        startup_s={"weights": 2.0, "prefix": 0.5},
    )
    report = Report("tiny", "pillow", {}, (READ, dataclasses.replace(GENERATE, figures=figures)), rates)
    lines = report.table().splitlines()
    line = lines[next(i for i, line in enumerate(lines) if line.startswith("engine  ") and "roofline" in line) + 1]
    assert " ".join(line.split()) == "generate 62.5% - 1.50 s 0.25 s weights 2.0, prefix 0.5"
    assert lines[-2] == "rates     2.00 TFLOP/s int8, 1.00 TFLOP/s float32; copy 40 GB/s"
    assert json.loads(report.as_json([]))["measurements"][1]["figures"]["share"] == 0.625
