"""A real browser without a window: opens a page of this machine and says what it sees, by the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import contextlib
import itertools
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from support.guard import GUARD_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")
LOOK = """({
  title: document.title,
  text: document.body.innerText,
  scripts: document.scripts.length,
  images: [...document.images].map(image => image.naturalWidth),
  loaded: performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:')),
  viewWidth: document.documentElement.clientWidth,
  pageWidth: document.documentElement.scrollWidth,
  color: getComputedStyle(document.body).color,
})"""


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Seen:
    """A page as the browser has it."""

    look: dict[str, Any]
    """See `LOOK`."""
    complaints: list[str] = field(default_factory=list)
    """What is on the console, errors of scripts among it."""
    picture: bytes = b""
    """A PNG of the whole page."""


def look(path: Path, width: int, *, dark: bool = False) -> Seen:
    """Opens a page in a window of so many pixels, of which a phone has 360."""
    return asyncio.run(asyncio.wait_for(_look(path, width, dark), GUARD_S))


async def _look(path: Path, width: int, dark: bool) -> Seen:
    async with _page() as page:
        for domain in ("Page", "Log", "Runtime"):
            await page.call(f"{domain}.enable")
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        await page.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await page.call("Emulation.setEmulatedMedia", features=scheme)
        await page.call("Page.setLifecycleEventsEnabled", enabled=True)
        begun = await page.call("Page.navigate", url=path.absolute().as_uri())
        await page.until("Page.lifecycleEvent", loaderId=begun["loaderId"], name="load")  # the blank page has its own
        found = await page.call("Runtime.evaluate", expression=LOOK, returnByValue=True)
        shot = await page.call("Page.captureScreenshot", captureBeyondViewport=True)
        return Seen(found["result"]["value"], page.complaints, base64.b64decode(shot["data"]))


class _Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self._events: list[tuple[str, dict[str, Any]]] = []
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while (message := await self._receive()).get("id") != number:
            pass
        assert "error" not in message, message
        return message["result"]

    async def until(self, event: str, **wanted: str) -> None:
        """Returns when there was such an event, with these parameters."""
        while not any(name == event and wanted.items() <= params.items() for name, params in self._events):
            await self._receive()

    async def _receive(self) -> dict[str, Any]:
        message = await self._socket.receive_json()
        method, params = message.get("method", ""), message.get("params", {})
        self._events.append((method, params))
        if method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        return message


async def _first_tab(session: aiohttp.ClientSession, address: str) -> dict[str, Any]:
    """The first page in the browser's list, which answers before there is one."""
    while True:
        async with session.get(address) as answer:
            for tab in await answer.json():
                if tab["type"] == "page":
                    return tab
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _page() -> AsyncIterator[_Page]:
    browser = find_browser()
    assert browser is not None, "ask find_browser first"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            browser,
            *OPTIONS,
            f"--user-data-dir={profile}",
            "about:blank",
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            assert process.stderr is not None
            async for line in process.stderr:
                if (found := re.search(rb"DevTools listening on ws://([^/]+)/", line)) is not None:
                    break
            else:
                raise AssertionError("the browser did not start")
            address = found[1].decode()
            async with aiohttp.ClientSession() as session:
                tab = await _first_tab(session, f"http://{address}/json")
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield _Page(socket)
        finally:
            process.terminate()
            await process.wait()
