"""The run file: what every output of a folder has in common, and the shards of all runs into it.

In go the folder and a run's fingerprint and shards; out comes the merged file, or a refusal that names what differs.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recap_fast.atomic import atomic_write, is_temporary, make_folder
from recap_fast.errors import ConfigError
from recap_fast.shard_set import ShardSet
from recap_fast.write.output_folder import OutputFolder

FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunFile:
    """The content of the run file."""

    fingerprint: Mapping[str, Any]
    root: str
    """The folder or URL from which the shards are named; that of the first run into the folder."""
    shards: Mapping[str, str]
    """Name to URL."""


def read_run_file(output: OutputFolder) -> RunFile | None:
    """The folder's run file; None where there is none. Raises ConfigError for one that cannot be read."""
    path = output.run_file
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ConfigError(
                f"{path} has format {content['format']}, this version reads {FORMAT}: use another --output."
            )
        return RunFile(content["fingerprint"], content["root"], content["shards"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read ({error!r}): use another --output.") from error


def merge_run_file(
    output: OutputFolder, fingerprint: Mapping[str, Any], shard_set: ShardSet, *, overwrite: bool
) -> ShardSet:
    """Makes or extends the run file; returns the run's shards as the folder names them.

    Raises ConfigError for a folder with another fingerprint, other files or inputs from elsewhere.
    """
    try:
        make_folder(output.root)
    except OSError as error:
        raise ConfigError(f"--output {output.root} cannot be made: {error}.") from error
    with _locked(output.root):
        if overwrite and output.run_file.exists():
            _clear(output)
        old = read_run_file(output)
        if old is None:
            _refuse_strangers(output.root)
            old = RunFile({}, shard_set.root, {})
        else:
            refuse_other_fingerprint(output, old.fingerprint, fingerprint)
        shard_set = shard_set.below(old.root)
        run = RunFile(_as_json(fingerprint), old.root, _merge(old.shards, shard_set))
        if run != old:
            content = {"format": FORMAT, **asdict(run)}
            atomic_write(output.run_file, (json.dumps(content, indent=1) + "\n").encode())
        return shard_set


def _merge(known: Mapping[str, str], shard_set: ShardSet) -> dict[str, str]:
    shards = dict(known)
    for shard in shard_set.shards:
        url = shards.setdefault(shard.name, shard.url)
        if url != shard.url:
            raise ConfigError(
                f"{shard.url} would be written to {shard.name}.parquet, which an earlier run made of {url}: "
                "give another --output."
            )
    return shards


def _as_json(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """As it reads back: tuples become lists."""
    fields: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
    return fields


def refuse_other_fingerprint(output: OutputFolder, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    fields = _as_json(new)
    differing = [name for name in sorted({*old, *fields}) if old.get(name) != fields.get(name)]
    if differing:
        lines = (f"  {name}: {old.get(name)!r} there, {fields.get(name)!r} now" for name in differing)
        raise ConfigError(
            f"{output.root} holds the output of a run with other settings, and mixing both would be a mistake:\n"
            + "\n".join(lines)
            + "\nGive another --output, the settings of that run, or --overwrite to remove its output."
        )


def _refuse_strangers(output: Path) -> None:
    names = sorted(path.name for path in output.iterdir() if not is_temporary(path.name))
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ConfigError(f"{output} is not empty and no run made it (it has {shown}): give a new or empty --output.")


def _clear(output: OutputFolder) -> None:
    """The run file goes last: without it the rest would be a stranger's."""
    for path in (*output.folders, output.card, output.run_file):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes of an array, started at the same moment, from writing the run file over ours."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot lock a folder
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
