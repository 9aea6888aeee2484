"""Google Cloud Storage as its XML API is documented, so far as obstore uses it: generations, conditions, parts, lists.

It is no server of Google's, but it has what tells it from S3: conditions name a generation, and what is not there
cannot be deleted.
"""

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from support.http_server import Handler, Service

_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
"""When everything was written, also in lists."""


@dataclass(frozen=True)
class _Object:
    content: bytes
    generation: int

    @property
    def headers(self) -> dict[str, str]:
        tag = hashlib.md5(b"%d" % self.generation).hexdigest()
        return {"ETag": f'"{tag}"', "x-goog-generation": str(self.generation), "Last-Modified": _DATE}


class GcsFake(Service):
    """The server; use it as a context. It has one bucket, of any name."""

    def __init__(self) -> None:
        self.objects: dict[str, _Object] = {}
        self.parts: dict[str, bytes] = {}
        self.generation = 0
        self.lock = threading.Lock()

    def write(self, path: str, content: bytes) -> _Object:
        self.generation += 1
        self.objects[path] = _Object(content, self.generation)
        return self.objects[path]


class _Handler(Handler):
    owner: GcsFake

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path).lstrip("/").partition("/")[2], dict(parse_qsl(url.query, True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.owner.lock:
            self._answer(*getattr(self, f"_{self.command.lower()}")(path, query, body))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - the names that the server calls

    def _get(self, path: str, query: Mapping[str, str], _: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if "list-type" in query:
            return 200, {}, self._list(query.get("prefix", ""), query.get("delimiter", ""))
        found = self.owner.objects.get(path)
        if found is None:
            return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
        if self.headers.get("If-Match", found.headers["ETag"]) != found.headers["ETag"]:
            return 412, {}, b""
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), int(match[2] or len(found.content) - 1)
            span = {"Content-Range": f"bytes {start}-{end}/{len(found.content)}"}
            return 206, found.headers | span, found.content[start : end + 1]
        return 200, found.headers, found.content

    _head = _get

    def _list(self, prefix: str, delimiter: str) -> bytes:
        below = {path: path[len(prefix) :] for path in self.owner.objects if path.startswith(prefix)}
        folders = {
            path: rest.partition(delimiter)[0] for path, rest in below.items() if delimiter and delimiter in rest
        }
        prefixes = [
            f"<CommonPrefixes><Prefix>{escape(prefix + name + delimiter)}</Prefix></CommonPrefixes>"
            for name in sorted(set(folders.values()))
        ]
        files = [
            f"<Contents><Key>{escape(path)}</Key><Size>{len(found.content)}</Size><ETag>{found.headers['ETag']}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for path, found in sorted(self.owner.objects.items())
            if path in below and path not in folders
        ]
        return f"<ListBucketResult>{''.join(files + prefixes)}</ListBucketResult>".encode()

    def _put(self, path: str, query: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if "partNumber" in query:
            self.owner.parts[f"{query['uploadId']} {int(query['partNumber']):05d}"] = body
            return 200, {"ETag": f'"{query["partNumber"]}"'}, b""
        found = self.owner.objects.get(path)
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (found.generation if found else 0):
            return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
        return 200, self.owner.write(path, body).headers, b""

    def _post(self, path: str, query: Mapping[str, str], _: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if "uploads" in query:
            self.owner.generation += 1
            upload = f"<UploadId>upload-{self.owner.generation}</UploadId>"
            answer = f"<InitiateMultipartUploadResult>{upload}</InitiateMultipartUploadResult>"
            return 200, {}, answer.encode()
        names = sorted(name for name in self.owner.parts if name.startswith(f"{query['uploadId']} "))
        found = self.owner.write(path, b"".join(self.owner.parts.pop(name) for name in names))
        tag = f"<ETag>{escape(found.headers['ETag'])}</ETag>"
        return 200, found.headers, f"<CompleteMultipartUploadResult>{tag}</CompleteMultipartUploadResult>".encode()

    def _delete(self, path: str, *_: Any) -> tuple[int, Mapping[str, str], bytes]:
        return (204 if self.owner.objects.pop(path, None) else 404), {}, b""

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


GcsFake.handler = _Handler
