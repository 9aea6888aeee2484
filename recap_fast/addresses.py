"""The addresses of inputs, local paths and fsspec URLs: their parts, and how they may be stored or shown."""

import re
from collections.abc import Sequence

_NAMES_BEFORE_AT = ("abfs", "abfss", "wasb", "wasbs", "oci", "github", "git")
"""Schemes where what stands before the '@' is no login but part of the address: abfs://container@account/path."""
_AZURE = ("abfs", "abfss", "wasb", "wasbs")
"""Of these, the schemes whose names have no ':', so that it tells a login."""
_LOGIN = re.compile(r"[^/@:\[?#]*:(?!:|\d*(?:[/?#]|$))[^@]*@|[^/@?#]*@")
_QUERY, _WEB_QUERY = re.compile(r"\?[\w.-]+="), re.compile(r"[?#]")
_LINKS = re.compile(r"::(?=[a-zA-Z][a-zA-Z0-9+.-]*://)")
_URL_IN_TEXT = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+")
_AUTHORIZATION = re.compile(r"\b(Basic|Bearer) [A-Za-z0-9+/=._~-]{4,}")


def is_remote(url: str) -> bool:
    """Whether an address is an fsspec URL rather than a local path."""
    return "://" in url


def without_query(url: str) -> str:
    """A path or URL; a web address without the '?' and what follows it."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def public_url(url: str) -> str:
    """A path or URL without what may be secret: login, query and fragment. This form is recorded and shown.

    A URL that is signed again stays the same. In URLs other than web addresses, a '?' begins a query only before
    `name=`: it may be part of a key or a pattern. Chains of fsspec (`zip://a.tar::https://...`) are taken link by link.
    """
    return "::".join(_public_link(link) for link in _LINKS.split(url))


def _public_link(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    is_name = scheme.lower() in _NAMES_BEFORE_AT and not (scheme.lower() in _AZURE and ":" in rest.partition("@")[0])
    login = None if is_name else _LOGIN.match(rest)
    rest = rest[login.end() :] if login else rest
    secret = (_WEB_QUERY if scheme.lower() in ("http", "https") else _QUERY).search(rest)
    return f"{scheme}://{rest[: secret.start()] if secret else rest}"


def scrub(text: str) -> str:
    """A text, such as another library's error, with all its URLs made public and its authorization headers removed."""
    return _AUTHORIZATION.sub(r"\1 ***", _URL_IN_TEXT.sub(lambda match: public_url(match[0]), text))


def path_parts(url: str) -> list[str]:
    """The folders of a path; the scheme, host and folders of a URL. '' has no parts."""
    if is_remote(url):
        scheme, _, path = without_query(url).partition("://")
        return [scheme.replace(":", "-"), *(part for part in path.split("/") if part)]
    return [part for part in url.split("/") if part]


def is_below(url: str, folder: str) -> bool:
    """Whether an address is the folder itself, or something in it."""
    parts = path_parts(folder)
    return path_parts(url)[: len(parts)] == parts


def relative(url: str, folder: str) -> str:
    """The path that leads from a folder to an address, with `..` where it is not below; '' for the folder itself."""
    there, here = path_parts(url), path_parts(folder)
    shared = len(common_parts([there, here]))
    return "/".join([*[".."] * (len(here) - shared), *there[shared:]])


def common_parts(paths: Sequence[Sequence[str]]) -> list[str]:
    """The parts with which all of some paths begin."""
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared
