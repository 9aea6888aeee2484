"""Rows of real outputs are made again; where one says something else, that is found at the right token."""

import json
import shutil

import pytest
from support import replays
from support.manual import ROOT
from support.replays import again, rows, with_mark, with_row
from support.shard_files import write_tar

from recap_fast.errors import ConfigError, ShardError
from recap_fast.generate.engine import GivesLogits
from recap_fast.generate.tensorrt_backend.engine import TensorRTEngine
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.records import CRASHED

PLACES = ("web:0", "web:1", "web:2", "table:0", "table:1", "00000:0", "00000:1")
TOKENIZER = load_tokenizer(ROOT / "demo/recap-tiny")


def test_the_places_are_those_of_the_output(captions):
    assert sorted(rows(captions)) == sorted(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_every_kind_of_input_is_read_again(captions, demo_engine, place):
    found, row = again(captions, place, demo_engine), rows(captions)[place]
    assert found.is_same
    assert found.divergence is None
    assert (found.now.status, found.now.caption) == (row["status"], row["re_caption"])
    assert found.notes == ()
    (made_with,) = found.made_with
    if row["status"] == "ok":
        assert {name: made_with[name] for name in ("machine", "commit")} == found.provenance
    else:
        assert found.provenance == {}, "no engine was needed"


def test_one_token_that_was_replaced_is_found(captions, demo_engine, tmp_path):
    row = rows(captions)["web:0"]
    ids = TOKENIZER.encode(row["re_caption"], continues=True)
    assert len(ids) + 1 == row["num_tokens"]
    place = next(i for i, token in enumerate(ids) if TOKENIZER.detokenize([ids[i : i + 1]]) == [" small"])
    other = ids.copy()
    (other[place],) = TOKENIZER.encode(" large", continues=True)
    changed = with_row(captions, tmp_path / "out", "web:0", re_caption=TOKENIZER.detokenize([other])[0])
    found = again(changed, "web:0", demo_engine)
    assert not found.is_same
    assert found.now.caption == row["re_caption"]
    parted = found.divergence
    assert parted is not None
    assert parted.num_alike == place
    assert parted.alike == TOKENIZER.detokenize([ids[:place]])[0]
    assert parted.note is None
    assert (parted.tie.row.text, parted.tie.now.text) == (" large", " small")
    assert parted.tie.margin == parted.tie.now.logit - parted.tie.row.logit > 0
    assert 0 < parted.tie.row.probability < parted.tie.now.probability


def test_a_caption_that_ended_earlier_parts_at_its_stop_token(captions, demo_engine, tmp_path):
    row = rows(captions)["table:0"]
    ids = TOKENIZER.encode(row["re_caption"], continues=True)[:10]
    (text,) = TOKENIZER.detokenize([ids])
    changed = with_row(captions, tmp_path / "out", "table:0", re_caption=text, num_tokens=11)
    parted = again(changed, "table:0", demo_engine).divergence
    assert (parted.num_alike, parted.alike) == (10, text)
    assert parted.tie.row.token in TOKENIZER.special.values()
    assert TOKENIZER.special[parted.tie.row.text] == parted.tie.row.token


@pytest.mark.parametrize("changed", [{"num_tokens": 3}, {"finish_reason": "length"}], ids=str)
def test_the_same_text_that_was_made_otherwise_is_not_the_same(captions, demo_engine, tmp_path, changed):
    found = again(with_row(captions, tmp_path / "out", "web:0", **changed), "web:0", demo_engine)
    assert not found.is_same
    assert found.divergence.tie is None
    assert found.divergence.note is not None
    assert found.divergence.alike == found.row.caption


def test_an_engine_without_logits_still_finds_the_token(captions, demo_engine, tmp_path, monkeypatch):
    assert issubclass(TorchEngine, GivesLogits)
    assert not issubclass(TensorRTEngine, GivesLogits)
    monkeypatch.setattr("recap_fast.replay.replay.GivesLogits", TensorRTEngine)
    changed = with_row(captions, tmp_path / "out", "web:0", re_caption="Nothing.")
    parted = again(changed, "web:0", demo_engine).divergence
    assert parted.num_alike == 0
    assert parted.tie is None
    assert parted.note == "an engine of torch gives no logits"


def test_a_failure_is_compared_by_its_status(captions, demo_engine, tmp_path):
    other = with_row(captions, tmp_path / "words", "web:1", error="in other words")
    assert again(other, "web:1", demo_engine).is_same
    healed = with_row(captions, tmp_path / "healed", "web:1", status="corrupt")
    found = again(healed, "web:1", demo_engine)
    assert not found.is_same
    assert (found.row.status, found.now.status, found.divergence) == ("corrupt", "truncated", None)
    failed = {"status": "truncated", "re_caption": None, "finish_reason": "error", "num_tokens": None}
    found = again(with_row(captions, tmp_path / "failed", "web:0", **failed), "web:0", demo_engine)
    assert not found.is_same
    assert found.divergence is None
    assert found.now.caption == rows(captions)["web:0"]["re_caption"]


def test_an_image_that_ended_processes_is_left_alone(captions, demo_engine, tmp_path):
    changed = with_row(captions, tmp_path / "out", "web:1", status=CRASHED)
    with pytest.raises(ConfigError, match="web:1 has the status crashed and is not made again: decoding it ended"):
        again(changed, "web:1", demo_engine)


def test_a_place_without_a_row(captions, demo_engine, drawn):
    for index in (3, 10**30):
        with pytest.raises(ConfigError, match=f"has no row web:{index}: shard web has none of this index"):
            again(captions, f"web:{index}", demo_engine)
    with pytest.raises(ConfigError, match="--shards does not include shard web: add its input"):
        again(captions, "web:0", demo_engine, shards=[str(drawn / "table.parquet")])


SAMPLED = {"temperature": 1.0, "top_p": 0.95, "seed": 5, "max_new_tokens": 20}


@pytest.mark.parametrize(
    "options", [SAMPLED, {"prompt": "What is it? {org_caption}", "max_new_tokens": 9}], ids=["sampled", "asked"]
)
def test_captions_of_other_settings_are_the_same_again(demo_engine, drawn, tmp_path, options):
    output = replays.caption(demo_engine, drawn, tmp_path / "out", **options)
    for place in PLACES:
        assert again(output, place, demo_engine).is_same, place


def test_a_sampled_caption_that_is_another_one(demo_engine, drawn, tmp_path):
    output = replays.caption(demo_engine, drawn, tmp_path / "out", **SAMPLED)
    changed = with_row(output, tmp_path / "changed", "table:1", re_caption="No objects.")
    tie = again(changed, "table:1", demo_engine).divergence.tie
    start, end = tie.now.drawn_by
    assert start - 1e-5 <= tie.draw <= end + 1e-5


def test_other_texts_in_the_prompt_are_noted(demo_engine, drawn, tmp_path):
    inputs = tmp_path / "in"
    shutil.copytree(drawn / "photos", inputs)
    prompt = {"prompt": "What is it? {org_caption}", "max_new_tokens": 9}
    output = replays.caption(demo_engine, inputs, tmp_path / "out", **prompt)
    (inputs / "x.txt").write_text("another text\n")
    assert again(output, "y", demo_engine).notes == ()
    assert again(output, "x", demo_engine).notes == (
        "org_caption: the input has changed, and the prompt has {org_caption}",
    )


def test_the_row_of_a_duplicate_is_made_of_its_own_image(demo_engine, tmp_path):
    write_tar(tmp_path / "in/web.tar", [(f"{key}.jpg", replays.draw(1)) for key in "ab"])
    output = replays.caption(demo_engine, tmp_path / "in", tmp_path / "out")
    assert rows(output)["web:1"]["duplicate_of"] == "web:0"
    found = again(output, "web:1", demo_engine)
    assert found.is_same
    assert found.notes == ("the row shares the caption of web:0, whose image is the same",)


def test_inputs_that_have_moved_are_followed(demo_engine, drawn, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(drawn, before)
    output = replays.caption(demo_engine, before, tmp_path / "out")
    before.rename(after)
    with pytest.raises(ShardError, match=r"before/web\.tar is not there"):
        again(output, "web:0", demo_engine)
    for place in ("web:0", "table:1", "00000:1"):
        assert again(output, place, demo_engine, relocate=[f"{before}={after}"]).is_same
        assert again(output, place, demo_engine, shards=[str(after)]).is_same


def test_another_image_is_refused(demo_engine, drawn, tmp_path):
    inputs = tmp_path / "in"
    shutil.copytree(drawn / "photos", inputs)
    output = replays.caption(demo_engine, inputs, tmp_path / "out")
    (inputs / "x.jpg").write_bytes(replays.draw(99))
    assert again(output, "y", demo_engine).is_same
    with pytest.raises(ShardError, match="has another image at index 0 than the one that was captioned"):
        again(output, "x", demo_engine)
    (inputs / "y.jpg").write_bytes(b"")
    with pytest.raises(ShardError, match=r"00000:1 has no image any more \(empty_image: .*\): put the input back"):
        again(output, "y", demo_engine)


def test_an_output_on_a_store_is_read_there(demo_engine, drawn, s3_bucket):
    replays.caption(demo_engine, drawn / "web.tar", f"{s3_bucket}/out")
    found = again(f"{s3_bucket}/out", "c", demo_engine)
    assert found.is_same
    assert len(found.made_with) == 1


def test_rows_of_an_unfinished_shard_are_made_again(demo_engine, drawn, tmp_path):
    output = replays.caption(demo_engine, drawn / "web.tar", tmp_path / "out", limit=2)
    assert not list(output.glob("data/*"))
    found = again(output, "a", demo_engine)
    assert found.is_same
    assert found.made_with == ()


def test_what_has_changed_since_is_noted(captions, demo_engine, tmp_path):
    output = with_mark(captions, tmp_path / "out", "versions", "recap-fast 0.0.1")
    (note,) = again(output, "web:1", demo_engine).notes
    assert note.startswith("versions: 'recap-fast 0.0.1' there, 'recap-fast ")


def test_all_of_it_is_json(captions, demo_engine, tmp_path):
    changed = with_row(captions, tmp_path / "out", "web:0", re_caption="Nothing.")
    found = json.loads(json.dumps(again(changed, "web:0", demo_engine).as_json()))
    assert found["same"] is False
    assert found["place"] == {"shard": "web", "index": 0}
    assert found["row"]["caption"] == "Nothing."
    assert {*found["divergence"]["tie"]} == {"row", "now", "margin", "precision", "steps", "draw"}
