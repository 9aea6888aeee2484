"""The kind `txt`: a text file for each caption, as trainers of diffusion models read them.

kohya's sd-scripts and ai-toolkit look for NAME.txt (or another extension) in the folder of NAME.jpg, in UTF-8. The
first takes the first line alone and refuses an empty file. So a caption is one line here, and there is no empty file.

The texts of a folder's images lie in the target as the images in the folder, so the folder itself may be the target. Of
a tar or a Parquet file they are SHARD/KEY.txt.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from recap_fast.addresses import is_remote
from recap_fast.errors import ConfigError, RecapError
from recap_fast.export.choice import Chosen
from recap_fast.export.job import Job
from recap_fast.export.target import Draft
from recap_fast.joined import JoinedOutput
from recap_fast.records import Shard
from recap_fast.text import counted
from recap_fast.write.names import folded, safe_name, some, unused

SHARED_STEMS = "shared stems"
"""The count of images whose name without suffix is that of another image, too."""


def export(job: Job) -> None:
    """Writes the text files. Raises RecapError where one is not as long as it was written."""
    job.each_shard(partial(_write, job))
    result = job.result
    if job.config.verify and result.shards:
        result.verified = "every caption has its file, with all of its bytes"
    if shared := result.counts[SHARED_STEMS]:
        result.advice.append(
            f"{counted(shared, 'image')} with the name of another image, but another suffix, as a.png beside a.jpg: "
            f"the text of a.png is a.png{job.config.extension}. If your trainer looks for a{job.config.extension}, "
            "rename the image, or it gets the other caption."
        )


def image_folder(joined: JoinedOutput) -> Path:
    """The folder of the images. Raises ConfigError if the inputs are not images in one local folder."""
    roots = {_root(shard) for shard in joined.shards if shard.kind != "folder" or any(shard.files)}
    (root, *others) = roots or {None}
    if root is None or others or is_remote(root):
        raise ConfigError(
            "--beside: the inputs are not images in one folder of this machine. Give --target DIR instead."
        )
    return Path(root)


def one_line(caption: str) -> str:
    """The caption without line breaks."""
    return " ".join(line.strip() for line in caption.splitlines() if line.strip())


def _root(shard: Shard) -> str | None:
    """The folder that the names of a shard's images are relative to."""
    for file in filter(None, shard.files):
        address = f"{shard.url}/{file.path}"
        if address.endswith(f"/{file.file_name}"):
            return address.removesuffix(f"/{file.file_name}")
    return None


def _write(job: Job, shard: Shard, draft: Draft) -> None:
    name_of = _of_image(shard, draft) if shard.kind == "folder" else _of_sample(shard)
    sizes: dict[str, int] = {}
    for chosen in job.rows(shard, draft):
        text = one_line(chosen.caption or "").encode()
        if chosen.skipped is None and text:
            name = f"{name_of(chosen)}{job.config.extension}"
            sizes[name] = draft.file(name).write_bytes(text)
    if job.config.verify and (wrong := [name for name, size in sizes.items() if draft.size(name) != size]):
        raise RecapError(f"{job.target.folder}: {some(wrong)} is not as it was written: is the disk full?")


def _of_image(shard: Shard, draft: Draft) -> Callable[[Chosen], str]:
    """Names the text of an image of a folder; an image that shares its stem with an earlier one keeps its suffix."""

    def name(chosen: Chosen) -> str:
        index: int = chosen.row["index"]
        file = shard.files[index]
        if file is None:
            raise RecapError(f"{chosen.row['key']} is no image of {shard.name} any more: run again, then export again.")
        if file.key == (stem := file.file_name.rpartition(".")[0]):
            return stem
        draft.counts[SHARED_STEMS] += 1
        return file.file_name

    return name


def _of_sample(shard: Shard) -> Callable[[Chosen], str]:
    used: set[str] = set()

    def name(chosen: Chosen) -> str:
        found = unused(safe_name(chosen.row["key"]), used, folded)
        used.add(folded(found))
        return f"{shard.name}/{found}"

    return name
