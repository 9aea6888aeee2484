"""Which images of a tar have rows, and what of it has none.

A sample of several images has a row for the first in the tar's order, for each, or for the one that the user names.
Members without an image beside them are a sample whose image is missing only where they are a .json and a .txt, or have
a .json that names a caption, url, uid, sha256 or key. All others (README.md, labels.csv, stats.json, LICENSE.txt)
belong to no image: they are counted and have no rows.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recap_fast.records import Selection
from recap_fast.shards.sample import CAPTION_NAMES, FIELD_NAMES, FURTHER_IMAGES
from recap_fast.shards.tar.keys import is_image, kind_of
from recap_fast.shards.tar.members import TarMembers

NO_IMAGE = "files that belong to no image"
MAX_KINDS = 10
"""Of files that belong to no image, so many kinds are counted apart."""
HEAD_BYTES = 64 << 10
"""So much of a .json is looked at for the names of a sample's fields."""
_FIELD = re.compile(rf'"(key|{"|".join((*CAPTION_NAMES, *FIELD_NAMES))})"\s*:'.encode(), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TarRows:
    """The rows of a tar: of each the sample and the member that is its image, -1 where there is none."""

    samples: NDArray[np.int32]
    images: NDArray[np.int64]
    left_out: Mapping[str, int]
    """What has no row, by reason."""


def choose_rows(
    members: TarMembers, selection: Selection, read_head: Callable[[int], bytes], *, is_cut: bool
) -> TarRows:
    """`read_head` gives the first bytes of a member; `is_cut`: of the last sample, members may be missing."""
    names = members.extensions_as_written
    extensions = np.array(members.extensions, np.int64)[members.order]
    samples = np.array(members.samples, np.int64)[members.order]
    image = np.array([is_image(name) for name in names], bool)[extensions]
    wanted = image
    if selection.image_key is not None:
        wanted = image & np.array([_is_named(name, selection.image_key) for name in names], bool)[extensions]
    rows, owners = members.order[wanted], samples[wanted]
    if selection.images == "first" or selection.image_key is not None:
        owners, first = np.unique(owners, return_index=True)
        rows = rows[first]
    with_image = np.zeros(len(members.keys), bool)
    with_image[samples[image]] = True
    left_out: Counter[str] = Counter({FURTHER_IMAGES: int(image.sum()) - len(rows)})
    kinds = members.left_out.copy()
    last = int(members.samples[-1]) if is_cut and len(members.samples) else -1
    lost = []
    for sample in np.flatnonzero(~with_image).tolist():
        if _is_sample(members.of(sample), read_head, may_lack=sample == last):
            lost.append(sample)
        else:
            kinds.update(kind_of(members.name(row)) for row in members.of(sample).values() if row not in members.linked)
    without = np.union1d(np.setdiff1d(np.flatnonzero(with_image), owners), np.array(lost, np.int64))
    owners, rows = np.concatenate([owners, without]), np.concatenate([rows, np.full(len(without), -1)])
    by_sample = np.argsort(owners, kind="stable")
    left_out.update(_by_kind(+kinds))
    return TarRows(owners[by_sample].astype(np.int32), rows[by_sample], +left_out)


def _is_named(extension: bytes, key: str) -> bool:
    name, key = extension.decode("utf-8", "backslashreplace").lower(), key.lower().lstrip(".")
    return key in (name, name.rpartition(".")[0])


def _is_sample(members: Mapping[str, int], read_head: Callable[[int], bytes], *, may_lack: bool) -> bool:
    if may_lack and members.keys() & {"json", "txt", "cls"}:
        return True
    return "json" in members and (members.keys() == {"json", "txt"} or bool(_FIELD.search(read_head(members["json"]))))


def _by_kind(kinds: Counter[str]) -> Counter[str]:
    most = dict(kinds.most_common(MAX_KINDS))
    counted = Counter({f"{NO_IMAGE} ({kind})": count for kind, count in most.items()})
    if len(kinds) > len(most):
        counted[f"{NO_IMAGE} (others)"] = kinds.total() - sum(most.values())
    return counted
