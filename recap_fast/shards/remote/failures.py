"""What the errors of remote file systems mean. Each client has its own, and some hide what the server answered.

In goes an error, out comes whether the file is not there, access is denied, or another try may help.
"""

import http
import http.client
import importlib
import sys
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from recap_fast.addresses import scrub
from recap_fast.store import failures as of_stores
from recap_fast.store.failures import Failure

_CLIENT_ERRORS = (
    ("aiohttp", "ClientError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
    ("huggingface_hub.errors", "HfHubHTTPError"),
    ("obstore.exceptions", "BaseError"),
    ("paramiko.ssh_exception", "SSHException"),
)
_NOT_FOR_NOW = (IsADirectoryError, NotADirectoryError, FileExistsError)


class ListingError(Exception):
    """A folder could not be listed; its cause says why. No OSError: fsspec would pass over the folder in silence."""


class ReplacedError(OSError):
    """A file is not the one any more of which a part was read."""

    status = 412
    """As of servers that are asked for a part of a version that is gone."""


def network_errors() -> tuple[type[Exception], ...]:
    """What reading over a network raises, of the clients that are loaded: their errors are not all OSError."""
    kinds: list[type[Exception]] = [OSError, EOFError, http.client.HTTPException, ListingError]
    for module, name in _CLIENT_ERRORS:
        if module in sys.modules:
            kinds.append(getattr(importlib.import_module(module), name))
    return tuple(kinds)


def failure_of(error: BaseException) -> Failure:
    """What an error says, without secrets; the server's answer decides where one is in its causes."""
    causes = list(_causes(error))
    for cause in causes:
        if type(cause).__module__ == "obstore.exceptions":
            return of_stores.failure_of(cause)
        if (status := _status(cause)) is not None:
            return _of_status(status, _retry_after_s(cause))
    # what file systems make of an outage may be a FileNotFoundError
    known = [c for c in causes if isinstance(c, network_errors()) and not isinstance(c, FileNotFoundError)]
    if not known and isinstance(error, FileNotFoundError):
        return Failure("missing", "is not there")
    source = known[-1] if known else error
    text = scrub(str(source))
    if isinstance(source, PermissionError):
        return Failure("denied", f"access is denied: {text}")
    if isinstance(source, TimeoutError) and not text:
        text = "nothing came in time"
    elif not isinstance(source, TimeoutError | EOFError):
        text = f"{type(source).__name__}: {text}"
    return Failure("other" if isinstance(source, _NOT_FOR_NOW) else "passing", text)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def _of_status(status: int, retry_after_s: float) -> Failure:
    phrase = next((f" {known.phrase}" for known in http.HTTPStatus if known == status), "")
    answer = f"the server answered {status}{phrase}"
    if status in (404, 410):
        return Failure("missing", "is not there")
    if status in (401, 403, 407):
        return Failure("denied", f"access is denied, {answer}")
    if status in (412, 416):
        return Failure("replaced", "it was replaced while it was read")
    if status in (408, 425, 429) or status >= 500:
        return Failure("passing", answer, retry_after_s)
    return Failure("other", answer)


def _status(error: BaseException) -> int | None:
    """Of the server's answer, where the error of an HTTP client has one."""
    if (status := _as_status(getattr(getattr(error, "response", None), "status_code", None))) is not None:
        return status
    names = ("status", "code") if type(error).__module__.startswith("urllib") else ("status", "status_code")
    return next((found for name in names if (found := _as_status(getattr(error, name, None))) is not None), None)


def _as_status(value: object) -> int | None:
    is_number = isinstance(value, int | str) and str(value).isdecimal()
    return int(str(value)) if is_number and 400 <= int(str(value)) < 600 else None


def _retry_after_s(error: BaseException) -> float:
    """Seconds, from the header Retry-After: a number, or a date."""
    headers: Any = getattr(error, "headers", None) or getattr(getattr(error, "response", None), "headers", None)
    if not isinstance(headers, Mapping):
        return 0.0
    value = str(next((headers[name] for name in headers if str(name).lower() == "retry-after"), "0"))
    try:
        seconds = float(value) if value.strip().isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, seconds)
