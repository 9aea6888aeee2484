"""The door to huggingface_hub: a folder becomes a dataset repository of the Hub, and what is there is compared with it.

`upload_folder` sends what the repository lacks: a second call goes on where the first one was cut off. The token is the
one that `hf auth login` or HF_TOKEN gave. It is never shown.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from recap_fast.addresses import scrub
from recap_fast.atomic import sha256_of
from recap_fast.errors import ConfigError, RecapError
from recap_fast.text import message_of
from recap_fast.write.names import some

T = TypeVar("T")
DATA = "data/train-*.parquet"
"""What a dataset of these files must have no others of: all files of that name are its rows."""
_REPO = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(?<!\.git)", re.ASCII)
_TOKEN = re.compile(r"\bhf_\w+")
_NUMBER = re.compile(r"(?<=/train-)\d+")
_STATUS = {
    401: "you are not logged in to the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write",
    403: "the token may not write there: make one with the role 'write' at https://huggingface.co/settings/tokens",
    404: "there is no such dataset, or the token may not see it: check the name, and the token's rights",
}
"""What to do about a refusal."""


@dataclass
class Upload:
    """Some files of a folder on their way to a repository, 'NAME/DATASET'.

    Raises ConfigError for a name that is none of a repository's, and where huggingface_hub is missing.
    """

    repo: str
    private: bool = False
    """Whether the repository is, if it is made."""
    overwrite: bool = False
    """Replace files there that are not as the folder has them."""
    _digests: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo):
            raise ConfigError(f"--repo {self.repo!r}: give the name of a dataset on the Hub, NAME/DATASET.")
        try:
            import huggingface_hub
        except ImportError as error:
            raise ConfigError("--to hub needs huggingface_hub: pip install 'recap-fast[hub]'") from error
        self._api: Any = huggingface_hub.HfApi()

    def send(self, folder: Path, files: Sequence[str], *, is_watched: bool = False) -> str:
        """Uploads files of the folder to the repository, which is made if need be; the address of the dataset.

        `is_watched`: the library shows its progress. Raises ConfigError where the repository has other files in their
        place, and RecapError where the Hub refuses, cannot be reached, or has something else in the end.
        """
        from huggingface_hub.utils import disable_progress_bars

        if not is_watched:
            disable_progress_bars()
        private = self.private or None
        url = self._asked(self._api.create_repo, self.repo, repo_type="dataset", private=private, exist_ok=True)
        before = self._files()
        stale = [name for name in before if fnmatchcase(name, DATA) and name not in files]
        changed = [name for name in files if name in before and not self._is_same(folder / name, before[name])]
        if (stale or changed) and not self.overwrite:
            raise ConfigError(
                f"{self.repo} has another {some([*changed, *stale])} already: give another --repo, or --overwrite to "
                "replace it."
            )
        self._asked(
            self._api.upload_folder,
            repo_id=self.repo,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=sorted({_NUMBER.sub("*", name) for name in files}),
            delete_patterns=stale or None,
            commit_message="Upload by recap-fast export",
        )
        self._compare(folder, files)
        return str(url)

    def _asked(self, call: Callable[..., T], *arguments: Any, **more: Any) -> T:
        """What a call of the library returns. Raises RecapError where it fails."""
        try:
            return call(*arguments, **more)
        except Exception as error:  # the library has errors of its own, and those of three others
            raise RecapError(
                f"{self.repo} cannot be uploaded: {_reason(error)}. Run the same command again to go on."
            ) from error

    def _files(self) -> Mapping[str, Any]:
        """What the repository has, by name."""
        found = self._asked(self._api.dataset_info, self.repo, files_metadata=True)
        return {file.rfilename: file for file in found.siblings or ()}

    def _compare(self, folder: Path, files: Sequence[str]) -> None:
        """Raises RecapError unless the repository has the files, byte for byte, and no others of their kind."""
        there = self._files()
        for name in files:
            if name not in there or not self._is_same(folder / name, there[name]):
                what = "has another" if name in there else "lacks"
                raise RecapError(f"{self.repo} {what} {name} after the upload: the same command again uploads it.")
        if others := [name for name in there if fnmatchcase(name, DATA) and name not in files]:
            raise RecapError(f"{self.repo} has {some(others)} besides, which is not of this export: remove it there.")

    def _is_same(self, path: Path, file: Any) -> bool:
        """Whether both are equal: by SHA-256 for a large file, by git's hash for a small one."""
        if file.size is not None and file.size != path.stat().st_size:
            return False
        if file.lfs is not None:
            if path not in self._digests:
                self._digests[path] = sha256_of(path)
            return bool(file.lfs.sha256 == self._digests[path])
        content = path.read_bytes()
        digest = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
        return bool(file.blob_id == digest)


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
