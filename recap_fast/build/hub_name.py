"""The name of a model on the Hugging Face Hub, as people write it: ORG/NAME, ORG/NAME@REVISION, or its page."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from recap_fast.errors import ConfigError

_NAME = re.compile(r"(?P<repository>\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:@(?P<revision>.+))?", re.ASCII)
_FILE = re.compile(r".*\.(?:json|model|safetensors|gguf|bin|pth?|toml)", re.DOTALL)
"""What is meant as a path in a folder, even where there is none."""
_PAGE = re.compile(r"(?:https?:/+)?(?:www\.)?(?:huggingface\.co|hf\.co)(?P<path>(?:/[^?#]*)?)(?:[?#].*)?")
_VIEW = re.compile(r"(?P<repository>[^/]+/[^/]+)(?:/(?:tree|blob|resolve|raw|commit)/(?P<revision>[^/]+))?(?:/.*)?")
"""The path of a model's page; in its address, a revision has no '/' of its own."""
_SCHEME = re.compile(r"hf:/+")
_REVISION = re.compile(r"[\w.-]+(?:/[\w.-]+)*", re.ASCII)
_OTHER_KINDS = ("datasets", "spaces", "collections", "papers", "docs", "buckets")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository of a model on the Hub."""

    repository: str
    """ORG/NAME."""
    revision: str | None = None
    """A branch, a tag or a commit; None is the newest, the branch `main`."""

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def parse_hub_name(given: str | Path) -> HubName | None:
    """The model that is meant; None where it is a path. What exists on this machine is a path, whatever it looks like,
    and so is what begins with './'.

    Raises ConfigError for a page of the Hub that is no model's, and for a revision that none can be.
    """
    text = str(given).rstrip("/")
    page = _PAGE.fullmatch(text)
    if Path(given).exists() or (_FILE.fullmatch(text) and not page):
        return None
    if page:
        path = page["path"].strip("/")
        view = _VIEW.fullmatch(path)
        if view is None or path.partition("/")[0] in _OTHER_KINDS:
            raise ConfigError(f"{text} is not the page of a model: give one, https://huggingface.co/ORG/NAME.")
        repository, revision = view["repository"], view["revision"] and unquote(view["revision"])
        text = repository if revision is None else f"{repository}@{revision}"
    name = _NAME.fullmatch(_SCHEME.sub("", text, count=1))
    if name is None:
        return None
    revision = name["revision"]
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(f"{given}: {revision!r} is no revision. Give a branch, a tag or a commit after the '@'.")
    return HubName(name["repository"], revision)


def advice_on_shadow(folder: Path) -> str:
    """How to get the model of the Hub in whose place a folder was taken; '' where the folder has no such name."""
    name = _NAME.fullmatch(str(folder))
    if name is None or name["revision"]:
        return ""
    return f" If the model on the Hub is meant, remove this folder, or give https://huggingface.co/{folder}."


def download_advice(given: Path, option: str) -> str:
    """How to get a model whose name on the Hub was given where only a folder is taken; '' where it is no such name."""
    name = parse_hub_name(given)
    if name is None:
        return " Copy the files of a URL to a folder first." if re.match(r"\w+:/", given.as_posix()) else ""
    folder = name.repository.rsplit("/", 1)[-1]
    revision = f" --revision {name.revision}" if name.revision else ""
    return (
        f" If {name} is a model of the Hugging Face Hub, download it first:\n"
        "  pip install huggingface_hub\n"
        f"  hf download {name.repository}{revision} --local-dir {folder}\n"
        f"and give {option} {folder}."
    )
