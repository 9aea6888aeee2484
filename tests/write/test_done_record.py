import dataclasses
import json

import pytest
from support.damage import DAMAGES
from support.ledgers import path_of

from recap_fast.records import Identity, OutputFile, ShardReport
from recap_fast.write.done_record import FORMAT, read_counts, read_record, write_record
from recap_fast.write.output_folder import OutputFolder

REPORT = ShardReport(
    shard="a/0",
    status="complete",
    rows=3,
    captioned=2,
    failed={"corrupt": 1},
    flags={"cut": 2},
    left_out={"further images": 2},
    num_tokens=99,
    seconds={"read": 0.5, "wall": 2},
    input=Identity(12, "34"),
    output=OutputFile("ab" * 32, 5),
    finished_ns=2**60,
)


@pytest.fixture
def output(tmp_path):
    return OutputFolder.at(tmp_path)


@pytest.fixture
def path(output):
    write_record(output, REPORT)
    return path_of(output, output.record(REPORT.shard))


@pytest.mark.parametrize("report", [REPORT, ShardReport(shard="b", status="failed", error="is no tar")])
def test_what_is_written_is_read(output, report):
    write_record(output, report)
    assert read_record(output, report.shard) == report


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_none_with_a_warning_and_is_written_anew(output, path, damage, caplog):
    DAMAGES[damage](path)
    assert read_record(output, REPORT.shard) is None
    assert f"{path} cannot be read" in caplog.text
    assert "its shard counts as not done" in caplog.text
    write_record(output, REPORT)
    assert read_record(output, REPORT.shard) == REPORT


def test_a_record_that_is_not_there_is_none_without_a_word(output, path, caplog):
    path.unlink()
    assert read_record(output, REPORT.shard) is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shard", None),
        ("status", 5),
        ("status", "done"),
        ("status", ["complete"]),
        ("rows", "3"),
        ("rows", -1),
        ("rows", 3.0),
        ("rows", True),
        ("rows", 2**63),
        ("failed", {"corrupt": "1"}),
        ("failed", [1]),
        ("flags", {"cut": -1}),
        ("seconds", {"read": None}),
        ("error", {}),
        ("input", {"size_bytes": 12}),
        ("input", {"size_bytes": "12", "version": "34"}),
        ("input", [12, "34"]),
        ("output", "ab"),
        ("finished_ns", None),
    ],
)
def test_a_field_of_another_type_is_named(output, path, field, value, caplog):
    path.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(REPORT), field: value}))
    assert read_record(output, REPORT.shard) is None
    assert f"it.{field}" in caplog.text


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ShardReport)])
def test_a_field_that_is_missing_is_named(output, path, field, caplog):
    content = {"format": FORMAT, **dataclasses.asdict(REPORT)}
    del content[field]
    path.write_text(json.dumps(content))
    assert read_record(output, REPORT.shard) is None
    assert f"it has no {field}" in caplog.text


def test_a_record_of_a_version_without_flags_is_read(output, path):
    content = {"format": 2, **dataclasses.asdict(REPORT)}
    del content["flags"]
    path.write_text(json.dumps(content))
    assert read_record(output, REPORT.shard) == dataclasses.replace(REPORT, flags={})
    counts = read_counts(output, REPORT.shard)
    assert counts is not None
    assert counts.rows == REPORT.rows
