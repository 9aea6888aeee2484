"""The door to huggingface_hub: a folder becomes a dataset repository of the Hub, and what is there is compared with it.

`upload_folder` sends what the repository lacks: a second call goes on where the first one was cut off. The token is the
one that `hf auth login` or HF_TOKEN gave. It is never shown.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.addresses import scrub
from recap_fast.atomic import sha256_of
from recap_fast.errors import ConfigError, RecapError
from recap_fast.text import message_of

_REPO = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(?<!\.git)", re.ASCII)
_TOKEN = re.compile(r"\bhf_\w+")
_STATUS = {
    401: "the Hub does not know you: run `hf auth login`, or set HF_TOKEN to a token that may write",
    403: "the token may not write there: make one with the role 'write' at https://huggingface.co/settings/tokens",
    404: "there is no such dataset, or the token may not see it: check the name, and the token's rights",
}
"""What to do about a refusal."""


def check_repo(repo: str) -> None:
    """Raises ConfigError for a name that is none of a repository's, and where huggingface_hub is missing."""
    if not _REPO.fullmatch(repo):
        raise ConfigError(f"--repo is {repo!r}, but a dataset of the Hub is called NAME/DATASET.")
    _library()


def upload(folder: Path, repo: str, *, private: bool, is_watched: bool = False) -> str:
    """Uploads what a folder has to a dataset repository, which is made if need be; the address of the dataset.

    `private` is for a repository that is made; `is_watched`: the library shows its progress. Raises RecapError where
    the Hub refuses, cannot be reached, or has something else in the end.
    """
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    api = _library()
    (enable_progress_bars if is_watched else disable_progress_bars)()
    try:
        url = str(api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True))
        api.upload_folder(
            repo_id=repo, repo_type="dataset", folder_path=folder, commit_message="Upload by recap-fast export"
        )
        found = api.dataset_info(repo, files_metadata=True)
    except Exception as error:  # the library has errors of its own, and those of three others
        raise RecapError(f"{repo} cannot be uploaded: {_reason(error)}. The same command again goes on.") from error
    _compare(folder, repo, {file.rfilename: file for file in found.siblings or ()})
    return url


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError("--to hub needs huggingface_hub: pip install 'recap-fast[hub]'") from error
    return huggingface_hub.HfApi()


def _reason(error: BaseException) -> str:
    """What to do about a refusal; of anything else what the library says, and what lies behind that."""
    said, cause = [], error
    while True:
        if (known := _STATUS.get(getattr(getattr(cause, "response", None), "status_code", 0))) is not None:
            return known
        said.append(message_of(cause).rstrip("."))
        if cause.__cause__ is None:
            return _TOKEN.sub("hf_***", scrub(": ".join(said)))
        cause = cause.__cause__


def _compare(folder: Path, repo: str, there: Mapping[str, Any]) -> None:
    """Raises RecapError unless the repository has each file of the folder, byte for byte."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        file = there.get(name)
        if file is None or not _is_same(path, file):
            what = "lacks" if file is None else "has another"
            raise RecapError(f"{repo} {what} {name} after the upload: the same command again uploads it.")


def _is_same(path: Path, file: Any) -> bool:
    """By the SHA-256 of a large file, by git's hash of a small one."""
    if file.lfs is not None:
        return bool(file.lfs.sha256 == sha256_of(path))
    content = path.read_bytes()
    return bool(
        file.blob_id == hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
    )
