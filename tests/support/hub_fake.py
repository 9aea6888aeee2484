"""The Hub's HTTP interface, so far as `huggingface_hub` calls it for an upload without Xet: repos, LFS, commits.

It is no server of Hugging Face's: it checks the token and the SHA-256 of every upload, and errs as a test tells it to.
"""

import base64
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
LARGE = ".parquet"
"""Files of this suffix are uploaded as LFS objects, all others within the commit."""
Answer = tuple[int, Mapping[str, Any] | list[Any]]


@dataclass
class Repo:
    """A dataset repository."""

    visibility: str | None
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


class HubFake(Service):
    """The server; use it as a context."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        """The LFS objects that are there, by SHA-256."""
        self.uploads: list[str] = []
        """The SHA-256 of each that was uploaded, in order."""
        self.refusals: dict[str, int] = {}
        """The status that requests get whose path has this in it."""
        self.lock = threading.Lock()

    def create(self, body: Mapping[str, Any]) -> Answer:
        """POST /api/repos/create."""
        assert body["type"] == "dataset"
        name = f"{body.get('organization') or 'me'}/{body['name']}"
        if name in self.repos:
            return 409, {"error": "You already created this dataset repo", "url": f"{self.endpoint}/datasets/{name}"}
        self.repos[name] = Repo(body.get("visibility"))
        return 200, {"url": f"{self.endpoint}/datasets/{name}", "name": name}

    def preupload(self, repo: Repo, body: Mapping[str, Any]) -> Answer:
        """POST /api/datasets/REPO/preupload/REVISION."""
        return 200, {
            "files": [
                {
                    "path": (path := file["path"]),
                    "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(path, repo.files[path]) if path in repo.files else None,
                }
                for file in body["files"]
            ]
        }

    def batch(self, body: Mapping[str, Any]) -> Answer:
        """POST /datasets/REPO.git/info/lfs/objects/batch."""
        objects = [
            {"oid": each["oid"], "size": each["size"]}
            | ({} if each["oid"] in self.objects else {"actions": {"upload": {"href": self._place(each["oid"])}}})
            for each in body["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, name: str, repo: Repo, lines: list[Mapping[str, Any]]) -> Answer:
        """POST /api/datasets/REPO/commit/REVISION."""
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    repo.files[value["path"]] = self.objects[value["oid"]]
                case "deletedFile":
                    del repo.files[value["path"]]
                case other:
                    assert other == "header", other
                    repo.commits.append(value["summary"])
        return 200, {"commitUrl": f"{self.endpoint}/datasets/{name}/commit/{'c' * 40}", "commitOid": "c" * 40}

    def info(self, name: str, repo: Repo) -> Answer:
        """GET /api/datasets/REPO[/revision/REVISION]."""
        siblings = [
            {"rfilename": path, "size": len(content), "blobId": _blob_id(content)} | _lfs(path, content)
            for path, content in repo.files.items()
        ]
        return 200, {"id": name, "sha": "c" * 40, "siblings": siblings, "private": repo.visibility == "private"}

    def _place(self, oid: str) -> str:
        return f"{self.endpoint}/upload/{oid}"


class _Handler(Handler):
    owner: HubFake

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        with self.owner.lock:
            refusal = next((status for part, status in self.owner.refusals.items() if part in path), None)
            status, answer = (refusal, {"error": "refused"}) if refusal else self._answer(path, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = handle_any  # noqa: N815 - the names that the server calls

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, path: str, body: bytes) -> Answer:
        if path.startswith("/upload/"):  # a signed address: it wants no token
            oid = path.removeprefix("/upload/")
            assert hashlib.sha256(body).hexdigest() == oid
            self.owner.objects[oid] = body
            self.owner.uploads.append(oid)
            return 200, {}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self.owner.create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {}
        found = re.match(r"/(?:api/)?datasets/(?P<repo>[^/]+/[^/]+?)(?:\.git)?(?:/(?P<action>.*))?$", path)
        assert found, path
        name, action = found["repo"], found["action"] or ""
        if (repo := self.owner.repos.get(name)) is None:
            return 404, {"error": "Repository not found"}
        if action.startswith("preupload/"):
            return self.owner.preupload(repo, json.loads(body))
        if action == "info/lfs/objects/batch":
            return self.owner.batch(json.loads(body))
        if action.startswith("commit/"):
            return self.owner.commit(name, repo, [json.loads(line) for line in body.splitlines()])
        if action.startswith("tree/"):
            return 200, [
                {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
                for path, content in repo.files.items()
            ]
        return self.owner.info(name, repo)


def _oid(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else _blob_id(content)


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def _lfs(path: str, content: bytes) -> dict[str, Any]:
    if not path.endswith(LARGE):
        return {}
    return {"lfs": {"sha256": _oid(path, content), "size": len(content), "pointerSize": 130}}


HubFake.handler = _Handler
