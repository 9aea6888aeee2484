import pickle
from pathlib import Path

import pytest
from support.launches import make_config

from recap_fast.launch.cluster.task import Task
from recap_fast.launch.plan import plan


@pytest.mark.parametrize(
    ("on_gpus", "cpus", "given", "threads"),
    [(False, 1, None, 1), (False, 8, None, 4), (True, 1, None, 2), (True, 8, None, 8), (True, 8, 37, 37)],
)
def test_a_worker_has_threads_for_its_processors_and_absolute_paths(
    tiny_engine, small_inputs, monkeypatch, on_gpus, cpus, given, threads
):
    monkeypatch.chdir(tiny_engine.parent)
    changed = {"decode_threads": given} if given else {"decode_threads": default()}
    config = make_config(tiny_engine, small_inputs, ray="local", ray_worker_cpus=cpus, **changed)
    ledger = plan(config).ledger
    task = Task.of(config, ledger, decoder="pillow", on_gpus=on_gpus)
    assert task.config.decode_threads == threads
    assert task.config.options.device == ("cuda" if on_gpus else "cpu")
    assert task.config.decoder == "pillow"
    assert Path(task.config.engine).is_absolute()
    assert Path(task.config.output).is_absolute()


def default():
    from recap_fast.cpus import default_decode_threads

    return default_decode_threads()


def test_lists_of_inputs_do_not_cross(tiny_engine, small_inputs):
    config = make_config(tiny_engine, small_inputs, ray="local")
    with_lists = plan(config).ledger.open()
    task = Task.of(config, with_lists, decoder="pillow", on_gpus=False)
    assert (task.ledger.shards, task.ledger.wanted.inputs.sources) == ((), ())
    assert task.ledger.wanted.inputs.root == with_lists.wanted.inputs.root
    again = pickle.loads(pickle.dumps(task))
    assert again.fingerprint == with_lists.wanted.fingerprint
    assert [each.shard for each in again.ledger.pending(with_lists.shards)] == list(with_lists.shards)
