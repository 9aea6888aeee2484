"""Which files of a local folder came with which image: `a.cls`, `a.meta.json`, `a.caption` and `a.TXT` with `a.jpg`.

In goes a folder, out come the extensions of such files by the stems of images. `.txt` and `.json` are not among them:
they are asked for by name, as they are in remote folders.
"""

import os
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

from recap_fast.shards.sample import is_image_name
from recap_fast.shards.tar.side_files import is_text_extension

NUM_FOLDERS = 8
"""So many are remembered: the images of a folder come one after another."""


def owner(name: str, stems: Collection[str]) -> str | None:
    """Of the stems, the longest that the name goes on from with a dot, where what follows is known to be text."""
    if not is_text_extension(name.rpartition(".")[2]):
        return None
    stem, dot, _ = name.rpartition(".")
    while dot:
        if stem in stems:
            return stem
        stem, dot, _ = stem.rpartition(".")
    return None


def extensions_beside(folder: str, stem: str) -> tuple[str, ...]:
    """The extensions, as written, of files that came with the image of that stem; none where they cannot be listed."""
    try:
        return _listed(folder, Path(folder).stat().st_mtime_ns).get(stem, ())
    except OSError:
        return ()


@lru_cache(NUM_FOLDERS)
def _listed(folder: str, _version: int) -> Mapping[str, tuple[str, ...]]:
    stems, others = set(), []
    with os.scandir(folder) as entries:
        for name in (entry.name for entry in entries):
            if is_image_name(name):
                stems.add(name.rpartition(".")[0])
            elif is_text_extension(name.rpartition(".")[2]):
                others.append(name)
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(others):
        stem = owner(name, stems)
        if stem is not None and (extension := name[len(stem) + 1 :]) not in ("txt", "json"):
            found[stem] = (*found.get(stem, ()), extension)
    return found
