import pytest

from recap_fast.errors import ConfigError
from recap_fast.ranks import Rank, local_count, local_index, srun_rank, torchrun_rank

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "a"}
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"RANK": "", "WORLD_SIZE": ""}, None),
        ({"MASTER_ADDR": "localhost", "LOCAL_WORLD_SIZE": "8"}, None),
        (TORCHRUN, Rank(5, 16)),
        (without(TORCHRUN, "TORCHELASTIC_RUN_ID"), Rank(5, 16)),
        ({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"}, Rank(5, 16)),
    ],
)
def test_torchrun(environ, expected):
    assert torchrun_rank(environ) == expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (without(TORCHRUN, "LOCAL_RANK"), "RANK, WORLD_SIZE and TORCHELASTIC_RUN_ID are set and LOCAL_RANK is not"),
        ({"WORLD_SIZE": "1"}, "^WORLD_SIZE is set and RANK and LOCAL_RANK are not, so .* or give --part, such as"),
        ({"TORCHELASTIC_RUN_ID": "a"}, "TORCHELASTIC_RUN_ID is set and RANK, WORLD_SIZE and LOCAL_RANK are not"),
        ({**TORCHRUN, "RANK": "x"}, "RANK='x' is not a number: give --part"),
        ({**TORCHRUN, "RANK": "16"}, "RANK=16 and WORLD_SIZE=16: RANK counts from 0 to WORLD_SIZE - 1. Give --part"),
    ],
)
def test_variables_that_are_not_torchruns(environ, message):
    with pytest.raises(ConfigError, match=message):
        torchrun_rank(environ)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "8"}, Rank(3, 8)),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "32"}, Rank(3, 8)),  # srun --preserve-env
        ({**STEP, "SLURM_NTASKS": "8"}, Rank(3, 8)),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, Rank(1, 2)),
        ({"SLURM_NTASKS": "2"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # the batch script
    ],
)
def test_srun(environ, expected):
    assert srun_rank(environ) == expected


def test_a_task_beyond_the_number_of_tasks_is_refused():
    """Old versions of Slurm count the tasks of one group of a heterogeneous job, and number those of all groups."""
    with pytest.raises(ConfigError, match="SLURM_PROCID=3 and SLURM_STEP_NUM_TASKS=2"):
        srun_rank({**STEP, "SLURM_STEP_NUM_TASKS": "2"})


@pytest.mark.parametrize(
    ("environ", "index", "count"),
    [
        ({}, ("SLURM_LOCALID", 0), 1),
        (STEP, ("SLURM_LOCALID", 1), 1),
        (TORCHRUN, ("LOCAL_RANK", 1), 4),
        ({**STEP, **TORCHRUN, "LOCAL_RANK": "3"}, ("LOCAL_RANK", 3), 4),
        (without(TORCHRUN, "RANK"), ("SLURM_LOCALID", 0), 1),  # refused where a part is looked for, not where --part is
    ],
)
def test_the_place_on_the_machine(environ, index, count):
    assert (local_index(environ), local_count(environ)) == (index, count)
