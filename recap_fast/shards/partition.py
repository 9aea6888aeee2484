"""Which part of a run's shards this process does: by option, or by the variables of a SLURM array."""

import logging
import re
from collections.abc import Mapping

from recap_fast.errors import ConfigError

logger = logging.getLogger(__name__)

_ID, _COUNT = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"


def resolve_part(part: str | None, index: int | None, num: int | None, environ: Mapping[str, str]) -> tuple[int, int]:
    """This process's part, counted from 0, and the number of parts. Part `index` is every `num`-th shard from there.

    `part` is such as '3/8'. Without it, `index` and `num` decide, or the SLURM array task; the default is (0, 1).
    Raises ConfigError for a part that does not exist, for `index` without `num`, and for an array with gaps.
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
    if (_ID in environ) != (_COUNT in environ):
        there, missing = (_ID, _COUNT) if _ID in environ else (_COUNT, _ID)
        raise ConfigError(f"{there} is set and {missing} is not: give --part.")
    return _slurm_part(environ) if _ID in environ else (0, 1)


def _slurm_part(environ: Mapping[str, str]) -> tuple[int, int]:
    """A SLURM array counts from SLURM_ARRAY_TASK_MIN in steps of SLURM_ARRAY_TASK_STEP."""
    count = _integer(environ, _COUNT)
    first = _integer(environ, "SLURM_ARRAY_TASK_MIN", 0)
    step = max(1, _integer(environ, "SLURM_ARRAY_TASK_STEP", 1))
    last = _integer(environ, "SLURM_ARRAY_TASK_MAX", first + step * (count - 1))
    index, rest = divmod(_integer(environ, _ID) - first, step)
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


def _integer(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not a number: give --part.") from None
