"""A proxy in front of an HTTP server, which errs by a schedule: it resets, stalls, cuts off, refuses, loses answers."""

import http.client
import re
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from support.guard import GUARD_S

DELAY_S = 0.1
_BUCKET = re.compile(r"bucket-\d+-\d+")
"""As S3Server.make_bucket calls them."""


@dataclass(frozen=True)
class Request:
    """One that came."""

    method: str
    path: str
    """With the query."""
    count: int
    """How many of the same method and path came before it."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request."""

    kind: Literal["reset", "status", "stall", "delay", "truncate", "lose", "damage"]
    """reset: before it is forwarded. lose: it is carried out, and then reset. delay: it is forwarded after `DELAY_S`.
    truncate: the connection ends after half of the answer's body; one without a body is lost, and an error arrives.
    damage: the first byte that is sent is another one."""
    status: int = 503
    code: str = "SlowDown"
    """The word for it in S3's answers."""
    then: Callable[[], object] = lambda: None
    """Called when it has happened, before the client learns of it."""


Schedule = Callable[[Request], Fault | None]


def first(count: int, fault: Fault, method: str = "", path: str = "") -> Schedule:
    """Of the requests with that method, and with that text in the path, the first `count` of each path go wrong."""
    return lambda request: (
        fault if request.method.startswith(method) and path in request.path and request.count < count else None
    )


def every(fault: Fault, method: str = "", path: str = "") -> Schedule:
    """All requests with that method, and with that text in the path, go wrong."""
    return lambda request: fault if request.method.startswith(method) and path in request.path else None


MANY = (
    *(Fault("reset"), Fault("truncate"), Fault("lose")),
    *(Fault("status", 500, "InternalError"), Fault("status", 503), Fault("status", 429, "TooManyRequests")),
)


def seeded(seed: int, share: float = 0.25, faults: Sequence[Fault] = MANY) -> Schedule:
    """So many requests go wrong, always the same ones of a method and path; of three in a row one goes well.

    What a test's bucket is called, which is something else each time, does not count.
    """

    def schedule(request: Request) -> Fault | None:
        path = _BUCKET.sub("bucket", request.path)
        drawn = zlib.crc32(f"{seed} {request.method} {path} {request.count}".encode())
        errs = drawn / 2**32 < share and request.count % 3 != 2
        return faults[drawn % len(faults)] if errs else None

    return schedule


class FaultProxy:
    """The proxy; use it as a context. Its schedule can be changed at any time."""

    def __init__(self, upstream: str):
        self.upstream = urlsplit(upstream).netloc
        self.requests: list[Request] = []
        """Those that came since the schedule was set."""
        self.faults: Counter[str] = Counter()
        """What went wrong, of all schedules: kinds, and statuses."""
        self.stalled = threading.Event()
        """Some request has stalled."""
        self._schedule: Schedule = lambda _: None
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock, self._end = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        proxy = self

        class Handler(_Handler):
            """Of this proxy."""

        Handler.proxy = proxy
        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def schedule(self) -> Schedule:
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Schedule) -> None:
        with self._lock:
            self._schedule = schedule
            self.requests.clear()
            self._counts.clear()

    def came(self, method: str, path: str = "") -> int:
        """How many requests with that method, and with that text in the path."""
        return sum(request.method == method and path in request.path for request in self.requests)

    def fault_of(self, method: str, path: str) -> Fault | None:
        with self._lock:
            request = Request(method, path, self._counts[method, path])
            self._counts[method, path] += 1
            self.requests.append(request)
            fault = self._schedule(request)
            if fault is not None:
                self.faults[f"{fault.status}" if fault.kind == "status" else fault.kind] += 1
            return fault

    def stall(self) -> None:
        """Waits until the end of the proxy."""
        self.stalled.set()
        self._end.wait(GUARD_S)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.fault_of(self.command, self.path)
        if fault is None or fault.kind == "delay":
            time.sleep(0 if fault is None else DELAY_S)
            self._answer(*self._forward(body))
            return
        if fault.kind in ("lose", "truncate"):
            status, headers, content = self._forward(body)
        fault.then()
        if fault.kind == "status":
            text = f"<Error><Code>{fault.code}</Code><Message>As scheduled.</Message></Error>"
            self._answer(fault.status, {"Content-Type": "application/xml"}, text.encode())
        elif fault.kind == "stall":
            self.proxy.stall()
            self.close_connection = True
        elif fault.kind == "damage":
            self._answer(*self._forward(bytes([body[0] ^ 1]) + body[1:]))
        elif fault.kind == "truncate" and (content or status >= 400):
            self._answer(status, headers, content, after=len(content) // 2 if status < 400 else None)
            self.close_connection = True
        else:
            self._reset()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - the names that the server calls

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=GUARD_S)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, after: int | None = None) -> None:
        self.send_response(status)
        known = {name.lower() for name in headers}
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        if "content-length" not in known and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:after])

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
