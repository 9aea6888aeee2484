"""Which one of the processes this is that torchrun or srun have started, by the variables that they set."""

from collections.abc import Mapping
from dataclasses import dataclass

from recap_fast.errors import ConfigError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True, slots=True)
class Rank:
    """A process among those that were started together, on all machines."""

    index: int
    """Counted from 0."""
    num: int


def torchrun_rank(environ: Mapping[str, str]) -> Rank | None:
    """None where torchrun has not started this process. Raises ConfigError if a part of its variables is missing."""
    there = [name for name in (*_TORCHRUN, "TORCHELASTIC_RUN_ID") if environ.get(name)]
    if not there:
        return None
    if missing := [name for name in _TORCHRUN if name not in there]:
        raise ConfigError(
            f"{_listed(there)} set and {_listed(missing)} not, so this may be one of several processes or not: start "
            "it with torchrun, or give --part, such as --part 1/1 for all shards."
        )
    return _rank(environ, "RANK", "WORLD_SIZE")


def srun_rank(environ: Mapping[str, str]) -> Rank | None:
    """The task of a Slurm step; None where srun has not started this process.

    A batch script has the variables of a first task without being one: SLURM_NTASKS is what the job may start.
    """
    if environ.get("SLURM_STEP_NUM_TASKS"):
        return _rank(environ, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    if is_batch_script(environ) or not (environ.get("SLURM_PROCID") and environ.get("SLURM_NTASKS")):
        return None
    return _rank(environ, "SLURM_PROCID", "SLURM_NTASKS")


def is_batch_script(environ: Mapping[str, str]) -> bool:
    """Whether this process belongs to a Slurm job and to no step of it."""
    return bool(environ.get("SLURM_JOB_ID")) and not environ.get("SLURM_STEP_ID")


def local_index(environ: Mapping[str, str]) -> tuple[str, int]:
    """The position among the processes of this machine, from 0, and the variable that says so."""
    name = "LOCAL_RANK" if _is_torchrun(environ) else "SLURM_LOCALID"
    return name, integer(environ, name, 0)


def local_count(environ: Mapping[str, str]) -> int:
    """How many processes share what this one sees of the machine. Slurm gives each task processors of its own."""
    return max(1, integer(environ, "LOCAL_WORLD_SIZE", 1)) if _is_torchrun(environ) else 1


def integer(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    """The value of a variable. Raises ConfigError where it is no number, or is missing without a default."""
    text = environ.get(name)
    if not text and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not a number: give --part.") from None


def _is_torchrun(environ: Mapping[str, str]) -> bool:
    return all(environ.get(name) for name in _TORCHRUN)


def _rank(environ: Mapping[str, str], index_name: str, num_name: str) -> Rank:
    index, num = integer(environ, index_name), integer(environ, num_name)
    if not 0 <= index < num:
        raise ConfigError(
            f"{index_name}={index} and {num_name}={num}: {index_name} counts from 0 to {num_name} - 1. Give --part."
        )
    return Rank(index, num)


def _listed(names: list[str]) -> str:
    """The names as the subject of a sentence."""
    *first, last = names
    return f"{', '.join(first)} and {last} are" if first else f"{last} is"
