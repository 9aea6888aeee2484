"""The figures of a run for machines: names, meanings, and how each follows from a snapshot.

Prometheus and `metrics.jsonl` have the same ones. Nothing is counted for them: they are read when somebody asks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recap_fast.pipeline.counters import Snapshot
from recap_fast.records import FAILURES

PREFIX = "recap_fast_"
"""Of the names in Prometheus."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure, or several of the same kind that a label tells apart."""

    name: str
    """Without `PREFIX`, and without the `_total` that counters have in Prometheus."""
    kind: Literal["counter", "gauge"]
    """A counter only grows, from 0 at the start of the process."""
    help: str
    read: Callable[[Snapshot], float | Mapping[Any, float] | None]
    """The figure, or figures by value of the label; None where it is not known."""
    label: str | None = None

    @property
    def exposed_name(self) -> str:
        """As it is called in Prometheus."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"

    def values(self, snapshot: Snapshot) -> Mapping[str, float]:
        """The figures by value of the label, which is '' where there is none."""
        found = self.read(snapshot)
        if found is None:
            return {}
        return found if isinstance(found, Mapping) else {"": found}


def _failures(s: Snapshot) -> Mapping[str, float]:
    return {**dict.fromkeys(FAILURES, 0), **s.failed}


METRICS = (
    Metric("images", "counter", "Images that are finished, with a caption or without one.", lambda s: s.rows),
    Metric("captions", "counter", "Images that have a caption.", lambda s: s.captioned),
    Metric("failures", "counter", "Images that have no caption, by the status of their row.", _failures, "status"),
    Metric("tokens", "counter", "Generated tokens.", lambda s: s.num_tokens),
    Metric("captions_cut", "counter", "Captions that --max-new-tokens cut off.", lambda s: s.cut),
    Metric("captions_shared", "counter", "Images whose captions an identical one had.", lambda s: s.shared),
    Metric("images_kept", "gauge", "Images that earlier runs have done.", lambda s: s.kept),
    Metric("images_expected", "gauge", "Images in all, as far as it is known.", lambda s: s.total),
    Metric("eta_seconds", "gauge", "Seconds until all is done, at the mean rate so far.", lambda s: s.eta_s),
    Metric("shards_done", "counter", "Shards that this process has finished.", lambda s: s.shards_done),
    Metric("shards", "gauge", "Shards that this process has to do.", lambda s: s.shards_total),
    Metric("held_seconds", "counter", "Seconds since the process began, summed over devices.", lambda s: s.held_s),
    Metric(
        "stage_seconds", "counter", "Seconds that a stage worked and waited for no other.", lambda s: s.stage_s, "stage"
    ),
    Metric(
        "device_idle_seconds",
        "counter",
        "Seconds in which the device waited between two steps: for images, or for the host.",
        lambda s: s.gauges.idle_s,
        "reason",
    ),
    Metric(
        "queue_depth",
        "gauge",
        "Items that wait in a channel, or are in the window.",
        lambda s: s.gauges.queues,
        "queue",
    ),
    Metric(
        "window_bytes", "gauge", "Memory of what was read and is not in order yet.", lambda s: s.gauges.window_bytes
    ),
    Metric("slots", "gauge", "Captions that the engine generates at once, at most.", lambda s: s.gauges.slots),
    Metric("slots_in_use", "gauge", "Captions that the engine is generating.", lambda s: s.gauges.slots_in_use),
)


def metric_fields(snapshot: Snapshot) -> dict[str, float]:
    """All figures by name, flat: those with a label are `name/label`. Failures that did not happen are left out."""
    fields: dict[str, float] = {}
    for metric in METRICS:
        for value, each in metric.values(snapshot).items():
            if each or metric.name != "failures":
                fields[f"{metric.name}/{value}" if value else metric.name] = round(each, 3)
    return fields
