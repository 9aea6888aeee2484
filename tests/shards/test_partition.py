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
