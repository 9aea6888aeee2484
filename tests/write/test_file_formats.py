"""Format 1 of run.json and of done-records, byte for byte: folders that the first version began are gone on with."""

import os

import pytest
from support.finished_rows import output_file
from support.shard_files import webdataset_members, write_rows, write_tar

from recap_fast.records import Identity, ShardReport
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity
from recap_fast.shards.reader import count_samples
from recap_fast.write.done_record import read_record, write_record
from recap_fast.write.ledger import Ledger
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.verify import verify

FINGERPRINT = {"versions": "recap-fast 0.1.0, torch 2.13.0", "schema": 1, "image_column": None, "loop_stop": True}
RUN_FILE = """{
 "format": 1,
 "fingerprint": {
  "versions": "recap-fast 0.1.0, torch 2.13.0",
  "schema": 1,
  "image_column": null,
  "loop_stop": true
 },
 "root": "INPUTS",
 "shards": {
  "00000": "INPUTS/00000.tar",
  "a/00001": "INPUTS/a/00001.tar"
 }
}
"""
COMPLETE = """{
  "format": 1,
  "shard": "00000",
  "url": "INPUTS/00000.tar",
  "status": "complete",
  "rows": 6,
  "captioned": 5,
  "failed": {
    "truncated": 1
  },
  "num_tokens": 3275,
  "seconds": {
    "read": 0.052,
    "decode": 0.218,
    "write": 0.019,
    "generate": 2.843,
    "wall": 4.642
  },
  "error": null,
  "input": {
    "size_bytes": SIZE,
    "version": "1795711746748400805"
  },
  "output": {
    "sha256": "SHA256",
    "size_bytes": OUTPUT_BYTES
  },
  "finished_ns": 1795711754594618673
}
"""
FAILED = """{
  "format": 1,
  "shard": "a/00001",
  "url": "INPUTS/a/00001.tar",
  "status": "failed",
  "rows": 0,
  "captioned": 0,
  "failed": {},
  "num_tokens": 0,
  "seconds": {},
  "error": "INPUTS/a/00001.tar is no tar: its checksum is wrong at byte 0",
  "input": null,
  "output": null,
  "finished_ns": 1795711754594618674
}
"""
STRETCH = "000000000-000000002.1795711754596229491.vm-pid4026531836~13458.parquet"


@pytest.fixture
def inputs(tmp_path):
    for name in ("00000", "a/00001"):
        path = write_tar(tmp_path / "in" / f"{name}.tar", webdataset_members(6))
        os.utime(path, ns=(0, 1795711746748400805))
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path, inputs):
    """A run's folder: one shard is done, one was begun again after it had failed."""
    output = OutputFolder(tmp_path / "out")
    size_bytes = (inputs / "00000.tar").stat().st_size
    made_from = f"{size_bytes}:1795711746748400805"
    rows = write_rows(tmp_path / "out/data/00000.parquet", "00000", range(6), failed=[2], made_from=made_from)
    write_rows(tmp_path / "out/partial/a/00001" / STRETCH, "a/00001", range(3), made_from=made_from)
    written = output_file(rows)
    given = {"INPUTS": inputs, "OUTPUT_BYTES": written.size_bytes, "SHA256": written.sha256, "SIZE": size_bytes}
    texts = {"run.json": RUN_FILE, "manifests/00000.json": COMPLETE, "manifests/a/00001.json": FAILED}
    for name, text in texts.items():
        for word, value in given.items():
            text = text.replace(word, str(value))
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    return output


def test_a_record_is_read_whole_and_written_as_it_was(output, inputs):
    path = output.record("00000")
    rows = output.data("00000")
    report = read_record(path)
    assert report == ShardReport(
        shard="00000",
        url=f"{inputs}/00000.tar",
        status="complete",
        rows=6,
        captioned=5,
        failed={"truncated": 1},
        num_tokens=3275,
        seconds={"read": 0.052, "decode": 0.218, "write": 0.019, "generate": 2.843, "wall": 4.642},
        input=Identity((inputs / "00000.tar").stat().st_size, "1795711746748400805"),
        output=output_file(rows),
        finished_ns=1795711754594618673,
    )
    for name in ("00000", "a/00001"):
        before, report = output.record(name).read_bytes(), read_record(output.record(name))
        assert report is not None
        write_record(output.record(name), report)
        assert output.record(name).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff", b"null"])
def test_a_record_that_cannot_be_read_is_none_with_a_warning(tmp_path, caplog, content):
    assert read_record(tmp_path / "x.json") is None
    assert caplog.text == ""
    (tmp_path / "x.json").write_bytes(content)
    assert read_record(tmp_path / "x.json") is None
    assert "its shard counts as not done" in caplog.text


def test_the_run_goes_on_and_its_file_is_written_as_it_was(output, inputs):
    before = output.run_file.read_bytes()
    ledger = Ledger(output, FINGERPRINT, expand([str(inputs)]), identity).open()
    assert [(pending.shard.name, pending.reason) for pending in ledger.pending()] == [("a/00001", "failed")]
    shard = ledger.shards[1]
    state = ledger.state(shard, identity(shard))
    assert state.kept == (output.partial("a/00001") / STRETCH,)
    assert state.done.tolist() == [0, 1, 2]
    assert output.run_file.read_bytes() == before
    again = OutputFolder(output.root.parent / "again")
    Ledger(again, FINGERPRINT, expand([str(inputs)]), identity).open()
    assert again.run_file.read_bytes() == before


def test_it_is_verified(output, inputs):
    verdict = verify(output, expand([str(inputs)]), count_samples)
    assert (verdict.num_shards, verdict.rows, verdict.captioned, verdict.failed) == (2, 6, 5, {"truncated": 1})
    error = f"{inputs}/a/00001.tar is no tar: its checksum is wrong at byte 0"
    assert [(fault.kind, fault.shard, fault.finding) for fault in verdict.faults] == [
        ("not complete", "a/00001", f"is recorded as failed: {error}"),
        ("changed input", "a/00001", f"has 6 samples in {inputs}/a/00001.tar, and 0 rows"),
    ]
