"""Buckets of object stores: s3://, gs:// and az:// by obstore, with the credentials that the environment has.

One connection per bucket and process serves all threads. It opens nothing until it is used.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from recap_fast.addresses import public_url, scrub
from recap_fast.errors import ConfigError
from recap_fast.store import aws, azure, google
from recap_fast.store.failures import CREDENTIALS

S3, GCS, AZURE = "s3", "gs", "az"
SCHEMES = {
    **dict.fromkeys(("s3", "s3a"), S3),
    **dict.fromkeys(("gs", "gcs"), GCS),
    **dict.fromkeys(("az", "abfs", "abfss"), AZURE),
}
"""The schemes of object stores, and which store each means."""
_NAMES = {S3: "S3", GCS: "GCS", AZURE: "MicrosoftAzure"}
"""As obstore's errors call them."""
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
RETRIES = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=2), "base": 2},
}
"""obstore tries a request twice more: enough for a dropped connection in the middle of a listing or of an upload in
parts, which would begin again from the start otherwise. What takes longer is for the loops of our own: they say so in
the log, go on from where a download broke, and end when the run does."""
_WHOLE_REQUEST = timedelta(days=1)
"""No limit: a large file may take long as long as something comes."""
_SIGNED = re.compile(r"[?&](sig|signature|x-amz-\w+|x-goog-\w+|awsaccesskeyid|googleaccessid)=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something lies in an object store."""

    kind: str
    bucket: str
    """In Azure the container."""
    host: str
    """In Azure the account's host, where the URL names it; else ''."""
    path: str


@dataclass(slots=True)
class _Connections:
    """Of this process. Those of its parent are of no use after a fork: obstore's threads did not come along."""

    process: int = 0
    opened: dict[object, Any] = field(default_factory=dict)


_connections = _Connections()


def is_cloud(url: str) -> bool:
    """Whether an address is in an object store: s3://, gs://, az:// and their other names."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


def connect(url: str, read_timeout_s: float = READ_TIMEOUT_S) -> tuple[Any, str]:
    """The obstore ObjectStore of a URL's bucket, and the path in it: '' for the bucket itself.

    A request that brings nothing for `read_timeout_s` fails. The environment is read each time, so that changed
    credentials are used. Raises ConfigError where obstore is missing, the URL has a login or a signature, or the
    configuration cannot be used. Nothing is sent to the bucket yet; Amazon is asked for its region where none is set.
    """
    place = place_of(url)
    key = (place.kind, place.bucket, place.host, read_timeout_s, _environment())
    if _connections.process not in (0, os.getpid()):
        raise ConfigError(
            f"{public_url(url)} cannot be reached from a forked process, because its parent has a connection to an "
            "object store: start processes with multiprocessing's 'spawn'."
        )
    if (store := _connections.opened.get(key)) is None:
        store = _open(place, url, read_timeout_s)
        _connections.process = os.getpid()
        _connections.opened[key] = store
    return store, place.path


def place_of(url: str) -> Place:
    """The parts of a URL. Raises ConfigError where it is none of an object store, or has a login or a signature."""
    scheme, _, rest = url.partition("://")
    kind, shown = SCHEMES.get(scheme.lower(), ""), public_url(url)
    if not kind:
        raise ConfigError(f"{shown} is not in an object store: write s3://, gs:// or az://.")
    bucket, _, path = rest.partition("/")
    host = ""
    if scheme.lower() in ("abfs", "abfss") and "@" in bucket and ":" not in bucket:
        bucket, _, host = bucket.partition("@")
    if "@" in bucket or ":" in bucket:
        raise ConfigError(f"{shown} has a login: remove it, and set {CREDENTIALS[_NAMES[kind]]}.")
    if _SIGNED.search(rest):
        raise ConfigError(
            f"{shown} is signed: remove the '?' and what follows it, and set {CREDENTIALS[_NAMES[kind]]}."
        )
    if not bucket:
        raise ConfigError(f"{shown} names no bucket: write {scheme}://BUCKET/PATH.")
    return Place(kind, bucket, host, path.strip("/"))


def _open(place: Place, url: str, read_timeout_s: float) -> Any:
    try:
        import obstore.store
    except ImportError as error:
        raise ConfigError(
            f"{public_url(url)} needs a package that is not installed: run `pip install 'recap-fast[cloud]'`."
        ) from error
    settings = _SETTINGS[place.kind](place.bucket, place.host, os.environ)
    client = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=read_timeout_s),
        "timeout": _WHOLE_REQUEST,
        "allow_http": settings.pop("allow_http", False),
    }
    if certificate := settings.pop("root_certificate", None):
        client["root_certificate"] = certificate
    kinds: dict[str, Any] = {
        S3: obstore.store.S3Store,
        GCS: obstore.store.GCSStore,
        AZURE: obstore.store.AzureStore,
    }
    provider, text = settings.pop("credential_provider", None), ""
    try:
        return kinds[place.kind](
            place.bucket, config=settings, client_options=client, retry_config=RETRIES, credential_provider=provider
        )
    except (obstore.exceptions.BaseError, ValueError, OSError) as error:
        text = scrub(str(error)).partition("\n")[0]
    raise ConfigError(f"{public_url(url)} cannot be used with the present settings: {text}.")


_SETTINGS: dict[str, Callable[[str, str, Mapping[str, str]], dict[str, Any]]] = {
    S3: aws.settings,
    GCS: google.settings,
    AZURE: azure.settings,
}


def _environment() -> int:
    """Another number when a variable has changed that decides how to connect."""
    known = ("AWS_", "GOOGLE_", "AZURE_", "CLOUDSDK_", "STORAGE_EMULATOR_HOST", "HOME")
    return hash(frozenset(item for item in os.environ.items() if item[0].startswith(known)))
