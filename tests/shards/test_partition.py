import pytest

from recap_fast.errors import ConfigError
from recap_fast.shards.partition import resolve_part


def slurm(task, count, first=None, last=None, step=None):
    names = ("ID", "COUNT", "MIN", "MAX", "STEP")
    values = zip(names, (task, count, first, last, step), strict=True)
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values if value is not None}


@pytest.mark.parametrize(
    ("index", "num", "environ", "expected"),
    [
        (None, None, {}, (0, 1)),
        (2, 4, {}, (2, 4)),
        (2, 4, slurm(0, 8), (2, 4)),
        (None, None, slurm(3, 8), (3, 8)),
        (None, None, slurm(3, 3, 1, 3), (2, 3)),
        (None, None, slurm(20, 4, 0, 30, 10), (2, 4)),
    ],
)
def test_resolve_part(index, num, environ, expected):
    assert resolve_part(None, index, num, environ) == expected


@pytest.mark.parametrize(
    ("index", "num", "environ", "message"),
    [
        (1, None, {}, "go together"),
        (None, 4, {}, "go together"),
        (4, 4, {}, "counts from 0 to num-shards - 1"),
        (-1, 4, {}, "counts from 0"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT is not"),
        (None, None, {"SLURM_ARRAY_TASK_COUNT": "1"}, "SLURM_ARRAY_TASK_ID is not"),
        (None, None, slurm("x", 4), "SLURM_ARRAY_TASK_ID='x' is not a number"),
        (None, None, slurm(8, 8), "array without gaps"),
        (None, None, slurm(0, 2, 0, 2, 1), "array without gaps"),  # --array=0,2: task 0 must not do half of it
        (None, None, slurm(5, 4, 0, 30, 10), "array without gaps"),
    ],
)
def test_parts_that_make_no_sense_are_refused(index, num, environ, message):
    with pytest.raises(ConfigError, match=message):
        resolve_part(None, index, num, environ)


@pytest.mark.parametrize(("part", "expected"), [("1/1", (0, 1)), ("3/8", (2, 8)), ("8/8", (7, 8))])
def test_a_part_counts_from_1_and_goes_before_the_array(part, expected):
    assert resolve_part(part, None, None, slurm(0, 4)) == expected


@pytest.mark.parametrize("part", ["", "3", "0/8", "9/8", "-1/8", "3/8/2", "a/b", "1/0", "3 of 8"])
def test_what_is_no_part_is_refused(part):
    with pytest.raises(ConfigError, match=r"--part .*: give a part and the number of parts, such as 3/8"):
        resolve_part(part, None, None, {})


def test_a_part_and_an_index_are_refused():
    with pytest.raises(ConfigError, match="give --part alone"):
        resolve_part("1/2", 0, 2, {})


@pytest.mark.parametrize(("task", "warns"), [(0, False), (1, False), (3, True)])
def test_an_array_of_one_task_late_in_the_count_is_told_that_it_does_all(caplog, task, warns):
    assert resolve_part(None, None, None, slurm(task, 1, task, task, 1)) == (0, 1)
    assert ("so it captions all shards" in caplog.text) == warns


def torchrun(rank, world, nodes=1, **more):
    names = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank % (world // nodes), "GROUP_WORLD_SIZE": nodes}
    return {**{name: str(value) for name, value in names.items()}, "TORCHELASTIC_RUN_ID": "a", **more}


def srun(task, tasks, **more):
    names = {"JOB_ID": 7, "STEP_ID": 0, "PROCID": task, "NTASKS": tasks, "STEP_NUM_TASKS": tasks}
    return {**{f"SLURM_{name}": str(value) for name, value in names.items()}, **more}


def batch(tasks):
    """Of the script that sbatch runs: it has the place of a first task."""
    return {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": str(tasks)}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (torchrun(0, 1), (0, 1)),
        (torchrun(3, 8), (3, 8)),
        (torchrun(9, 16, nodes=2), (9, 16)),
        (torchrun(3, 8, TORCHELASTIC_RESTART_COUNT="2"), (3, 8)),
        (srun(0, 1), (0, 1)),
        (srun(5, 8), (5, 8)),
        (srun(5, 8, SLURM_NTASKS="32"), (5, 8)),
        (srun(5, 8, SLURM_JOB_NUM_NODES="2", SLURM_HET_SIZE="2"), (5, 8)),
        (batch(1), (0, 1)),
        (slurm(1, 4) | srun(0, 1), (1, 4)),
        (slurm(1, 4) | srun(3, 8), (11, 32)),
        (slurm(20, 4, 0, 30, 10) | srun(1, 2), (5, 8)),
        (slurm(1, 4) | batch(1), (1, 4)),
        (slurm(1, 4) | torchrun(3, 8), (11, 32)),
        (slurm(1, 4) | batch(8) | torchrun(3, 8), (11, 32)),
        (srun(1, 2) | torchrun(9, 16, nodes=2), (9, 16)),
        (slurm(1, 4) | srun(1, 2) | torchrun(9, 16, nodes=2), (25, 64)),
    ],
)
def test_processes_of_torchrun_and_srun_are_parts(environ, expected, caplog):
    assert resolve_part(None, None, None, environ) == expected
    assert resolve_part("2/3", None, None, environ) == (1, 3)
    assert resolve_part(None, 1, 3, environ) == (1, 3)
    assert not caplog.text


def test_the_processes_of_an_array_share_all_parts():
    environs = [slurm(task, 3) | srun(process, 4) for task in range(3) for process in range(4)]
    assert [resolve_part(None, None, None, each) for each in environs] == [(index, 12) for index in range(12)]


@pytest.mark.parametrize(
    ("environ", "expected", "warning"),
    [
        (batch(8), (0, 1), "SLURM_NTASKS is 8, but this process was not started by srun, so it captions all that"),
        (slurm(1, 4) | batch(8), (1, 4), "write srun recap-fast to start 8 processes, a part each"),
        (srun(1, 2) | torchrun(3, 8), (3, 8), "srun started 2 torchruns, and each is alone"),
    ],
)
def test_processes_that_may_do_the_work_of_others_are_told(environ, expected, warning, caplog):
    assert resolve_part(None, None, None, environ) == expected
    assert warning in caplog.text


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"WORLD_SIZE": "8"}, "WORLD_SIZE is set and RANK and LOCAL_RANK are not"),
        (srun(8, 8), "SLURM_PROCID=8 and SLURM_STEP_NUM_TASKS=8: .* Give --part"),
        (srun(1, 8, SLURM_PROCID=""), "SLURM_PROCID='' is not a number: give --part"),
    ],
)
def test_variables_that_make_no_sense_are_refused_unless_a_part_is_given(environ, message):
    with pytest.raises(ConfigError, match=message):
        resolve_part(None, None, None, environ)
    assert resolve_part("1/1", None, None, environ) == (0, 1)
