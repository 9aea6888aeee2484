"""Exports of runs that make several captions an image, or draw its prompt: which caption is written, and where all."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from support import tars
from support.exports import NASTY, below, make_output, picture, run_export, write_scores
from support.hub_fake import HubFake
from support.shard_files import write_tar

from recap_fast.cli.main import cli
from recap_fast.errors import ConfigError
from recap_fast.export import parquet_writer
from recap_fast.records import Selection
from recap_fast.write.output_folder import OutputFolder

QUESTIONS = {"short": "One sentence?", "detailed": "Say all of the red things."}
SEVERAL = {"prompts": [{"prompts": {name: question}} for name, question in QUESTIONS.items()], "num_captions": 2}
DRAWN = {"prompts": [{"set": "mix", "prompts": QUESTIONS, "weights": {"short": 1, "detailed": 3}, "seed": 0}]}
LABELS = ["short", "short:2", "detailed", "detailed:2"]
REASONS = ["stop", "length", "stop", "loop"]


def text_of(label: str, index: int) -> str:
    return f"{label} of {index}. It is {NASTY}" if label == "detailed" else f"{label} of {index}. More"


def captions_of(index: int) -> list[dict[str, Any]]:
    return [
        {
            "name": (name := label.partition(":")[0]),
            "prompt": QUESTIONS[name],
            "text": text_of(label, index),
            "finish_reason": reason,
            "num_tokens": 10 * place + index,
        }
        for place, (label, reason) in enumerate(zip(LABELS, REASONS, strict=True))
    ]


def fill(row: dict[str, Any], captions: list[dict[str, Any]]) -> None:
    """The second image of the tar fails, the others have these captions."""
    if row["index"] == 1:
        row |= {"re_caption": None, "status": "corrupt"}
        return
    first = captions[0]
    row |= {"re_caption": first["text"], "re_length": 4, "captions": captions, "flags": ["cut", "same_caption"]}
    row |= {name: first[name] for name in ("finish_reason", "num_tokens")}


def write_input(tmp_path: Path) -> Path:
    members = []
    for number in range(3):
        name = f"COCO_val2014_{number:012d}"
        members += [(f"{name}.png", picture(number)), (f"{name}.txt", b"alt"), (f"{name}.json", b'{"captions": 7}')]
    return write_tar(tmp_path / "in/a.tar", members)


@pytest.fixture
def made(tmp_path: Path) -> OutputFolder:
    """Two captions of each of two prompts."""
    write_input(tmp_path)
    return make_output(
        tmp_path / "out", tmp_path / "in", change=lambda row: fill(row, captions_of(row["index"])), marks=SEVERAL
    )


@pytest.fixture
def drawn(tmp_path: Path) -> OutputFolder:
    """A prompt for each image: the first one is asked briefly, the third at length."""
    write_input(tmp_path)
    return make_output(
        tmp_path / "out",
        tmp_path / "in",
        change=lambda row: fill(row, captions_of(row["index"])[row["index"] :][:1]),
        marks=DRAWN,
    )


def jsonl(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in below(folder)["a.jsonl"].decode().split("\n")[:-1]]


@pytest.mark.parametrize("label", LABELS)
def test_the_caption_that_was_asked_for_is_written_by_every_kind(
    made: OutputFolder, tmp_path: Path, label: str
) -> None:
    expected = [text_of(label, 0), None, text_of(label, 2)]
    run_export(made, "jsonl", tmp_path / "jsonl", caption=label)
    assert [row["re_caption"] for row in jsonl(tmp_path / "jsonl")] == expected
    run_export(made, "parquet", tmp_path / "parquet", caption=label)
    (path,) = (tmp_path / "parquet/data").iterdir()
    assert pq.read_table(path)["re_caption"].to_pylist() == expected
    run_export(made, "webdataset", tmp_path / "tars", caption=label)
    members = tars.by_name(tmp_path / "tars/a.tar")
    jsons = [json.loads(content) for name, content in members.items() if name.endswith("json")]
    assert [fields["re_caption"] for fields in jsons] == expected
    run_export(made, "webdataset", tmp_path / "mixed", caption=label, mix_p=0.0)
    texts = [content.decode() for name, content in tars.by_name(tmp_path / "mixed/a.tar").items() if name[-3:] == "txt"]
    assert texts == [expected[0], "alt", expected[2]]
    run_export(made, "txt", tmp_path / "txt", caption=label, sub_caption="first")
    assert list(below(tmp_path / "txt").values()) == [f"{label} of {index}.".encode() for index in (0, 2)]
    run_export(made, "coco", tmp_path / "coco", caption=label)
    assert pq.read_table(tmp_path / "coco/data")["recaption"].to_pylist() == expected


def test_what_a_row_says_of_its_caption_is_of_the_one_that_is_written(made: OutputFolder, tmp_path: Path) -> None:
    write_scores(made, "a", [0.5, 0.5, 0.5])
    columns = "re_length,finish_reason,num_tokens,flags,re_clip_score,org_clip_score"
    run_export(made, "jsonl", tmp_path / "first", columns=columns)
    row = jsonl(tmp_path / "first")[0]
    assert (row["re_clip_score"], row["org_clip_score"], row["flags"]) == (0.5, 0.25, ["cut", "same_caption"])
    run_export(made, "jsonl", tmp_path / "other", columns=columns, caption="detailed:2")
    row = jsonl(tmp_path / "other")[0]
    assert (row["finish_reason"], row["num_tokens"], row["re_length"]) == ("loop", 30, 4)
    assert (row["flags"], row["re_clip_score"], row["org_clip_score"]) == (["loop"], None, 0.25)
    result = run_export(made, "jsonl", tmp_path / "skipped", skip="loop", caption="detailed:2")
    assert (result.counts["skipped: loop"], len(jsonl(tmp_path / "skipped"))) == (2, 1)
    run_export(made, "jsonl", tmp_path / "own", columns=columns, caption="short")
    assert jsonl(tmp_path / "own") == jsonl(tmp_path / "first")


def test_flags_of_the_image_stay_with_another_caption(tmp_path: Path) -> None:
    write_input(tmp_path)

    def change(row: dict[str, Any]) -> None:
        fill(row, captions_of(row["index"]))
        row["flags"] = ["cut", "flat_color", "placeholder"]

    output = make_output(tmp_path / "out", tmp_path / "in", change=change, marks=SEVERAL)
    run_export(output, "jsonl", tmp_path / "to", caption="short:2")
    assert jsonl(tmp_path / "to")[2]["flags"] == ["cut", "flat_color", "placeholder"]
    run_export(output, "jsonl", tmp_path / "else", caption="detailed:2")
    assert jsonl(tmp_path / "else")[2]["flags"] == ["loop", "flat_color", "placeholder"]


def test_all_captions_are_in_jsonl_as_they_are_and_in_csv_as_json(made: OutputFolder, tmp_path: Path) -> None:
    expected = [captions_of(0), None, captions_of(2)]
    run_export(made, "jsonl", tmp_path / "jsonl")
    assert [row["captions"] for row in jsonl(tmp_path / "jsonl")] == expected
    run_export(made, "jsonl", tmp_path / "some", columns="key")
    assert "captions" not in jsonl(tmp_path / "some")[0]
    run_export(made, "csv", tmp_path / "csv", columns="captions")
    rows = list(csv.DictReader(io.StringIO(below(tmp_path / "csv")["a.csv"].decode(), newline="")))
    assert [json.loads(row["captions"]) if row["captions"] else None for row in rows] == expected
    assert rows[1]["captions"] == ""


def test_load_dataset_and_duckdb_read_the_nested_column(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "parquet", tmp_path / "to")
    loaded = datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=str(tmp_path / "cache"))
    texts = dict.fromkeys(("name", "prompt", "text", "finish_reason"), datasets.Value("string"))
    assert loaded.features["captions"] == datasets.List({**texts, "num_tokens": datasets.Value("int32")})
    assert loaded["captions"][:] == [captions_of(0), None, captions_of(2)]
    found = duckdb.sql(
        f"SELECT c.text FROM (SELECT unnest(captions) AS c FROM '{tmp_path}/to/data/*.parquet') "
        "WHERE c.name = 'short' AND c.num_tokens < 10"
    )
    assert found.fetchall() == [(text_of("short", index),) for index in (0, 2)]
    metadata = pq.read_metadata(next((tmp_path / "to/data").iterdir()))
    columns = {(column := metadata.row_group(0).column(i)).path_in_schema: column for i in range(metadata.num_columns)}
    text = columns["captions.list.element.text"]
    assert (text.compression, text.statistics is not None) == ("ZSTD", True)
    assert "RLE_DICTIONARY" in columns["captions.list.element.prompt"].encodings
    assert "RLE_DICTIONARY" not in text.encodings


def test_captions_count_towards_the_bytes_of_a_row_group(
    made: OutputFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(len(each["text"]) for each in captions_of(0))
    monkeypatch.setattr(parquet_writer, "GROUP_BYTES", size)
    run_export(made, "parquet", tmp_path / "to", images=False, columns="captions")
    assert pq.read_metadata(next((tmp_path / "to/data").iterdir())).num_row_groups == 3


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the library's own calls
def test_the_hubs_card_has_the_features_and_says_which_caption_is_which(
    made: OutputFolder, tmp_path: Path, hub: HubFake
) -> None:
    run_export(made, "hub", tmp_path / "to", repo="me/x", license="other", caption="detailed")
    card = (tmp_path / "to/README.md").read_text()
    assert "`captions` has all captions of an image, each with the name and the text of its prompt." in card
    assert "| re_caption is of the prompt | detailed |" in card
    listed = datasets.Features._from_yaml_list(yaml.safe_load(card.split("---\n")[1])["dataset_info"]["features"])
    loaded = datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features == listed
    assert loaded["captions"][2] == captions_of(2)


def test_the_json_of_a_webdataset_has_the_texts_by_name(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "webdataset", tmp_path / "tars")
    members = tars.by_name(tmp_path / "tars/a.tar")
    jsons = [json.loads(content) for name, content in members.items() if name.endswith("json")]
    assert jsons[0]["captions"] == {label: text_of(label, 0) for label in LABELS}
    assert list(jsons[0]["captions"]) == LABELS
    assert jsons[1]["captions"] is None
    run_export(made, "webdataset", tmp_path / "txt", caption_in="txt", caption="detailed")
    assert [content for name, content in tars.by_name(tmp_path / "txt/a.tar").items() if name.endswith("json")] == [
        b'{"captions": 7}'
    ] * 3


def test_so_has_that_of_a_folder_that_becomes_a_tar(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / f"in/{number}.png").write_bytes(picture(number))
    output = make_output(
        tmp_path / "out", tmp_path / "in", change=lambda row: fill(row, captions_of(row["index"])), marks=SEVERAL
    )
    run_export(output, "webdataset", tmp_path / "tars", columns="width")
    fields = json.loads(tars.by_name(tmp_path / "tars/00000.tar")["00000000000.json"])
    assert fields["captions"] == {label: text_of(label, 0) for label in LABELS}
    run_export(output, "webdataset", tmp_path / "txt", caption="detailed", mix_p=0.0)
    members = tars.by_name(tmp_path / "txt/00000.tar")
    assert members["00000000002.txt"].decode() == text_of("detailed", 2)
    assert "captions" not in json.loads(members["00000000002.json"])


def test_where_several_images_share_a_json_it_has_the_captions_of_each(tmp_path: Path) -> None:
    members = [(f"{number}.{side}.png", picture(number)) for number in range(2) for side in ("left", "right")]
    members += [(f"{number}.json", b"{}") for number in range(2)]
    write_tar(tmp_path / "in/a.tar", sorted(members))
    output = make_output(
        tmp_path / "out",
        tmp_path / "in",
        change=lambda row: fill(row, captions_of(row["index"])),
        selection=Selection(images="all"),
        marks=SEVERAL,
    )
    run_export(output, "webdataset", tmp_path / "tars")
    made = tars.by_name(tmp_path / "tars/a.tar")
    first, second = (json.loads(made[f"{number}.json"]) for number in range(2))
    assert first["captions"] == [{label: text_of(label, 0) for label in LABELS}, None]
    assert second["captions"] == [{label: text_of(label, index) for label in LABELS} for index in (2, 3)]
    assert second["re_captions"] == [text_of("short", index) for index in (2, 3)]


def test_coco_has_an_annotation_for_each_caption(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "coco", tmp_path / "to")
    rows = pq.read_table(tmp_path / "to/data").to_pylist()
    assert [row["image_id"] for row in rows] == [0, 0, 0, 0, 1, 2, 2, 2, 2]
    assert [row["recaption"] for row in rows if row["image_id"] == 2] == [text_of(label, 2) for label in LABELS]
    assert {row["image"]["bytes"] for row in rows if row["image_id"] == 2} == {picture(2)}
    run_export(made, "coco", tmp_path / "first", sub_caption="first")
    rows = pq.read_table(tmp_path / "first/data").to_pylist()
    assert [row["recaption"] for row in rows if row["image_id"] == 0] == [f"{label} of 0." for label in LABELS]


def test_rows_that_have_a_caption_of_another_prompt_are_left_out(drawn: OutputFolder, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["export", drawn.address, "--to", "jsonl", "--target", str(tmp_path / "to"), "--caption", "detailed"]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1:3] == [
        "samples  2, 1 of them without a caption",
        "skipped  1  (caption of another prompt 1)",
    ]
    assert [row["re_caption"] for row in jsonl(tmp_path / "to")] == [None, text_of("detailed", 2)]
    run_export(drawn, "webdataset", tmp_path / "tars", caption="short")
    assert [name[-5] for name in tars.by_name(tmp_path / "tars/a.tar") if name.endswith("png")] == ["0", "1"]


@pytest.mark.parametrize("name", ["detail", "short:3", "mix"])
def test_a_name_that_no_row_has_is_refused_with_those_that_there_are(
    made: OutputFolder, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"^--caption {name}: give one of short, short:2, detailed, detailed:2."):
        run_export(made, "jsonl", tmp_path / "to", caption=name)
    assert below(tmp_path / "to") == {}


def test_of_a_run_with_one_prompt_there_is_nothing_to_choose(tmp_path: Path) -> None:
    write_input(tmp_path)
    output = make_output(tmp_path / "out", tmp_path / "in")
    with pytest.raises(ConfigError, match=r"--caption short: each row has one caption, of the same prompt\. Leave the"):
        run_export(output, "jsonl", tmp_path / "to", caption="short")
    run_export(output, "jsonl", tmp_path / "to", columns="captions")
    assert [row["captions"] for row in jsonl(tmp_path / "to")] == [None, None, None]


def test_another_caption_is_another_export(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "jsonl", tmp_path / "to", caption="detailed")
    assert run_export(made, "jsonl", tmp_path / "to", caption="detailed").already == 1
    with pytest.raises(ConfigError, match=r"other settings(?s:.*)caption: 'detailed' there, None now"):
        run_export(made, "jsonl", tmp_path / "to")


def test_a_damaged_run_file_is_named(made: OutputFolder, tmp_path: Path) -> None:
    content = json.loads((tmp_path / "out/run.json").read_bytes())
    content["fingerprint"]["prompts"] = [{"prompts": []}]
    (tmp_path / "out/run.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"not as a run wrote it: its prompts are not as a run writes them\."):
        run_export(made, "jsonl", tmp_path / "to")
