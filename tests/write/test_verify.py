import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.finished_rows import finish
from support.ledgers import open_ledger, to_compare
from support.shard_files import read_samples, webdataset_members, write_rows, write_tar

from recap_fast.atomic import sha256_of
from recap_fast.errors import ConfigError
from recap_fast.records import Shard
from recap_fast.shards.identity import identity
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.verify import verify

N = 6


@pytest.fixture
def inputs(tmp_path):
    for i in range(3):
        write_tar(tmp_path / "in" / f"{i}.tar", webdataset_members(N, i * N))
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path, inputs):
    """A finished run of three shards; row 2 of each has failed."""
    ledger = open_ledger(tmp_path / "out", inputs)
    for shard in ledger.shards:
        finish(ledger, shard, failed=[2])
    return tmp_path / "out"


def verdict(output, inputs=None):
    return verify(OutputFolder.at(output), inputs and to_compare(inputs))


def faults(output, inputs=None):
    return [(fault.kind, fault.shard, fault.finding) for fault in verdict(output, inputs).faults]


def sentences(output, inputs=None):
    return [f"{fault.shard} {fault.sentence}" for fault in verdict(output, inputs).faults]


def edit_record(output, name, /, **fields):
    path = output / "manifests" / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rewrite(output, name, indices, **options):
    """Replaces an output, and its hash in the record: only the rows can give it away."""
    samples, _ = read_samples(Shard(name, str(output.parent / "in" / f"{name}.tar"), "tar"))
    given = {"shard": name, "indices": indices, "samples": samples, "failed": [2], **options}
    path = write_rows(output / "data" / f"{name}.parquet", **given)
    edit_record(output, name, output={"sha256": sha256_of(path), "size_bytes": path.stat().st_size})


def test_a_good_run_has_no_faults(output, inputs):
    found = verdict(output)
    assert (found.faults, found.notes) == ([], [])
    assert (found.num_shards, found.rows, found.captioned, found.failed) == (3, 18, 15, {"truncated": 3})
    assert faults(output, inputs) == []


@pytest.mark.parametrize("batch_rows", [2, 1000])
@pytest.mark.parametrize(
    ("indices", "options", "kind", "sentence"),
    [
        ([0, 1, 2, 4, 5], {}, "wrong rows", "has index 4 in row 3: 3 is missing"),
        ([0, 1, 2, 3, 3, 4, 5], {}, "wrong rows", "has index 3 in row 4: 3 is there twice"),
        ([1, 2, 3, 4, 5], {}, "wrong rows", "has index 1 in row 0: 0 is missing"),
        ([0, 1, 2, 4, 3, 5], {}, "wrong rows", "has index 4 in row 3: 3 is missing"),
        ([0, 1, 2, 3, 4], {}, "wrong rows", "has 5 rows, but its record says 6"),
        (range(N), {"shard": "0"}, "wrong rows", "has rows of shard 0"),
        (
            range(N),
            {"failed": [2, 3]},
            "wrong counts",
            "has rows ok 4, truncated 2, but its record says ok 5, truncated 1",
        ),
    ],
)
def test_rows_that_the_record_does_not_say(output, monkeypatch, batch_rows, indices, options, kind, sentence):
    monkeypatch.setattr("recap_fast.write.verify.BATCH_ROWS", batch_rows)
    rewrite(output, "1", indices, **options)
    found = faults(output)
    assert (kind, "1", sentence) in found
    assert len(found) == 1 or len(indices) != N, "rows that are too few or too many are faults of their own"


@pytest.mark.parametrize(
    ("fields", "kind", "sentence"),
    [
        ({"captioned": N}, "wrong counts", "has 6 rows by its record, but 6 captioned and 1 failed"),
        ({"flags": {"cut": 2}}, "wrong counts", "has flags none, but its record says cut 2"),
        ({"shard": "0"}, "wrong record", "has the done-record of 0"),
        ({"output": None}, "no output", "has no output by its record"),
    ],
)
def test_a_record_that_does_not_fit(output, fields, kind, sentence):
    edit_record(output, "1", **fields)
    assert faults(output)[0] == (kind, "1", sentence)


def test_an_output_that_is_no_table_of_ours(output):
    written = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), written)
    for content in (b"text", written.getvalue()):
        (output / "data" / "1.parquet").write_bytes(content)
        assert [kind for kind, _, _ in faults(output)] == ["wrong hash", "unreadable"]


@pytest.mark.parametrize("column", ["shard", "index", "status"])
@pytest.mark.parametrize("make", [pa.nulls, lambda num, _: pa.array([["x"]] * num)], ids=["null", "other type"])
def test_an_output_whose_cells_are_none_of_ours(output, inputs, column, make):
    path = output / "data" / "1.parquet"
    table = pq.ParquetFile(path).read()
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, make(N, table.schema.field(column).type)), path)
    assert [kind for kind, _, _ in faults(output, inputs)] == ["wrong hash", "unreadable"]


def test_every_changed_byte_is_found(output):
    path = output / "data" / "1.parquet"
    content = path.read_bytes()
    for position in range(0, len(content), 97):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert "wrong hash" in {kind for kind, _, _ in faults(output)}, position


@pytest.mark.parametrize("kept", [0, 4, 0.5, 0.99])
def test_a_cut_file(output, kept):
    path = output / "data" / "1.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    found = faults(output)
    assert [(kind, shard) for kind, shard, _ in found] == [("wrong hash", "1"), ("unreadable", "1")]
    assert f"bytes, but {len(content):,} were written" in found[0][2]


