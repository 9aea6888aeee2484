"""HTTP(S): a download that goes on where it broke, of one version of a file, and fsspec's file system with deadlines.

It wants aiohttp, which is loaded where an address asks for it.
"""

import asyncio
import concurrent.futures
import re
from collections.abc import Mapping
from typing import Any

import aiohttp
from fsspec.config import conf
from fsspec.implementations.http import HTTPFileSystem

from recap_fast.shards.patience import POLL_S, check_stop, progress
from recap_fast.shards.remote.failures import ReplacedError
from recap_fast.shards.remote.sink import Sink

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


_Version = tuple[str | None, str | None, str | None]
"""ETag, date of the last change, size."""


def http_file_system(timeout_s: float) -> HTTPFileSystem:
    """fsspec's, whose requests end where nothing comes for so long. Settings of fsspec's configuration hold."""
    configured = {**conf.get("http", {}).get("client_kwargs", {}), **conf.get("https", {}).get("client_kwargs", {})}
    timeout = aiohttp.ClientTimeout(total=None, connect=timeout_s, sock_connect=timeout_s, sock_read=timeout_s)
    return HTTPFileSystem(client_kwargs={"timeout": timeout, **configured})


def validator(headers: Mapping[str, str]) -> str | None:
    """What names a version in If-Range: a strong ETag, else the date of the last change."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


class HttpDownload:
    """Copies a file into a sink; each try goes on where the last one ended, if the file is still the same."""

    def __init__(self, system: Any, url: str, sink: Sink):
        self._system, self._url, self._sink = system, url, sink
        self._version: _Version = (None, None, None)
        self._validator: str | None = None
        self._can_go_on = False
        self.version = None
        """Not told: fsspec, which says the input's, has other names for versions."""

    def copy_rest(self) -> bool:
        """Appends what the sink lacks; whether it is complete then.

        Raises ReplacedError where the file is not the one whose begin the sink has, StoppedError, and what the client
        raises.
        """
        if not self._can_go_on:
            self._sink.restart()
        future = asyncio.run_coroutine_threadsafe(self._copy(), self._system.loop)
        try:
            while not concurrent.futures.wait([future], POLL_S).done:
                check_stop()
                progress()  # the client's own deadlines hold
        finally:
            future.cancel()
        return future.result()

    async def _copy(self) -> bool:
        start, options = self._sink.tell(), dict(self._system.kwargs)
        headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self._validator:
                headers["If-Range"] = self._validator
        session = await self._system.set_session()
        async with session.get(self._system.encode_url(self._url), headers=headers, **options) as response:
            response.raise_for_status()
            end = self._begin(start, response)
            async for chunk in response.content.iter_any():
                self._sink.write(chunk)
        return end is None or self._sink.tell() >= end

    def _begin(self, start: int, response: aiohttp.ClientResponse) -> int | None:
        """Takes note of an answer; the size that the sink is to have, None where nobody knows it."""
        headers = response.headers
        total = headers.get("Content-Length")
        if response.status == 206:
            match = _RANGE.match(headers.get("Content-Range", ""))
            if not match or int(match[1]) != start:
                raise ReplacedError
            total = match[2] if match[2] != "*" else None
        if headers.get("Content-Encoding", "identity") not in ("", "identity"):
            total = None
        version = (headers.get("ETag"), headers.get("Last-Modified"), total)
        if start and not _may_be_equal(version, self._version):
            raise ReplacedError
        if start and response.status != 206:  # a server that cannot serve ranges: from the start again
            self._sink.restart()
        self._version, self._validator = version, validator(headers)
        self._can_go_on = headers.get("Content-Encoding", "identity") in ("", "identity")
        if total is None:
            return None
        self._sink.reserve(int(total) - self._sink.tell())
        return int(total)


def _may_be_equal(one: _Version, other: _Version) -> bool:
    return all(a == b or a is None or b is None for a, b in zip(one, other, strict=True))
