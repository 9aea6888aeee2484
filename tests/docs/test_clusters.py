"""The templates of docs/clusters: Slurm's run with stubs of Slurm's commands, the others are read."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import runs
from support.guard import GUARD_S, wait_until, wait_until_idle
from support.manual import ROOT, command_options

CLUSTERS = ROOT / "docs" / "clusters"
SCRIPTS = sorted(CLUSTERS.glob("*.sbatch"))
SRUN = """
echo "srun $*" >> calls
trap 'kill -USR1 "${tasks[@]}"' USR1
trap 'kill -KILL "${tasks[@]}"' TERM
echo $$ > srun-process
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < ${TASKS:-1}; task++)); do
    SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=$TASKS SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do
    while kill -0 "$task" 2> /dev/null; do wait "$task"; done
    wait "$task"
    ended=$?
    if ((ended > code)); then code=$ended; fi
done
exit $code
"""
"""As srun does: it hands USR1 on, makes a KILL of a TERM, and ends with the highest code."""
UNTIL_A_SIGNAL = """
echo "recap-fast $*" >> calls
trap 'exit 75' USR1
touch "started-$SLURM_PROCID"
while :; do sleep 0.02; done
"""
LOG = 'echo "$(basename "$0") $*" >> calls\n'


@pytest.fixture
def job(tmp_path):
    """Starts a script in `tmp_path` as Slurm does, with these commands instead of the real ones."""

    def start(script: Path, commands: dict[str, str], *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, body in {"srun": SRUN, "scontrol": LOG, "ray": LOG, **commands}.items():
            (folder / name).write_text(f"#!/bin/bash\n{body}")
            (folder / name).chmod(0o755)
        slurm = {
            "JOB_ID": "7",
            "PROCID": "0",
            "LOCALID": "0",
            "NTASKS": "1",
            "CPUS_PER_TASK": "1",
            "JOB_NUM_NODES": "1",
        }
        environ = {**os.environ, **{f"SLURM_{name}": value for name, value in slurm.items()}, **variables}
        environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(
                ["bash", str(script), *arguments], cwd=tmp_path, env=environ, stdout=log, stderr=log
            )

    return start


def array(task: int, count: int) -> dict[str, str]:
    names = {"TASK_ID": task, "TASK_COUNT": count, "TASK_MIN": 0, "TASK_MAX": count - 1, "JOB_ID": 5}
    return {f"SLURM_ARRAY_{name}": str(value) for name, value in names.items()}


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_that_bash_and_slurm_read(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = script.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert [number for number, line in enumerate(lines) if line.startswith("#SBATCH --")][-1] < first, (
        "the rest is lost"
    )
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append"} <= {*lines}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_the_array_finishes_its_captions_and_is_put_back_into_the_queue(number, job, tmp_path):
    """At the end of its time the script gets USR1; where Slurm preempts it, its tasks get a TERM of their own."""
    script = job(CLUSTERS / "array.sbatch", {"recap-fast": UNTIL_A_SIGNAL}, "--engine", "e", TASKS="2", **array(3, 4))
    wait_until(lambda: all((tmp_path / f"started-{task}").exists() for task in range(2)))
    srun = int((tmp_path / "srun-process").read_text())
    for process in (srun, script.pid):  # each knows whom it has started, and waits for it
        wait_until_idle(process)
    script.send_signal(number)
    if number == signal.SIGTERM:  # stands for what Slurm does
        os.kill(srun, signal.SIGUSR1)
    assert script.wait(GUARD_S) == 75
    assert calls(tmp_path)[-1] == "scontrol requeue 5_3"
    assert calls(tmp_path).count("recap-fast run --drain-seconds 60 --engine e") == 2


def test_the_array_that_fails_or_is_done_is_not_put_back(job, tmp_path):
    for code in (1, 0):
        script = job(CLUSTERS / "array.sbatch", {"recap-fast": f"exit {code}"}, **array(0, 1))
        assert script.wait(GUARD_S) == code
    assert not any(call.startswith("scontrol") for call in calls(tmp_path))


@pytest.mark.parametrize(("num", "others"), [(1, []), (4, ["--nodes=3"])])
def test_a_job_of_ray_starts_it_on_all_machines_and_is_put_back_into_the_queue(num, others, job, tmp_path):
    variables = {"SLURM_JOB_NUM_NODES": str(num), "SLURMD_NODENAME": "node-1"}
    script = job(CLUSTERS / "ray.sbatch", {"recap-fast": UNTIL_A_SIGNAL}, "--engine", "e", **variables)
    wait_until((tmp_path / "started-0").exists)
    wait_until(lambda: num == 1 or any("--block" in call and call.startswith("ray ") for call in calls(tmp_path)))
    wait_until_idle(script.pid)
    script.send_signal(signal.SIGUSR1)
    assert script.wait(GUARD_S) == 75
    said = calls(tmp_path)
    (command,) = (call for call in said if call.startswith("recap-fast"))
    address = re.fullmatch(r"recap-fast run --ray (\S+:20007) --drain-seconds 60 --engine e", command)[1]
    assert said[-2:] == ["scontrol requeue 7", "ray stop"]
    assert said[0] == f"ray start --head --node-ip-address={address[:-6]} --port=20007 --num-cpus=1"
    assert [call.split()[1] for call in said if call.startswith("srun ")] == others
    assert sum(f"ray start --address={address} --num-cpus=1 --block" == call for call in said) == len(others)


@pytest.mark.slow
def test_the_tasks_of_the_array_share_all_shards(job, tiny_engine, tmp_path):
    shards = runs.write_pictures(tmp_path / "in", 8, 1)
    command = f'exec {sys.executable} -m recap_fast "$@"'
    arguments = ("--engine", str(tiny_engine), "--shards", f"{shards}/*.tar", "--output", "out", "--dry-run")
    for task in range(2):
        script = job(CLUSTERS / "array.sbatch", {"recap-fast": command}, *arguments, TASKS="2", **array(task, 2))
        assert script.wait(GUARD_S) == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert sorted(re.findall(r"part     (\d) of 4", said)) == ["1", "2", "3", "4"]
    assert sorted(re.findall(r"(\d{5})\.tar ->", said)) == [f"{number:05}" for number in range(8)]


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.yaml")), ids=lambda path: path.name)
def test_a_manifest_is_yaml_and_its_commands_exist(path):
    text = path.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    commands = re.findall(r"recap-fast (run) ((?:.|\n )+)", text)
    assert commands
    for name, rest in commands:
        options = {*re.findall(r"(?<!\S)--[a-z-]+", rest)}
        assert {"--engine", "--shards", "--output"} <= options <= command_options(name)