def test_files_of_no_shard_and_inputs_that_no_run_has_had(output, tmp_path):
    write_rows(output / "data" / "deep" / "extra.parquet", "extra", [0])
    (output / "manifests" / "more.json").write_text("{}")
    write_tar(tmp_path / "in" / "9.tar", [])
    assert faults(output, tmp_path / "in") == [
        ("new input", "9", f"has no rows yet: {tmp_path}/in/9.tar"),
        ("stranger", "deep/extra", "is not a shard of the run, but data/deep/extra.parquet is there"),
        ("stranger", "more", "is not a shard of the run, but manifests/more.json is there"),
    ]


def test_failed_shards_are_faults_and_truncated_ones_are_notes(output):
    edit_record(output, "0", status="truncated", error="cut off at byte 9")
    edit_record(output, "1", status="failed", error="is no tar")
    found = verdict(output)
    assert [(f.kind, f.sentence) for f in found.faults] == [("not complete", "is recorded as failed: is no tar")]
    assert found.notes == ["0: the input is truncated (cut off at byte 9); its whole images are captioned"]


def test_a_failed_shard_without_output_is_one_fault(output):
    (output / "data" / "1.parquet").unlink()
    edit_record(output, "1", status="failed", error="is no tar", output=None, rows=0, captioned=0, failed={})
    assert [kind for kind, _, _ in faults(output)] == ["not complete"]


def test_inputs_that_have_changed(output, inputs):
    write_tar(inputs / "0.tar", webdataset_members(N + 1))
    (inputs / "1.tar").write_bytes(b"garbage" * 100)
    write_tar(inputs / "2.tar", webdataset_members(N, 2 * N + 1))
    found = verdict(output, inputs)
    assert [(fault.shard, fault.sentence) for fault in found.faults] == [
        ("0", f"lacks rows of {inputs}/0.tar: 000000006.jpg; run again with --redo-changed"),
        (
            "1",
            f"cannot be compared with its input: {inputs}/1.tar is not a tar: a field that is not a number "
            "(b'arbagega') at byte 0; mend it, then verify again",
        ),
        (
            "2",
            f"has rows with other names than {inputs}/2.tar: 000000012.jpg, 000000013.jpg, 000000014.jpg and 3 more; "
            "run again with --redo-changed",
        ),
    ]
    assert found.num_compared == 3
    assert faults(output) == []


def test_a_folder_that_is_no_output_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no run\.json"):
        verify(OutputFolder.at(tmp_path))


def test_the_remedy_of_changed_bytes_and_doubled_rows_is_named_and_helps(output, inputs):
    path = output / "data" / "1.parquet"
    content = bytearray(path.read_bytes())
    content[10] ^= 1  # same size: another run would not notice
    path.write_bytes(content)
    rewrite(output, "2", [0, 1, 2, 3, 3, 5])
    found = sentences(output)
    assert {sentence.split()[0] for sentence in found} == {"1", "2"}
    for sentence in found:
        name = sentence.split()[0]
        assert sentence.endswith(f"; delete data/{name}.parquet and manifests/{name}.json, then run again")
    ledger = open_ledger(output, inputs)
    assert ledger.pending() == []
    for name in ("1", "2"):
        (output / "data" / f"{name}.parquet").unlink()
        (output / "manifests" / f"{name}.json").unlink()
    assert [pending.shard.name for pending in ledger.pending()] == ["1", "2"]
    assert all(ledger.state(shard, identity(shard)).files == () for shard in ledger.shards[1:])


def test_what_another_run_redoes_by_itself_has_no_other_remedy(output, inputs):
    (output / "data" / "0.parquet").unlink()
    (output / "manifests" / "1.json").unlink()
    edit_record(output, "2", status="failed", error="is no tar")
    assert sentences(output) == [
        "0 has no output: the file is gone",
        "1 is not finished: run its command again",
        "2 is recorded as failed: is no tar",
    ]
    assert len(open_ledger(output, inputs).pending()) == 3


@pytest.mark.parametrize(
    ("num_rows", "sentence"),
    [(N + 1, "has rows that are not in {}/1.tar: 000000006"), (N - 1, "lacks rows of {}/1.tar: 000000011.jpg")],
)
def test_other_rows_than_the_unchanged_input_has(output, inputs, num_rows, sentence):
    rewrite(output, "1", range(num_rows))
    edit_record(output, "1", rows=num_rows, captioned=num_rows - 1)
    remedy = "delete data/1.parquet and manifests/1.json, then run again"
    assert sentences(output, inputs) == [f"1 {sentence.format(inputs)}; {remedy}"]


def test_a_verdict_as_json(output, inputs):
    counts = {"num_shards": 3, "num_compared": 3, "rows": 3 * N, "captioned": 3 * (N - 1), "failed": {"truncated": 3}}
    counts["captions_per_image"] = 1
    proven = {"proven": True, **counts, "left_out": {}, "faults": [], "notes": []}
    assert json.loads(json.dumps(verdict(output, inputs).as_json())) == proven
    (output / "data/stranger.parquet").touch()
    found = verdict(output).as_json()
    finding = "is not a shard of the run, but data/stranger.parquet is there"
    fault = {"kind": "stranger", "shard": "stranger", "finding": finding, "sentence": f"{finding}; move it elsewhere"}
    assert (found["proven"], found["faults"]) == (False, [fault])
