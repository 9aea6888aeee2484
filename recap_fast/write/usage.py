"""What devices did for an output and how long they were held, added up in its run file by each process that ends."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from recap_fast.errors import RecapError
from recap_fast.write.output_folder import RUN_FILE, OutputFolder
from recap_fast.write.run_file import Usage, update_run_file
from recap_fast.write.workers import Work

logger = logging.getLogger(__name__)


def usage_of(work: Work) -> Mapping[str, Usage]:
    """What one process has used, as far as its work says; nothing before its device is known."""
    if not work.device:
        return {}
    return {work.device: Usage(1, work.captioned, round(work.held_s, 1), work.is_gpu)}


def add_usage(one: Mapping[str, Usage], other: Mapping[str, Usage]) -> Mapping[str, Usage]:
    """Both together."""
    added = dict(one)
    for device, usage in other.items():
        added[device] = added[device] + usage if device in added else usage
    return added


def record_usage(output: OutputFolder, usage: Mapping[str, Usage]) -> None:
    """Adds to what the run file says, if it is there. Where that fails, a warning says so: no caption needs it."""
    try:
        if not usage or output.store.stat(RUN_FILE) is None:
            return
        update_run_file(output, lambda run: replace(run, usage=add_usage(run.usage, usage)))
    except (RecapError, OSError) as error:
        logger.warning("the time that this process held its device is not recorded: %s", error)


@dataclass(frozen=True, slots=True)
class Rate:
    """Images for each hour that devices of one kind were held."""

    images_per_hour: float
    unit: str
    """'GPU-hour', or 'hour' of a process on a CPU."""

    def __str__(self) -> str:
        return f"{self.images_per_hour:,.0f} images per {self.unit}"


def rates(usage: Mapping[str, Usage]) -> list[Rate]:
    """The rate of GPUs, and that of CPUs, where there are any that have done something."""
    found = []
    for is_gpu, unit in ((True, "GPU-hour"), (False, "hour")):
        mine = [each for each in usage.values() if each.is_gpu == is_gpu]
        images, seconds = sum(each.images for each in mine), sum(each.seconds for each in mine)
        if images and seconds:
            found.append(Rate(images / seconds * 3600, unit))
    return found
