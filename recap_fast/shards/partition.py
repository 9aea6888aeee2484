"""Which part of a run's shards this process does: by option, or by the variables of torchrun and Slurm."""

import logging
import re
from collections.abc import Mapping

from recap_fast.errors import ConfigError
from recap_fast.ranks import integer, is_batch_script, srun_rank, torchrun_rank

logger = logging.getLogger(__name__)

_ID, _COUNT = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"


def resolve_part(part: str | None, index: int | None, num: int | None, environ: Mapping[str, str]) -> tuple[int, int]:
    """This process's part, counted from 0, and the number of parts. Part `index` is every `num`-th shard from there.

    `part` is such as '3/8'. Without it, `index` and `num` decide, or else what started this process: each torchrun
    process or task of a Slurm step is a part, and in a Slurm array each one of every array task. The default is (0, 1).
    Raises ConfigError for a part that does not exist, for `index` without `num`, for an array with gaps, and for
    variables of which some are missing.
    """
    if part is not None:
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", part)
        if index is not None or num is not None:
            raise ConfigError("--part and --shard-index: give --part alone.")
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--part {part}: give a part and the number of parts, such as 3/8; the first is 1/8.")
        return int(match[1]) - 1, int(match[2])
    if index is not None or num is not None:
        if index is None or num is None:
            raise ConfigError("--shard-index and --num-shards go together: give both or neither.")
        if not 0 <= index < num:
            raise ConfigError(f"--shard-index {index} --num-shards {num}: the index counts from 0 to num-shards - 1.")
        return index, num
    array_index, array_num = _array_task(environ)
    rank_index, rank_num = _rank(environ)
    return array_index * rank_num + rank_index, array_num * rank_num


def _rank(environ: Mapping[str, str]) -> tuple[int, int]:
    """This process's place within its job: torchrun's, else srun's, else (0, 1)."""
    rank = torchrun_rank(environ)
    if rank is not None:
        tasks = srun_rank(environ)
        if tasks is not None and tasks.num > 1 and environ.get("GROUP_WORLD_SIZE") == "1":
            logger.warning(
                "srun started %d torchruns, and each is alone, so all of them caption the same; write srun recap-fast "
                "without torchrun, with a task for each GPU",
                tasks.num,
            )
        return rank.index, rank.num
    if is_batch_script(environ) and (num := integer(environ, "SLURM_NTASKS", 1)) > 1:
        logger.warning(
            "SLURM_NTASKS is %d, but this process was not started by srun, so it captions all that this job does; "
            "write srun recap-fast to start %d processes, a part each",
            num,
            num,
        )
    rank = srun_rank(environ)
    return (0, 1) if rank is None else (rank.index, rank.num)


def _array_task(environ: Mapping[str, str]) -> tuple[int, int]:
    """A SLURM array counts from SLURM_ARRAY_TASK_MIN in steps of SLURM_ARRAY_TASK_STEP. Without one: (0, 1)."""
    if _ID not in environ and _COUNT not in environ:
        return 0, 1
    if _ID not in environ or _COUNT not in environ:
        there, missing = (_ID, _COUNT) if _ID in environ else (_COUNT, _ID)
        raise ConfigError(f"{there} is set and {missing} is not: give --part.")
    count = integer(environ, _COUNT)
    first = integer(environ, "SLURM_ARRAY_TASK_MIN", 0)
    step = max(1, integer(environ, "SLURM_ARRAY_TASK_STEP", 1))
    last = integer(environ, "SLURM_ARRAY_TASK_MAX", first + step * (count - 1))
    index, rest = divmod(integer(environ, _ID) - first, step)
    if rest or not 0 <= index < count or last != first + step * (count - 1):
        raise ConfigError(
            f"{_ID}={environ[_ID]} does not fit an array without gaps: {_COUNT}={count} tasks from {first} to {last} "
            f"in steps of {step}. Give --part."
        )
    if count == 1 and first > 1:
        logger.warning(
            "this SLURM array has one task, number %d, so it captions all shards; to redo one task of a larger array, "
            "give --part, such as --part 4/8 for the fourth of 8",
            first,
        )
    return index, count
