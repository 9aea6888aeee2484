import dataclasses
import sys
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recap_fast.errors import ConfigError
from recap_fast.launch.metrics import METRICS
from recap_fast.launch.metrics_server import MetricsServer
from recap_fast.pipeline.counters import RunCounters


@pytest.fixture
def server():
    server = MetricsServer(0)
    yield server
    server.close()


def read(server) -> dict[str, dict[tuple[str, ...], float]]:
    """All samples by name and values of their labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_each_answer_is_of_the_moment(server):
    counters = RunCounters(3)
    server.serve(counters.snapshot, {"engine": 'a "b"\n', "part": "3/8"})
    first = read(server)
    assert first["recap_fast_build_info"] == {('a "b"\n', "3/8"): 1}
    assert first["recap_fast_images_total"] == {(): 0}
    counters.count("truncated", None)
    second = read(server)
    assert second["recap_fast_images_total"] == {(): 1}
    assert second["recap_fast_failures_total"][("truncated",)] == 1
    assert second["recap_fast_failures_total"][("corrupt",)] == 0, "a series begins before its first failure"
    known = dataclasses.replace(counters.snapshot(), total=9, eta_s=2.0)
    assert {metric.exposed_name for metric in METRICS if metric.values(known)} >= second.keys() - {
        "recap_fast_build_info"
    }
    assert not [name for name in second if name.startswith(("python_", "process_"))]


def test_a_port_that_is_taken_is_refused_and_given_back_at_the_end(server):
    with pytest.raises(ConfigError, match=rf"--metrics-port {server.port} cannot be used .*: give another port\."):
        MetricsServer(server.port)
    server.close()
    again = MetricsServer(server.port)
    again.serve(RunCounters(1).snapshot, {})
    assert read(again)["recap_fast_shards"] == {(): 1}
    again.close()
    with pytest.raises(urllib.error.URLError):
        read(again)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'recap-fast\[metrics\]'"):
        MetricsServer(0)
