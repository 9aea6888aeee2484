import dataclasses
import json
import re

from support.manual import ROOT

from recap_fast.launch.metrics import METRICS, metric_fields
from recap_fast.pipeline.counters import STAGES, Gauges, RunCounters, Snapshot
from recap_fast.records import FAILURES

GAUGES = Gauges(
    queues={"samples": 128, "requests": 64, "rows": 3, "window": 640},
    window_bytes=1 << 20,
    slots=448,
    slots_in_use=440,
    idle_s={"input": 1.25, "host": 0.5},
    open_shards=("a",),
)


def snapshot(**changed) -> Snapshot:
    given = {
        "rows": 12,
        "captioned": 10,
        "failed": {"truncated": 2},
        "num_tokens": 500,
        "shared": 3,
        "held_s": 20.0,
        "gauges": GAUGES,
    }
    return dataclasses.replace(RunCounters(3).snapshot(), **{**given, **changed})


def test_every_figure_has_a_name_of_prometheus_and_follows_from_the_snapshot():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"recap_fast_[a-z_]+", metric.exposed_name)
        assert metric.exposed_name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
    values = {metric.exposed_name: metric.values(snapshot()) for metric in METRICS}
    assert values["recap_fast_images_total"] == {"": 12}
    assert values["recap_fast_captions_shared_total"] == {"": 3}
    assert values["recap_fast_failures_total"] == {**dict.fromkeys(FAILURES, 0), "truncated": 2}
    assert values["recap_fast_queue_depth"] == GAUGES.queues
    assert values["recap_fast_device_idle_seconds_total"] == {"input": 1.25, "host": 0.5}
    assert values["recap_fast_stage_seconds_total"].keys() == set(STAGES)
    assert values["recap_fast_images_expected"] == {}, "it is not known yet"


def test_the_fields_of_a_line_are_flat_and_leave_out_what_did_not_happen():
    fields = metric_fields(snapshot(total=90, stage_s={"read": 1.23456}))
    assert json.loads(json.dumps(fields)) == fields
    assert (fields["images"], fields["captions"], fields["tokens"], fields["held_seconds"]) == (12, 10, 500, 20.0)
    assert [name for name in fields if name.startswith("failures")] == ["failures/truncated"]
    assert (fields["queue_depth/window"], fields["stage_seconds/read"], fields["images_expected"]) == (640, 1.235, 90)
    assert "eta_seconds" not in fields


def panels(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def test_the_dashboard_asks_for_metrics_that_there_are():
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text(encoding="utf-8"))
    exposed = {metric.exposed_name for metric in METRICS} | {"recap_fast_build_info"}
    asked = [target["expr"] for panel in panels(dashboard) for target in panel.get("targets", [])]
    queries = [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    named = {name for text in (*asked, *queries) for name in re.findall(r"recap_fast_\w+", text)}
    assert len(asked) >= 10
    assert named <= exposed
    assert all(re.findall(r"recap_fast_\w+", expr) for expr in asked)
    details = {f"recap_fast_{name}" for name in ("captions_cut_total", "captions_shared_total", "images_kept")}
    assert exposed - named <= details, "the rest is shown"
    for expr in asked:
        labels = set(re.findall(r"by \(([\w, ]+)\)", expr))
        known = {metric.label for metric in METRICS} | {"instance", "part", "device", "engine", "precision", "version"}
        assert {name.strip() for each in labels for name in each.split(",")} <= known
        assert expr.count("(") == expr.count(")")
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(ids) == len(set(ids))


def test_the_table_of_the_manual_has_every_metric():
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(recap_fast_\w+)` \| (\w+) \| (?:`(\w+)`)? ?\|", text, re.MULTILINE)
    assert rows == [
        *[(metric.exposed_name, metric.kind, metric.label or "") for metric in METRICS],
        ("recap_fast_build_info", "gauge", ""),
    ]
