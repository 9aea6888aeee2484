"""An HTTP server on this machine that serves bytes, and errs as a test tells it to."""

import base64
import hashlib
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from support.guard import GUARD_S


@dataclass
class Fault:
    """What goes wrong with one GET."""

    status: int | None = None
    """The answer, instead of the file."""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int | None = None
    """So many bytes of the body are sent; then the connection is closed, or `stall`s."""
    stall: bool = False
    then: Callable[[], object] = lambda: None
    """Called when it has happened."""


class Web:
    """The server; use it as a context. Its files can be changed at any time."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: deque[Fault] = deque()
        """Of the next GETs of files."""
        self.always: Fault | None = None
        """Of all others, HEADs included."""
        self.ranges, self.heeds_if_range, self.etags, self.dates = True, True, True, False
        self.login: str | None = None
        """'user:password' without which nothing is served."""
        self.gets: list[Mapping[str, str]] = []
        """The headers of the GETs of files that came."""
        self.stalled = threading.Event()
        """Some answer has stalled."""
        self._end = threading.Event()

    def __enter__(self) -> Self:
        web = self

        class Handler(_Handler):
            """Of this server."""

        Handler.web = web
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.port}/{path}"

    def stall(self) -> None:
        """Waits until the end of the server."""
        self.stalled.set()
        self._end.wait(GUARD_S)


class _Handler(BaseHTTPRequestHandler):
    web: Web
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._answer(self.web.always, with_body=False)

    def do_GET(self) -> None:
        fault = self.web.always
        if self._name() in self.web.files:
            self.web.gets.append({name.lower(): value for name, value in self.headers.items()})
            fault = self.web.faults.popleft() if self.web.faults else fault
        self._answer(fault, with_body=True)

    def _name(self) -> str:
        return self.path.partition("?")[0].lstrip("/")

    def _answer(self, fault: Fault | None, *, with_body: bool) -> None:
        fault = fault or Fault()
        wanted = self.web.login and f"Basic {base64.b64encode(self.web.login.encode()).decode()}"
        content, name = self.web.files.get(self._name()), self._name().rstrip("/")
        if wanted and self.headers.get("Authorization") != wanted:
            self._send(401, {}, b"")
        elif fault.stall and fault.after is None:
            self.web.stall()
        elif fault.status is not None:
            self._send(fault.status, fault.headers, b"")
            fault.then()
        elif content is not None:
            self._send_file(content, fault, with_body=with_body)
        elif any(file.startswith(f"{name}/" if name else "") for file in self.web.files):
            below = [file[len(name) :].lstrip("/") for file in self.web.files if file.startswith(name)]
            links = sorted({"".join(file.partition("/")[:2]) for file in below})
            page = "".join(f'<a href="{link}">{link}</a>' for link in links).encode()
            self._send(200, {"Content-Type": "text/html"}, page if with_body else b"")
        else:
            self._send(404, {}, b"")

    def _send_file(self, content: bytes, fault: Fault, *, with_body: bool) -> None:
        headers, status = {}, 200
        if self.web.etags:
            headers["ETag"] = f'"{hashlib.md5(content).hexdigest()}"'
        if self.web.dates:
            headers["Last-Modified"] = f"Thu, 01 Jan 1970 00:00:{sum(content) % 60:02d} GMT"
        match = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        valid = headers.values() if self.web.heeds_if_range else [self.headers.get("If-Range")]
        if self.headers.get("If-Match", headers.get("ETag")) != headers.get("ETag"):
            self._send(412, {}, b"")
            return
        if match and self.web.ranges and self.headers.get("If-Range", next(iter(valid), None)) in (*valid, None):
            first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers["Content-Range"], status = f"bytes {first}-{last}/{len(content)}", 206
            content = content[first : last + 1]
        self._send(status, headers, content, fault if with_body else Fault(), with_body=with_body)

    def _send(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        fault: Fault | None = None,
        *,
        with_body: bool = True,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        after = fault.after if fault else None
        if with_body:
            self.wfile.write(body[:after])
        if fault and after is not None:
            fault.then()
            if fault.stall:
                self.wfile.flush()
                self.web.stall()
            self.close_connection = True
