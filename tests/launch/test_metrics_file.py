import json

import pytest
from support.guard import wait_until

from recap_fast.launch import metrics_file as module
from recap_fast.launch.metrics_file import metrics_file
from recap_fast.pipeline.counters import RunCounters
from recap_fast.store.local import LocalStore


class WholeFiles:
    """A store that cannot append, in memory."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.num_puts = 0
        self.broken = False

    def shown(self, name):
        return f"s3://bucket/{name}"

    def read(self, name, max_bytes):
        if self.broken:
            raise OSError("it is not there")
        if name not in self.files:
            raise FileNotFoundError(name)
        if len(self.files[name]) > max_bytes:
            raise ValueError("it is too large")
        return self.files[name], "v"

    def put(self, name, content):
        self.num_puts += 1
        self.files[name] = content


def lines_of(content: bytes) -> list[dict]:
    return [json.loads(line) for line in content.splitlines()]


def write(store, counters=None):
    with metrics_file(store, "metrics.jsonl", (counters or RunCounters(2)).snapshot, (2, 8)):
        pass


def test_the_end_has_a_line_and_a_later_process_adds_its_own(tmp_path):
    counters = RunCounters(2)
    counters.count("truncated", None)
    write(LocalStore(tmp_path), counters)
    write(LocalStore(tmp_path))
    first, second = lines_of((tmp_path / "metrics.jsonl").read_bytes())
    assert (first["images"], first["failures/truncated"], first["part"], first["shards"]) == (1, 1, "3/8", 2)
    assert (second["images"], first["process"] != second["process"]) == (0, True)
    assert second["time"] >= first["time"] > 1.7e9


def test_lines_come_while_it_lasts_with_the_rate_since_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LINE_S", 0.001)
    path = tmp_path / "metrics.jsonl"
    with metrics_file(LocalStore(tmp_path), path.name, RunCounters(2).snapshot, (0, 1)):
        wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= 3)
    assert {line["images_per_s"] for line in lines_of(path.read_bytes())} == {0.0}


def test_where_nothing_can_be_appended_the_file_is_written_whole_now_and_then(monkeypatch):
    monkeypatch.setattr(module, "LINE_S", 0.001)
    store = WholeFiles()
    store.files["metrics.jsonl"] = b'{"time": 1}\n'
    with metrics_file(store, "metrics.jsonl", RunCounters(2).snapshot, (0, 1)):
        wait_until(lambda: store.num_puts >= 2)
    lines = lines_of(store.files["metrics.jsonl"])
    assert lines[0] == {"time": 1}, "it goes on where an earlier process stopped"
    assert len({line["process"] for line in lines[1:]}) == 1
    assert len(lines) - 1 > (store.num_puts - 2) * module.LINES_A_PUT


def test_a_file_that_cannot_be_read_is_not_replaced(caplog):
    store = WholeFiles()
    store.files["metrics.jsonl"], store.broken = b"{}\n", True
    write(store)
    assert store.files["metrics.jsonl"] == b"{}\n"
    assert "s3://bucket/metrics.jsonl cannot be written, so it lacks lines: it is not there" in caplog.text


@pytest.mark.parametrize("obstacle", ["folder", "gone"])
def test_what_cannot_be_written_ends_nothing(tmp_path, caplog, obstacle):
    root = tmp_path / "out"
    if obstacle == "folder":
        (root / "metrics.jsonl").mkdir(parents=True)
    write(LocalStore(root))
    assert caplog.text.count("cannot be written, so it lacks lines") == 1
    assert root.exists() == (obstacle == "folder")


def test_a_line_that_was_cut_does_not_spoil_the_next_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"time": 1')
    write(LocalStore(tmp_path))
    cut = WholeFiles()
    cut.files["metrics.jsonl"] = b'{"time": 1'
    write(cut)
    for content in ((tmp_path / "metrics.jsonl").read_bytes(), cut.files["metrics.jsonl"]):
        first, *others = content.splitlines()
        assert first == b'{"time": 1'
        assert [json.loads(line)["part"] for line in others] == ["3/8"]
