"""Format 4 of run.json and local.json, 3 of done-records, 1 of units, byte for byte: later runs go on with them."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from support.finished_rows import output_file
from support.ledgers import open_ledger, path_of, to_compare, unit_of
from support.shard_files import read_samples, webdataset_members, write_rows, write_tar

from recap_fast.atomic import sha256_of
from recap_fast.records import Identity, Shard, ShardReport
from recap_fast.shards.identity import identity
from recap_fast.write.done_record import read_record, write_record
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.verify import verify

FINGERPRINT = {"versions": "recap-fast 0.1.0, torch 2.13.0", "schema": 4, "image_column": None, "loop_stop": True}
RUN_FILE = """{
 "format": 4,
 "fingerprint": {
  "versions": "recap-fast 0.1.0, torch 2.13.0",
  "schema": 4,
  "image_column": null,
  "loop_stop": true
 },
 "shards": {
  "00000": "00000.tar",
  "a/00001": "a/00001.tar",
  "images-00000": "."
 },
 "accepted": [],
 "units": {
  "images-00000": "UNIT_DIGEST"
 },
 "usage": {},
 "local": "LOCAL_DIGEST"
}
"""
LOCAL_FILE = """{
 "format": 4,
 "root": "INPUTS",
 "command": null,
 "shards": {}
}
"""
COMPLETE = """{
  "format": 3,
  "shard": "00000",
  "status": "complete",
  "rows": 6,
  "captioned": 5,
  "failed": {
    "truncated": 1
  },
  "flags": {},
  "left_out": {
    "further images": 2
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
  "files": {},
  "finished_ns": 1795711754594618673
}
"""
FAILED = """{
  "format": 3,
  "shard": "a/00001",
  "status": "failed",
  "rows": 0,
  "captioned": 0,
  "failed": {},
  "flags": {},
  "left_out": {},
  "num_tokens": 0,
  "seconds": {},
  "error": "a/00001.tar is no tar: its checksum is wrong at byte 0",
  "input": null,
  "output": null,
  "files": {},
  "finished_ns": 1795711754594618674
}
"""
UNIT = """{
  "format": 3,
  "shard": "images-00000",
  "status": "complete",
  "rows": 2,
  "captioned": 2,
  "failed": {},
  "flags": {},
  "left_out": {},
  "num_tokens": 300,
  "seconds": {},
  "error": null,
  "input": {
    "size_bytes": 9,
    "version": "21caff8340afab6d426bb537352774ea"
  },
  "output": {
    "sha256": "UNIT_SHA256",
    "size_bytes": UNIT_BYTES
  },
  "files": {
    "photos/cat.jpg": "4:1795711746748400805",
    "photos/cat.png": "5:1795711746748400805"
  },
  "finished_ns": 1795711754594618675
}
"""
UNIT_FILES = """{"format": 1, "base": "", "files": ["photos/cat.jpg", "photos/cat.png"], \
"keys": {"1": "photos/cat.png"}, "pruned": []}
"""
STRETCH = "000000000-000000002.1795711754596229491.vm-pid4026531836~13458.{}.parquet"


@pytest.fixture
def inputs(tmp_path):
    paths = [write_tar(tmp_path / "in" / f"{name}.tar", webdataset_members(6)) for name in ("00000", "a/00001")]
    for name, content in (("cat.jpg", b"jpeg"), ("cat.png", b"a png")):
        paths.append(tmp_path / "in" / "photos" / name)
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_bytes(content)
    for path in paths:
        os.utime(path, ns=(0, 1795711746748400805))
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path, inputs):
    """A run's folder: a tar and a unit of loose images are done, another tar was begun again after it had failed."""
    output = OutputFolder.at(tmp_path / "out")
    size_bytes = (inputs / "00000.tar").stat().st_size
    made_from = f"{size_bytes}:1795711746748400805"
    samples, _ = read_samples(Shard("00000", f"{inputs}/00000.tar", "tar"))
    rows = write_rows(tmp_path / "out/data/00000.parquet", "00000", range(6), samples, failed=[2])
    samples, _ = read_samples(unit_of(inputs, "photos/cat.jpg", "photos/cat.png"))
    unit_rows = write_rows(tmp_path / "out/data/images-00000.parquet", "images-00000", range(2), samples)
    stretch = write_rows(tmp_path / "stretch", "a/00001", range(3), made_from=made_from)
    place = path_of(output, output.partial("a/00001")) / STRETCH.format(sha256_of(stretch)[:32])
    place.parent.mkdir(parents=True)
    stretch.rename(place)
    written, unit = output_file(rows), output_file(unit_rows)
    given = {"INPUTS": inputs, "OUTPUT_BYTES": written.size_bytes, "UNIT_BYTES": unit.size_bytes, "SIZE": size_bytes}
    digest = hashlib.sha256(UNIT_FILES.encode()).hexdigest()[:16]
    local = hashlib.sha256(json.dumps([str(inputs), None, {}]).encode()).hexdigest()[:16]
    given |= {"LOCAL_DIGEST": local, "UNIT_SHA256": unit.sha256, "SHA256": written.sha256, "UNIT_DIGEST": digest}
    texts = {
        "run.json": RUN_FILE,
        "local.json": LOCAL_FILE,
        "manifests/00000.json": COMPLETE,
        "manifests/a/00001.json": FAILED,
        "manifests/images-00000.json": UNIT,
        f"units/images-00000.{digest}.json": UNIT_FILES,
    }
    for name, text in texts.items():
        for word, value in given.items():
            text = text.replace(word, str(value))
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    return output


def test_a_record_is_read_whole_and_written_as_it_was(output, inputs):
    rows = path_of(output, output.data("00000"))
    report = read_record(output, "00000")
    assert report == ShardReport(
        shard="00000",
        status="complete",
        rows=6,
        captioned=5,
        failed={"truncated": 1},
        left_out={"further images": 2},
        num_tokens=3275,
        seconds={"read": 0.052, "decode": 0.218, "write": 0.019, "generate": 2.843, "wall": 4.642},
        input=Identity((inputs / "00000.tar").stat().st_size, "1795711746748400805"),
        output=output_file(rows),
        finished_ns=1795711754594618673,
    )
    for name in ("00000", "a/00001", "images-00000"):
        path, report = path_of(output, output.record(name)), read_record(output, name)
        assert report is not None
        before = path.read_bytes()
        write_record(output, report)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 3}', b'{"format": 2}', b'{"format": 1}', b"\xff", b"null"]
)
def test_a_record_that_cannot_be_read_is_none_with_a_warning(tmp_path, caplog, content):
    output = OutputFolder.at(tmp_path)
    assert read_record(output, "x") is None
    assert caplog.text == ""
    path = path_of(output, output.record("x"))
    path.parent.mkdir()
    path.write_bytes(content)
    assert read_record(output, "x") is None
    assert "its shard counts as not done" in caplog.text


