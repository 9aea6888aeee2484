"""What obstore's errors mean: they are long, name the request with its query, and quote the server's whole answer.

In goes an error, out comes its kind and a short text without secrets.
"""

import http
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from recap_fast.addresses import scrub

CREDENTIALS = {
    "S3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "GCS": "GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "MicrosoftAzure": "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or run `az login`",
}
"""Where credentials are looked for, by the names that obstore has for the stores."""
_ANONYMOUS = {"S3": "AWS_SKIP_SIGNATURE", "GCS": "GOOGLE_SKIP_SIGNATURE", "MicrosoftAzure": "AZURE_SKIP_SIGNATURE"}
_STORE, _STATUS = re.compile(r"Generic (\w+) error"), re.compile(r"status code: (\d{3})")
_CODE, _REQUEST = re.compile(r"<Code>(\w+)</Code>"), re.compile(r"performing \w+ (https?://\S+)")
_MACHINE = re.compile(r"https?://(169\.254\.|metadata\.google|\[?fd00:ec2|[^/\s]+/latest/(api/token|meta-data))")
"""The server that gives a machine's own credentials."""
_PROVIDER = re.compile(r"External \w+ credential provider: ([^\n]+)")
"""One of Python's, such as boto3."""
_REASON = re.compile(r'message: "([^"]+)"')
_REASONS = (
    ("TimedOut", "nothing came in time"),
    ("dns error", "no such host is known"),
    ("InvalidContentType", "it answers without TLS"),
    ("InvalidCertificate", "its certificate is not trusted"),
    ("BadScheme", "http:// is not allowed"),
)
_LASTING = ("InvalidContentType", "InvalidCertificate", "BadScheme")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_OTHER_REGION = "the bucket lies in another region: set AWS_REGION to it"
_EXPIRED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId")
_PASSING = ("ConditionalRequestConflict", "OperationAborted", "NoSuchUpload", "RequestTimeout", "SlowDown")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something in an object store could not be read or written."""

    kind: Literal["missing", "denied", "replaced", "passing", "other"]
    """passing: another try may help. replaced: the file is there already, or another version than the one asked for."""
    text: str
    """To be read after the address and a colon; of what is missing, after the address."""
    retry_after_s: float = 0.0
    """What the server asks for, in seconds. obstore does not tell."""


def failure_of(error: BaseException) -> Failure:
    """What an error of obstore says; the server's answer decides where there is one. Errors of others are passing if
    they are about a connection or a time that is over."""
    name, (text, _, details) = type(error).__name__, str(error).partition("\n\nDebug source:")
    status, code = int(_found(_STATUS, text) or 0), _found(_CODE, text)
    if denied := _of_credentials(text, status):
        return denied
    if answered := _of_code(code, status) or _of_kind(name, code, status):
        return answered
    if "redirect" in text:
        return Failure("other", _OTHER_REGION)
    if status:
        return Failure("passing" if _may_pass(status) else "other", _answer(status, code))
    if name in ("GenericError", "JoinError") and ("HTTP error" in text or "kind: " in details):
        return _of_connection(text, details)
    kind: Literal["passing", "other"] = "passing" if isinstance(error, ConnectionError | TimeoutError) else "other"
    return Failure(kind, scrub(text.partition("\n")[0]) or name)


def _of_code(code: str, status: int) -> Failure | None:
    """By S3's own word for what is wrong, where the status alone would mislead."""
    if code in _PASSING:
        return Failure("passing", _answer(status, code))
    if code in _NO_BUCKET:
        return Failure("missing", "is not there: no such bucket is known")
    if code in _EXPIRED:
        return Failure("denied", f"access is denied, {_answer(status, code)}")
    return Failure("other", _OTHER_REGION) if code in _ELSEWHERE else None


def _of_kind(name: str, code: str, status: int) -> Failure | None:
    """By the class of the error, and by what the status says for all stores."""
    if name in ("AlreadyExistsError", "PreconditionError", "NotModifiedError") or status in (412, 416):
        return Failure("replaced", "it was replaced meanwhile")
    if name == "FileNotFoundError" or status == 404:
        return Failure("missing", "is not there")
    if name in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403, 407):
        skewed = "; set the clock of this machine" if code == "RequestTimeTooSkewed" else ""
        return Failure("denied", f"access is denied, {_answer(status, code)}{skewed}")
    return None


def is_without_bucket(error: FileNotFoundError) -> bool:
    """Whether the server says that not even the bucket is there; of some requests it says only that the file is not."""
    return _found(_CODE, str(error)) in _NO_BUCKET


def as_os_error(error: BaseException, shown: str, num_tries: int = 1) -> OSError:
    """The error to raise instead, about the address `shown`: FileNotFoundError, PermissionError, TimeoutError,
    ConnectionError, or another OSError. Raise it `from None`: what obstore says may hold secrets."""
    failure = failure_of(error)
    tried = f", tried {num_tries} times" if num_tries > 1 else ""
    if failure.kind == "missing":
        return FileNotFoundError(f"{shown} {failure.text}")
    text = f"{shown}: {failure.text}{tried}"
    if failure.kind == "denied":
        return PermissionError(text)
    if failure.kind == "passing":
        return TimeoutError(text) if "in time" in text else ConnectionError(text)
    return OSError(text)


def _may_pass(status: int) -> bool:
    return status in (408, 409, 425, 429) or (status >= 500 and status != 501)


def _of_credentials(text: str, status: int) -> Failure | None:
    """Where what should give the credentials does not."""
    if said := _found(_PROVIDER, text):
        return Failure("denied", f"access is denied, no credentials came: {scrub(said)}")
    if not _MACHINE.search(text) or status >= 500:
        return None
    store = _found(_STORE, text)
    advice = f"set {CREDENTIALS[store]}" if store in CREDENTIALS else "set them in the environment"
    public = f"; for a public bucket set {_ANONYMOUS[store]}=true" if store in _ANONYMOUS else ""
    return Failure("denied", f"access is denied, no credentials were found: {advice}{public}")


def _answer(status: int, code: str) -> str:
    if not status:
        return f"the server answered {code}" if code else "the server did not say why"
    phrase = next((f" {known.phrase}" for known in http.HTTPStatus if known == status), "")
    return f"the server answered {status}{phrase}" + (f" ({code})" if code else "")


def _of_connection(text: str, details: str) -> Failure:
    host = f" to {_host(url)}" if (url := _found(_REQUEST, text)) else ""
    reason = next((said for sign, said in _REASONS if sign in details), None)
    reason = reason or _found(_REASON, details) or "it was closed"
    kind: Literal["passing", "other"] = "other" if any(sign in details for sign in _LASTING) else "passing"
    return Failure(kind, f"the connection{host} failed: {scrub(reason)}")


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
