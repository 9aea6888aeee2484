"""The files that an engine is made of: the checkpoint's and the tokenizer's, in folders or on the Hugging Face Hub.

What is on the Hub is downloaded into its cache, small files first: a model that cannot run is refused before its
weights are downloaded. `engine.json` says where each came from, with SHA-256.
"""

import importlib.util
import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from recap_fast.atomic import sha256_of
from recap_fast.build.checkpoint import CONFIG_FILES
from recap_fast.build.checkpoint_folder import check_folder
from recap_fast.build.hub import Snapshot, download_configs, download_tokenizer, download_weights
from recap_fast.build.hub_name import parse_hub_name
from recap_fast.errors import ConfigError
from recap_fast.generate.tokenizer import TOKENIZER_FILES, find_tokenizer
from recap_fast.version import __version__

LLAMA3_VOCABULARIES = range(128_000, 129_000)
"""Rows of the embedding in models that take Llama 3's tokenizer, of 128,256 tokens and some of their own."""
LLAMA3_PACKAGE = "llama-models==0.3.0"
LLAMA3_SHA256 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"
"""Checksum of the tokenizer.model in that package, which is Meta's."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A file or folder on this machine, and where it came from."""

    path: Path
    origin: Mapping[str, str] = field(default_factory=dict)
    """`repository` and `revision`, a commit, of what was downloaded from the Hub; `package` of what came with one."""

    @property
    def title(self) -> str:
        """What a model is called: by its repository, or by its folder."""
        return self.origin["repository"].rsplit("/", 1)[-1] if self.origin else self.path.resolve().name

    def record_file(self) -> dict[str, str]:
        """Where the file came from, and its SHA-256; its path only where that is all there is to say."""
        name = self.path.name if self.origin else str(self.path.resolve())
        return {**self.origin, "file": name, "sha256": sha256_of(self.path)}

    def record_folder(self, weights: Iterable[Path]) -> dict[str, object]:
        """Where a checkpoint came from, and the SHA-256 of what is read of it."""
        configs = (self.path / name for name in CONFIG_FILES)
        files = {path.name: sha256_of(path) for path in (*weights, *configs) if path.is_file()}
        return {**(self.origin or {"folder": str(self.path.resolve())}), "files": files}


def find_checkpoint(given: str | Path) -> Found:
    """A checkpoint by its folder or by its name on the Hub, of which the weights are not downloaded yet.

    Raises ConfigError where there is none, with what to do.
    """
    try:
        name = parse_hub_name(given)
        if name is None:
            check_folder(Path(given))
            return Found(Path(given))
    except PermissionError as error:
        raise ConfigError(f"{given} cannot be read: permission denied. Change its mode or its owner.") from error
    return _downloaded(download_configs(name))


def add_weights(checkpoint: Found, given: str | Path) -> Found:
    """Downloads the weights of what `find_checkpoint` found on the Hub. Raises ConfigError where that fails."""
    name = parse_hub_name(given)
    if name is None:
        return checkpoint
    return _downloaded(download_weights(Snapshot(checkpoint.path, name), name))


def find_tokenizer_file(given: str | Path | None, checkpoint: Found, vocab_size: int) -> Found:
    """The file of the tokenizer: `given`, a path or a name on the Hub, else the checkpoint's, else Llama 3's.

    `vocab_size` is the number of rows of the embedding. Raises ConfigError where there is no tokenizer.
    """
    name = None if given is None else parse_hub_name(given)
    place = _downloaded(download_tokenizer(name)) if name else checkpoint if given is None else Found(Path(given))
    file = find_tokenizer(place.path)
    if file is not None:
        return Found(file, place.origin)
    names = " or ".join(TOKENIZER_FILES)
    shown = place.origin.get("repository") or place.path
    lacks = f"{shown} has no {names}" if given is None else f"--tokenizer {given}: there is no {names}"
    if vocab_size not in LLAMA3_VOCABULARIES:
        raise ConfigError(
            f"{lacks}. Give the language model's with --tokenizer: a file, a folder or a name on the Hub."
        )
    file = _packaged_llama3()
    if file is None or given is not None:
        raise ConfigError(
            f"{lacks}. Llama 3's is in a package of PyPI:\n"
            f"  pip install --no-deps {LLAMA3_PACKAGE}\n"
            f"Then the same command{' without --tokenizer' * (given is not None)} finds it there."
        )
    logger.warning("%s: using Llama 3's, of the package llama-models.", lacks)
    return Found(file, {"package": LLAMA3_PACKAGE})


def describe_sources(
    recipes: Sequence[Path], checkpoint: Found, weights: Iterable[Path], tokenizer: Found
) -> dict[str, Mapping[str, object]]:
    """What engine.json says of where an engine came from: `spec.EngineSpec.sources`. The first recipe is the one that
    was given, the others are its bases."""
    recipe, *bases = ({"file": path.name, "sha256": sha256_of(path)} for path in recipes)
    return {
        "recipe": {**recipe, "bases": bases},
        "checkpoint": checkpoint.record_folder(weights),
        "tokenizer": tokenizer.record_file(),
        "versions": {
            "recap-fast": __version__,
            "torch": version("torch"),
            "safetensors": version("safetensors"),
            "python": platform.python_version(),
        },
    }


def _downloaded(snapshot: Snapshot) -> Found:
    name = snapshot.name
    return Found(snapshot.folder, {"repository": name.repository, "revision": name.revision or ""})


def _packaged_llama3() -> Path | None:
    """Meta's tokenizer of Llama 3 in the package `llama-models`, which is not imported; None where it is not there."""
    package = importlib.util.find_spec("llama_models")
    folders = package.submodule_search_locations if package is not None else None
    files = (Path(folder) / "llama3" / "tokenizer.model" for folder in folders or ())
    return next((file for file in files if file.is_file() and sha256_of(file) == LLAMA3_SHA256), None)