def test_the_run_goes_on_and_its_files_are_written_as_they_were(output, inputs):
    root = Path(output.address)
    files = ("run.json", "local.json", next(file.name for file in output.store.list("units")))
    before = [(root / name).read_bytes() for name in files]
    ledger = open_ledger(root, inputs, marks=FINGERPRINT)
    assert [(pending.shard.name, pending.reason) for pending in ledger.pending()] == [("a/00001", "failed")]
    shard = ledger.shards[1]
    state = ledger.state(shard, identity(shard))
    assert [path.parent for path in state.files] == [path_of(output, output.partial("a/00001"))]
    assert state.done.tolist() == [0, 1, 2]
    assert [(root / name).read_bytes() for name in files] == before
    again = root.parent / "again"
    open_ledger(again, inputs, marks=FINGERPRINT)
    assert [(again / name).read_bytes() for name in files] == before


def test_it_is_verified(output, inputs):
    verdict = verify(output, to_compare(inputs))
    assert (verdict.num_shards, verdict.num_compared, verdict.rows) == (3, 2, 8)
    assert (verdict.captioned, verdict.failed, verdict.left_out) == (7, {"truncated": 1}, {"further images": 2})
    error = "a/00001.tar is no tar: its checksum is wrong at byte 0"
    assert [(fault.kind, fault.shard, fault.finding) for fault in verdict.faults] == [
        ("not complete", "a/00001", f"is recorded as failed: {error}"),
    ]
