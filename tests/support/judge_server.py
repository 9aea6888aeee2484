"""An OpenAI-compatible endpoint on this machine, whose judge answers as a test tells it to."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from support.http_server import Handler, Service


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


class JudgeServer(Service):
    """The server; use it as a context."""

    def __init__(self, answer: Callable[[dict[str, Any]], Reply] = lambda request: Reply()):
        self.answer = answer
        """Called with the body of each request, on several threads."""
        self.key: str | None = None
        """Without which nothing is answered."""
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"{self.endpoint}/v1"


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


class _Handler(Handler):
    owner: JudgeServer

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.owner.requests.append(request)
        self.owner.keys.append(self.headers.get("Authorization"))
        reply = self.owner.answer(request)
        if self.path != "/v1/chat/completions":
            reply = Reply(status=404, error=f"no {self.path} here")
        elif self.owner.key and self.headers.get("Authorization") != f"Bearer {self.owner.key}":
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


JudgeServer.handler = _Handler
