"""The door to huggingface_hub for models: of a repository, the files that are read here lie in the Hub's own cache.

The library decides where that is (HF_HOME), whether the network is asked at all (HF_HUB_OFFLINE) and who asks (HF_TOKEN
or `hf auth login`), and shows its progress where standard error is a terminal.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recap_fast.addresses import scrub
from recap_fast.build.checkpoint import CONFIG_FILES, INDEX_FILE, indexed_files
from recap_fast.build.checkpoint_folder import check_content
from recap_fast.build.hub_name import HubName
from recap_fast.errors import ConfigError
from recap_fast.generate.tokenizer import TOKENIZER_FILES
from recap_fast.text import message_of, sized

SAFETENSORS = "*.safetensors"
_WEIGHTS = (SAFETENSORS, "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf")
_SMALL = (*CONFIG_FILES, INDEX_FILE, "adapter_config.json", *TOKENIZER_FILES)
_SUBFOLDERS = "*/*"
_TOKEN = re.compile(r"\bhf_\w+")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files of a repository on this machine; each may be a symbolic link into the cache."""

    folder: Path
    name: HubName
    """With the commit as its revision."""


def download_configs(name: HubName, option: str = "--checkpoint") -> Snapshot:
    """All files of a model but its weights, which `download_weights` adds.

    Raises ConfigError where the repository cannot be had, with what to do, and where it is known to hold no whole model
    in safetensors. `option` is what the name was given to.
    """
    snapshot = _download(name, _SMALL, option)
    if (files := _list(name, _WEIGHTS, option)) is not None:
        names = {path.name for path in snapshot.folder.iterdir()}
        check_content(snapshot.folder, names | {file.filename for file in files}, str(name))
    return snapshot


def download_weights(snapshot: Snapshot, name: HubName, option: str = "--checkpoint") -> Snapshot:
    """Adds the weights to what `download_configs` got of a name: the files of the index, or all safetensors.

    Raises ConfigError where they cannot be had, or the disk has no room for them.
    """
    wanted = indexed_files(snapshot.folder) or (SAFETENSORS,)
    files = _list(name, wanted, option) or ()
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    free = shutil.disk_usage(snapshot.folder).free
    if missing > free:
        cache = snapshot.folder.parents[2]
        raise ConfigError(
            f"{option} {name} has {sized(missing)} to download, and the disk of {cache} has {sized(free)} free. Make "
            "room there, or set HF_HOME to a folder on another disk."
        )
    whole = _download(name, (*_SMALL, *wanted), option)
    if whole.folder != snapshot.folder:
        raise ConfigError(f"{option} {name} has just been changed on the Hub. Run the same command again.")
    return whole


def download_tokenizer(name: HubName, option: str = "--tokenizer") -> Snapshot:
    """The files of a tokenizer alone. Raises ConfigError where the repository cannot be had, with what to do."""
    return _download(name, TOKENIZER_FILES, option)


def _download(name: HubName, patterns: Sequence[str], option: str) -> Snapshot:
    folder = Path(_ask(name, option, patterns))
    return Snapshot(folder, HubName(name.repository, folder.name))


def _list(name: HubName, patterns: Sequence[str], option: str) -> list[Any] | None:
    """What the repository has of these files (DryRunFileInfo); None where only the cache can be asked."""
    try:
        files: list[Any] = _ask(name, option, patterns, dry_run=True)
    except UnreachableError:
        return None
    return files


class UnreachableError(Exception):
    """The Hub cannot be asked; what is in the cache may do."""


def _ask(name: HubName, option: str, patterns: Sequence[str], *, dry_run: bool = False) -> Any:
    """Calls snapshot_download for files of the repository's own folder."""
    try:
        from huggingface_hub import errors, snapshot_download
        from huggingface_hub.utils import tqdm
    except ImportError as error:
        raise ConfigError(
            f"There is no folder {name} here. To download the model of this name from the Hugging Face Hub: "
            "pip install 'recap-fast[hub]'"
        ) from error

    class Bar(tqdm):  # type: ignore[misc]
        """Shown only on a terminal, and never for a list of files."""

        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **{**options, "disable": dry_run or None})

    try:
        return snapshot_download(
            name.repository,
            revision=name.revision,
            allow_patterns=list(patterns),
            ignore_patterns=[_SUBFOLDERS],
            library_name="recap-fast",
            tqdm_class=Bar,
            dry_run=dry_run,
        )
    except errors.DryRunError as error:
        raise UnreachableError from error
    except Exception as error:  # the library has errors of its own, and those of three others
        raise ConfigError(f"{option} {name} cannot be downloaded: {_reason(error, name)}") from error


def _reason(error: BaseException, name: HubName) -> str:
    """What went wrong, for people, and what to do about it."""
    from huggingface_hub import errors

    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    page = f"https://huggingface.co/{name.repository}"
    match error:
        case errors.GatedRepoError():
            return (
                f"its license has to be accepted first. Do that at {page}, then log in with `hf auth login`, or set "
                "HF_TOKEN to a token of the same account."
            )
        case errors.RevisionNotFoundError():
            return f"it has no revision {name.revision!r}. {page} lists its branches and tags; a commit will do, too."
        case errors.RepositoryNotFoundError():
            return (
                "there is no such folder here, and no such model on the Hub. Check the name; if the model is private, "
                "log in with `hf auth login`, or set HF_TOKEN."
            )
        case errors.HFValidationError():
            return "there is no such folder here, and it can be no name on the Hub, ORG/NAME."
    if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in causes):
        return (
            "HF_HUB_OFFLINE is set, and not all of its files are in the cache. Run the same command once without "
            "HF_HUB_OFFLINE, or copy the cache (HF_HOME) from a machine that has them."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"the Hub does not answer ({_safe(message_of(causes[-1]))}), and not all of its files are in the cache. "
            "Check the network. Run the same command again to go on."
        )
    if getattr(getattr(error, "response", None), "status_code", None) == 401:
        return "the Hub refuses the token. Log in again with `hf auth login`, or set HF_TOKEN to one that is valid."
    said = ": ".join(dict.fromkeys(message_of(cause).rstrip(".") for cause in causes))
    return f"{_safe(said)}. Run the same command again to go on."


def _safe(text: str) -> str:
    """The text without passwords and tokens."""
    return _TOKEN.sub("hf_***", scrub(text))
