"""A real S3 server on this machine, in a process of its own: moto's. It ends with the process that started it.

Run as a program it is that server: its first line says where it listens, and it ends when its standard input does.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any, Self

KEY, SECRET = "test-access-key", "s3cr3t-access-key"
"""Credentials; the server takes any. Neither may show up anywhere."""


class S3Server:
    """The server; use it as a context."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().strip()
        assert self.endpoint.startswith("http://127.0.0.1:")
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # which closes its standard input, and waits
            pass

    def make_bucket(self, name: str | None = None) -> str:
        """A new bucket's name."""
        name = name or f"bucket-{os.getpid()}-{next(self._numbers)}"
        with urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")):
            return name

    def remove_bucket(self, address: str) -> None:
        """Removes the bucket of an s3:// address, and all in it."""
        bucket, _ = self.open(address)
        bucket.delete([found["path"] for page in bucket.list() for found in page])
        name = address.split("/")[2]
        with urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="DELETE")):
            pass

    def open(self, address: str) -> tuple[Any, str]:
        """The bucket of an s3:// address, as obstore opens it without the environment, and the path in it."""
        import obstore.store

        bucket, _, path = address.removeprefix("s3://").partition("/")
        config = {"endpoint": self.endpoint, "region": "us-east-1", "access_key_id": KEY, "secret_access_key": SECRET}
        return obstore.store.S3Store(bucket, config=config, client_options={"allow_http": True}), path

    def files(self, address: str) -> dict[str, bytes]:
        """The files below an s3:// address, as they lie in the server, by name."""
        store, prefix = self.open(address)
        paths = [found["path"] for page in store.list(prefix or None) for found in page]
        return {path.removeprefix(f"{prefix}/"): bytes(store.get(path).bytes()) for path in paths}

    def upload(self, folder: Path, address: str) -> None:
        """Copies the files of a folder below an s3:// address."""
        store, prefix = self.open(address)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                store.put(f"{prefix}/{file.relative_to(folder)}", file.read_bytes())

    def copy(self, address: str, folder: Path) -> Path:
        """A folder with the files below an s3:// address."""
        for name, content in self.files(address).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder


def changed_environment(endpoint: str, home: Path) -> dict[str, str | None]:
    """The changes to the environment, None for what is removed, by which AWS's variables name this server and nothing
    else, whatever they and the home folder's files said."""
    return dict.fromkeys(name for name in os.environ if name.startswith("AWS_")) | {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(home / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "aws-credentials"),
    }


def _serve() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        """Keeps connections, as S3 does, and says nothing."""

        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None:
            """Nothing."""

    application, one_writes = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def serve(environment: Any, start: Any) -> Any:
        """As S3, but unlike moto alone, one at a time checks the condition of a PUT and writes."""
        with one_writes if environment["REQUEST_METHOD"] == "PUT" else contextlib.nullcontext():
            return application(environment, start)

    server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
