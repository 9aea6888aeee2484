"""The Hub's HTTP interface, so far as `huggingface_hub` calls it to download files of models without Xet.

It is no server of Hugging Face's. A revision that is no name of one is answered as the Hub does, and so are a model
that is not there and one that is gated, by the headers that the library reads.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from support.http_server import Handler, Service

TOKEN = "hf_TheTokenThatNobodyMaySee"
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Model:
    """A repository: its commits by hash, and the names of some."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False

    def commit(self, files: Mapping[str, bytes], *names: str) -> str:
        """Adds a commit, which these branches and tags name from now on; its hash."""
        content = b"".join(name.encode() + files[name] for name in sorted(files)) + b"%d" % len(self.commits)
        made = hashlib.sha1(content).hexdigest()
        self.commits[made] = dict(files)
        self.names |= dict.fromkeys(names or ("main",), made)
        return made


class ModelHub(Service):
    """The server; use it as a context."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.sent: list[str] = []
        """The names of the files that were downloaded, in order."""
        self.lock = threading.Lock()

    def info(self, model: Model, name: str, commit: str) -> Answer:
        """GET /api/models/REPO[/revision/REVISION]."""
        siblings = [{"rfilename": path} for path in model.commits[commit]]
        return _json({"id": name, "sha": commit, "siblings": siblings, "private": False})

    def tree(self, model: Model, commit: str) -> Answer:
        """GET /api/models/REPO/tree/REVISION."""
        return _json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in model.commits[commit].items()
            ]
        )

    def file(self, model: Model, commit: str, path: str) -> Answer:
        """GET /REPO/resolve/REVISION/PATH."""
        if model.is_gated:
            return _refused(403, "GatedRepo")
        content = model.commits[commit].get(path)
        if content is None:
            return _refused(404, "EntryNotFound")
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content

    def answer(self, path: str) -> Answer:
        """What a request for a path gets."""
        found = re.match(
            r"/(?:api/models/)?(?P<name>[^/]+/[^/]+?)(?:/(?P<action>revision|tree|resolve)/(?P<rest>.*))?$", path
        )
        assert found, path
        model = self.models.get(found["name"])
        if model is None:
            return _refused(401, "RepoNotFound")
        rest = found["rest"] or "main"
        wanted = [name for name in (*model.commits, *model.names) if rest == name or rest.startswith(f"{name}/")]
        if not wanted:
            return _refused(404, "RevisionNotFound")
        name = max(wanted, key=len)
        commit = model.names.get(name, name)
        if found["action"] == "resolve":
            return self.file(model, commit, rest[len(name) + 1 :])
        return self.tree(model, commit) if found["action"] == "tree" else self.info(model, found["name"], commit)


class _Handler(Handler):
    owner: ModelHub

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.owner.lock:
            token = self.headers.get("Authorization")
            status, headers, content = self.owner.answer(path) if token == f"Bearer {TOKEN}" else _refused(401, None)
            if self.command == "GET" and "X-Repo-Commit" in headers:
                self.owner.sent.append(path.rsplit("/", 1)[-1])
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = handle_any  # noqa: N815 - the names that the server calls


def _json(content: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _refused(status: int, code: str | None) -> Answer:
    return status, {"X-Error-Code": code} if code else {}, b'{"error": "refused"}'


ModelHub.handler = _Handler
