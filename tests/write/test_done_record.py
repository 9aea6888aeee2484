import json

import pytest

from recap_fast.records import Identity, OutputFile, ShardReport
from recap_fast.write.done_record import read_record, write_record

REPORT = ShardReport(
    shard="a/0",
    url="/in/a/0.tar",
    status="complete",
    rows=3,
    captioned=2,
    failed={"truncated": 1},
    num_tokens=9,
    seconds={"wall": 1.5},
    input=Identity(10, "7"),
    output=OutputFile("ab", 99),
    finished_ns=5,
)


@pytest.mark.parametrize("written", [REPORT, ShardReport(shard="a", url="/in/a.tar", status="failed", error="x")])
def test_what_is_written_is_read(tmp_path, written):
    write_record(tmp_path / "a" / "0.json", written)
    assert read_record(tmp_path / "a" / "0.json") == written


def test_no_record_is_none(tmp_path):
    assert read_record(tmp_path / "gone.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff", b"null"])
def test_a_record_that_cannot_be_read_is_none_with_a_warning(tmp_path, caplog, content):
    (tmp_path / "x.json").write_bytes(content)
    assert read_record(tmp_path / "x.json") is None
    assert "its shard counts as not done" in caplog.text


def test_a_record_is_for_people_too(tmp_path):
    write_record(tmp_path / "x.json", REPORT)
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["failed"] == {"truncated": 1}
    assert content["input"] == {"size_bytes": 10, "version": "7"}
