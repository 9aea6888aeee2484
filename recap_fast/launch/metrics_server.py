"""An endpoint for Prometheus, with the extra `metrics`: what is there is collected when it is asked for."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from recap_fast.errors import ConfigError
from recap_fast.launch.metrics import METRICS, PREFIX
from recap_fast.pipeline.counters import Snapshot
from recap_fast.ranks import local_index


class MetricsServer:
    """Listens from the start, and answers once it is told what to serve."""

    def __init__(self, port: int):
        """`port`: 0 takes a free one; processes that one command has started on a machine take it and those behind it.

        Raises ConfigError where it is taken, and without the library.
        """
        port += local_index(os.environ)[1] if port else 0
        try:
            import prometheus_client  # noqa: F401 - before anything is begun
        except ImportError as error:
            raise ConfigError("--metrics-port needs prometheus_client: pip install 'recap-fast[metrics]'") from error
        try:
            self._server = _Server(("", port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--metrics-port {port} cannot be used ({error}): give another port.") from error
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens, on all addresses of the machine."""
        return self._server.server_port

    def serve(self, read: Callable[[], Snapshot], info: Mapping[str, str]) -> None:
        """Begins to answer: `read` is called for each answer, and `info` says what runs."""
        from prometheus_client import CollectorRegistry, make_wsgi_app

        registry = CollectorRegistry()
        registry.register(_Collector(read, info))
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="recap-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Gives the port back."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    """Each answer has a thread of its own, which keeps no process from ending."""

    daemon_threads = True
    allow_reuse_port = False  # of two processes with one port, the second is to know

    def handle_error(self, *_: object) -> None:
        """Whoever asked has gone away."""


class _Handler(WSGIRequestHandler):
    timeout = 30

    def address_string(self) -> str:
        """Not looked up: a name server may hang."""
        return str(self.client_address[0])

    def log_message(self, *_: object) -> None:
        """Answers are not told."""


class _Collector:
    """Makes a snapshot into Prometheus's metrics."""

    def __init__(self, read: Callable[[], Snapshot], info: Mapping[str, str]):
        self._read, self._info = read, info

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = list(self._info)
        build = GaugeMetricFamily(f"{PREFIX}build_info", "What runs: always 1.", labels=labels)
        build.add_metric([self._info[name] for name in labels], 1)
        yield build
        snapshot = self._read()
        for metric in METRICS:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(f"{PREFIX}{metric.name}", metric.help, labels=[metric.label] if metric.label else [])
            for value, each in metric.values(snapshot).items():
                family.add_metric([value] if metric.label else [], each)
            yield family
