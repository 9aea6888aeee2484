"""An OpenAI-compatible endpoint on this machine, whose judge answers as a test tells it to."""

import base64
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Reply:
    """What comes back."""

    text: str | None = "Rating: 4"
    """Of the judge."""
    status: int = 200
    error: str = "it went wrong"
    """Where the status is another one."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Instead of a chat completion."""


class JudgeServer:
    """The server; use it as a context."""

    def __init__(self, answer: Callable[[dict[str, Any]], Reply] = lambda request: Reply()):
        self.answer = answer
        """Called with the body of each request, on several threads."""
        self.key: str | None = None
        """Without which nothing is answered."""
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    def __enter__(self) -> Self:
        judge = self

        class Handler(_Handler):
            """Of this server."""

        Handler.judge = judge
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def question_of(request: Mapping[str, Any]) -> str:
    """The text of the first message."""
    return str(request["messages"][0]["content"][1]["text"])


def caption_of(request: Mapping[str, Any]) -> str:
    """What the first message asks about."""
    return question_of(request).partition("\n\nRate whether")[0].removeprefix("[Image Caption] ")


def image_of(uri: str) -> tuple[str, bytes]:
    """The type and the bytes in a data URI."""
    head, _, data = uri.partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(data, validate=True)


class _Handler(BaseHTTPRequestHandler):
    judge: JudgeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.judge.requests.append(request)
        self.judge.keys.append(self.headers.get("Authorization"))
        reply = self.judge.answer(request)
        if self.path != "/v1/chat/completions":
            reply = Reply(status=404, error=f"no {self.path} here")
        elif self.judge.key and self.headers.get("Authorization") != f"Bearer {self.judge.key}":
            reply = Reply(status=401, error=f"wrong key: {self.headers.get('Authorization')}")
        self._send(reply, request)

    def _send(self, reply: Reply, request: Mapping[str, Any]) -> None:
        content: dict[str, Any] = {"error": {"message": reply.error, "type": "t", "code": None, "param": None}}
        if reply.status == 200:
            message = {"role": "assistant", "content": reply.text}
            content = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": f"{request['model']}-2026",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100},
            }
        body = json.dumps(content).encode() if reply.body is None else reply.body
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
