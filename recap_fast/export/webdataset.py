"""`--to webdataset`: the tars again with the captions in them; folders and tables become tars.

Of a tar every member is copied byte for byte, in its order, but for the json or the txt that gets the caption. Packed
samples are as img2dataset writes them: an image, a txt and a json by one key, which is a number.
"""

import os
import posixpath
import shlex
from collections.abc import Sequence
from contextlib import closing
from functools import partial

from recap_fast.addresses import is_remote
from recap_fast.export.job import CAPTIONS, SAMPLES, Job
from recap_fast.export.tar_copy import TarCopy
from recap_fast.export.tar_edits import ADDED, REMOVED, SHARED, WRITTEN, TarEdits
from recap_fast.export.tar_pack import NEW_CHECKED, pack
from recap_fast.export.target import Draft
from recap_fast.records import Shard
from recap_fast.shards.identity import identity
from recap_fast.shards.reader import naming, open_tar
from recap_fast.shards.tar.layout import TarLayout

AHEAD_BYTES, REQUEST_BYTES = 1 << 30, 4 << 20
"""Bytes of a tar that the system reads ahead while its headers are looked for, and bytes of each request: the system
cuts larger ones to what the disk takes at once."""
MAX_NAMES = 20
COPIED, COPIED_CHECKED = "members copied", "copied members checked"


def export(job: Job) -> None:
    """Writes a tar for each shard, and says what to train with."""
    job.each_shard(partial(_write, job))
    job.result.verified = _verified(job)
    if job.result.counts[SAMPLES]:
        job.result.advice += _advice(job)


def _write(job: Job, shard: Shard, draft: Draft) -> None:
    with naming(shard):
        (copy_tar if shard.kind == "tar" else pack)(job, shard, draft)


def copy_tar(job: Job, shard: Shard, draft: Draft) -> None:
    """Writes the tar of one shard anew. Raises ShardError where it is damaged or not the one that was captioned."""
    path = draft.file(f"{shard.name}.tar")
    version = None if is_remote(shard.url) else identity(shard)
    file, spooled = open_tar(shard)
    with closing(file), path.open("w+b") as target:
        _read_ahead(file.fileno())
        layout = TarLayout(file, job.joined.selection)
        _check_version(job, shard, (spooled or version or identity(shard)).text)
        copy = TarCopy(layout.chunks, target.fileno(), layout.size_bytes, verify=job.config.verify)
        edits = TarEdits(layout, job.json_columns, draft.counts, in_txt=job.config.place == "txt")
        for edit in edits.of(job.rows(shard, draft, job.json_columns, base=job.choice.columns)):
            copy.replace(*edit)
        copy.finish()
        draft.counts[COPIED] += layout.num_members - draft.counts[WRITTEN] - draft.counts[REMOVED]
        if job.config.verify:
            draft.counts[COPIED_CHECKED] += draft.counts[COPIED]
            draft.counts[NEW_CHECKED] += draft.counts[WRITTEN] + draft.counts[ADDED]


def _read_ahead(file: int) -> None:
    """Has the system read a tar into memory, in order: the index alone would have it read here and there."""
    for at in range(0, min(AHEAD_BYTES, os.fstat(file).st_size), REQUEST_BYTES):
        os.posix_fadvise(file, at, REQUEST_BYTES, os.POSIX_FADV_WILLNEED)


def _check_version(job: Job, shard: Shard, version: str) -> None:
    """Compares all images with those that were captioned, if the file is not of the version that the rows name.

    Raises ShardError where it has others.
    """
    for batch in job.joined.rows(shard.name, ["input_version"]):
        if batch["input_version"].unique().to_pylist() != [version]:
            for _ in job.joined.pairs(shard, ["index"]):
                pass
            return


def _verified(job: Job) -> str | None:
    counts = job.result.counts
    copied, new = counts[COPIED_CHECKED], counts[NEW_CHECKED]
    unread = counts[COPIED] + counts[WRITTEN] + counts[ADDED] - copied - new
    left = f"; {unread:,} members were exported with --no-verify, and not read back" if unread else ""
    if not copied + new:
        return f"nothing{left}" if unread else None
    if not copied:
        return f"{new:,} members read back, and as they were written{left}"
    return (
        f"{copied + new:,} members read back: {copied:,} are byte for byte those of the inputs, headers and all; "
        f"{new:,} are as they were written{left}"
    )


def _advice(job: Job) -> list[str]:
    """How open_clip trains with the tars. `--json-text-key` and its probabilities are in its main branch (2026-06)."""
    names = sorted(shard.name for shard, _ in job.finished)
    data = shlex.quote(f"{job.target.folder.absolute()}/{pattern_of(names)}")
    command = (
        f"python -m open_clip_train.main --dataset-type webdataset --train-data {data} "
        f"--train-num-samples {job.result.counts[CAPTIONS] - job.result.counts[SHARED]}"
    )
    if job.config.place == "txt":
        return ["To train with open_clip (any version):", f"  {command}"]
    return [
        "To train with open_clip's main branch, with the original caption in 80 % of the draws:",
        f"  {command} --json-text-key 're_caption;org_caption' --json-text-key-probs 0.2 0.8",
        "open_clip up to 3.3.0 lacks these options. For it, export with --mix-p 0.8 --seed 1 to another --target: each "
        ".txt then has one caption.",
    ]


def pattern_of(names: Sequence[str]) -> str:
    """Tars of these names, sorted, in braces: numbers without gaps as a range, which open_clip expands."""
    if len(names) == 1:
        return f"{names[0]}.tar"
    above = posixpath.commonpath([posixpath.dirname(name) for name in names])
    folder = f"{above}/" if above else ""
    stems = [name.removeprefix(folder) for name in names]
    width = len(stems[0])
    numbers = [int(stem) for stem in stems if stem.isdigit() and stem.isascii() and len(stem) == width]
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(stems))):
        return f"{folder}{{{stems[0]}..{stems[-1]}}}.tar"
    shown = stems if len(stems) <= MAX_NAMES else [*stems[:2], "..."]
    return f"{folder}{{{','.join(shown)}}}.tar"
