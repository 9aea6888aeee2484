"""Captions in every form that --calibration takes, and the conversations that they become."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers

from recap_fast.build import calibration
from recap_fast.errors import ConfigError

CAPTIONS = [f"caption {i}" for i in range(50)]


def write(path, captions=CAPTIONS):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"re_caption": pa.array(captions, pa.string()), "key": ["k"] * len(captions)}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": c}) + "\n" for c in captions))
    else:
        path.write_text("".join(f"{c}\n" for c in captions))
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_files(name, tmp_path):
    assert calibration.read_captions(write(tmp_path / name)) == CAPTIONS


def test_the_output_of_a_run(tmp_path):
    write(tmp_path / "data" / "b" / "00001.parquet", CAPTIONS[25:])
    write(tmp_path / "data" / "a" / "00000.parquet", [*CAPTIONS[:25], None])
    assert calibration.read_captions(tmp_path) == CAPTIONS


def test_no_more_than_are_needed(tmp_path):
    path = write(tmp_path / "a.txt", [f"caption {i}" for i in range(2000)])
    assert len(calibration.read_captions(path)) == calibration.MAX_TEXTS


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("few.txt", b"one\ntwo\n\n", "has 2 captions"),
        ("a.jsonl", b'{"txt": "a"}\n', "line 1"),
        ("a.csv", b"a\n", "give a .txt"),
        ("a.parquet", b"no parquet", "cannot be read as captions"),
        ("a.txt", b"a caption\n\xff\n", "not UTF-8.* at byte 10"),
        ("a.jsonl", b"a caption\n\xff\n", "not UTF-8.* at byte 10"),
        ("none.txt", None, "does not exist"),
    ],
)
def test_what_cannot_be_used_is_named(name, content, reason, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        calibration.read_captions(tmp_path / name)


def test_a_parquet_without_the_column_is_named(tmp_path):
    pq.write_table(pa.table({"caption": CAPTIONS}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="re_caption"):
        calibration.read_captions(tmp_path / "a.parquet")


def test_texts_are_conversations_as_the_engine_sees_them(pair):
    captions = ["A red cube.", "Two blue balls."]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(pair.folder / "tokenizer.json"))
    start = np.concatenate([pair.prompts.prefix_ids, pair.prompts.text_ids({})[0]])
    for caption, text in zip(captions, calibration.make_texts(captions, pair.spec.prompt, pair.tokenizer), strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids[: len(start)] == start.tolist()
        assert tokenizer.decode(ids[len(start) :]) == caption


def test_fields_of_a_question_are_empty_whatever_they_are_called(pair):
    prompt = replace(pair.spec.prompt, text="{{Look}} at {exif.Make} {my-key} {org_caption}.")
    (text,) = calibration.make_texts(["A cube."], prompt, pair.tokenizer)
    assert "{Look} at   ." in text


def test_the_folder_is_what_datasets_reads(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    calibration.write_texts(tmp_path / "texts", CAPTIONS)
    rows = datasets.load_dataset(str(tmp_path / "texts"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["text"][:] == CAPTIONS
