"""What others see of a real run: its note, its port, its metrics.jsonl, and what it used in the end."""

import contextlib
import json
import re
import urllib.request

import pytest
from support.guard import wait_until

from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions
from recap_fast.launch import metrics_file
from recap_fast.launch.metrics_server import MetricsServer
from recap_fast.launch.observers import Observers
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.status import find_status


@pytest.mark.parametrize("place", ["tmp_path", "s3_bucket"])
def test_others_see_a_run_while_it_lasts_and_what_it_used_in_the_end(start, tmp_path, monkeypatch, request, place):
    address = f"{request.getfixturevalue(place)}/out"
    output, seen = OutputFolder.at(address), []
    monkeypatch.setattr(metrics_file, "LINE_S", 1e6)  # no line but the last, however long it takes
    watching = Observers.watching

    @contextlib.contextmanager
    def look(observers, pipeline):
        before = find_status(output)
        with watching(observers, pipeline):
            wait_until(lambda: find_status(output).at_work[0].work.state == "running")
            url = f"http://127.0.0.1:{observers._server.port}/metrics"
            with urllib.request.urlopen(url, timeout=30) as answer:
                seen.append((before, find_status(output), answer.read().decode()))
            yield

    with monkeypatch.context() as patched:
        patched.setattr(Observers, "watching", look)
        outcome = start(output=address, metrics_port=0)
    ((before, status, metrics),) = seen
    assert (before.state, before.num_shards, before.unclaimed, before.usage) == ("running", 2, 0, {})
    assert [(each.work.state, each.work.device, each.work.part) for each in before.at_work] == [("starting", "", "1/1")]
    work = status.at_work[0].work
    assert (work.is_gpu, work.shards_total, [*status.usage]) == (False, 2, [work.device])
    assert 'engine="tiny"' in metrics
    assert 'part="1/1"' in metrics
    assert re.fullmatch(r"metrics  http://.+:\d+/metrics", outcome["metrics"])
    status = find_status(output)
    assert (status.state, status.at_work, status.silent) == ("finished", (), ())
    ((device, used),) = status.usage.items()
    assert (used.processes, used.images, used.is_gpu, device == work.device) == (1, 12, False, True)
    assert 0 < used.seconds <= round(outcome.result.snapshot.held_s, 1) + 60
    (line,) = output.store.read("metrics.jsonl", 9999)[0].splitlines()
    assert (json.loads(line)["images"], json.loads(line)["shards_done"]) == (12, 2)
    start(output=address, overwrite=True, shards=(f"{tmp_path}/in/00000.tar",))
    assert output.store.read("metrics.jsonl", 9999)[0].count(b"\n") == 1, "that of another command is gone"
    assert find_status(output).usage[device].processes == 1


def test_a_port_that_is_taken_is_refused_before_anything_is_written(start, tmp_path):
    taken = MetricsServer(0)
    with pytest.raises(ConfigError, match=f"--metrics-port {taken.port} cannot be used"):
        start(metrics_port=taken.port)
    taken.close()
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"--metrics-port 65536: give a port"):
        start(metrics_port=1 << 16)


def test_a_run_that_is_refused_leaves_nothing_of_itself(start, tmp_path):
    with pytest.raises(ConfigError):
        start(options=EngineOptions(device="cuda:99", max_new_tokens=4))
    assert list((tmp_path / "out").rglob("*")) == []
