import pytest

from recap_fast.errors import ConfigError
from recap_fast.export.config import ExportConfig

GIVEN = {"output": "out", "to": "webdataset", "target": "tars"}


def of(**given):
    return ExportConfig.of({**GIVEN, **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"to": "tar"}, "--to tar: give one of webdataset, txt, jsonl"),
        ({"target": "s3://login:secret@b/x"}, "--target s3://b/x: give a local folder, and copy the files from there."),
        ({"columns": "uid,sha265"}, r"--columns sha265: give one of url, .* Did you mean sha256\?"),
        ({"skip": "lop"}, r"--skip lop: give one of loop, .*, failed\. Did you mean loop\?"),
        ({"mix_p": 1.5}, "--mix-p 1.5: give the probability of the original caption, from 0 to 1."),
        ({"mix_p": 0.5, "caption_in": "json"}, "--mix-p writes one caption, but --caption-in json writes both"),
        ({"to": "jsonl", "caption_in": "txt"}, "--caption-in is for --to webdataset, not for jsonl: leave it out."),
        ({"target": None}, "--target is missing: give --target DIR, or with --to txt --beside to write beside the"),
        ({"to": "txt", "beside": True}, "--target and --beside were both given: give --target DIR, or with"),
        ({"beside": True, "target": None}, "--beside is for --to txt, not for webdataset: leave it out."),
        ({"to": "txt", "extension": "../x"}, r"--extension \.\./x: give one such as \.txt or \.caption\."),
        ({"to": "txt", "extension": ".PNG"}, r"--extension \.PNG is that of images: give one such as"),
        ({"to": "jsonl", "extension": ".caption"}, "--extension is for --to txt, not for jsonl: leave it out."),
        ({"repo": "me/x"}, "--repo is for --to hub, not for webdataset: leave it out."),
        ({"images": False}, "--no-images is for --to parquet or hub, not for webdataset: leave it out."),
        (
            {"to": "coco", "columns": "uid"},
            "--columns is for --to webdataset, jsonl, csv, parquet or hub, not for coco",
        ),
        ({"to": "coco", "mix_p": 0.5}, "--mix-p is for --to webdataset, txt, jsonl, csv, parquet or hub, not for coco"),
        ({"to": "hub"}, "--to hub needs --repo NAME/DATASET, the dataset to upload to."),
        (
            {"to": "hub", "repo": "me/x", "license": "My License"},
            "--license 'My License': give a name that the Hub uses",
        ),
        ({"workers": 0}, "--workers 0: give a count of at least 1."),
        ({"read_timeout": 0.0}, "--read-timeout 0.0: give a number of seconds above 0."),
        ({"read_timeout": float("nan")}, "--read-timeout nan: give a number of seconds above 0."),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(given, message):
    with pytest.raises(ConfigError, match=message):
        of(**given)


def test_words_with_commas_and_defaults():
    config = of(skip=" failed, failed", columns=["uid", "key"], mix_p=None)
    assert (config.skip, config.columns) == (("failed",), ("uid", "key"))
    assert (config.place, of(mix_p=0.8).place, of(caption_in="txt").place) == ("json", "txt", "txt")


def test_settings_are_what_decides_what_is_written():
    assert of(workers=3, verify=False, shards=["x"]).settings == of().settings
    for other in ({"seed": 1}, {"mix_p": 0.0}, {"skip": "failed"}, {"columns": "uid"}, {"sub_caption": "first"}):
        assert of(**other).settings != of().settings
