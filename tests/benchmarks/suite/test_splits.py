"""The stage that times kernels on a card alone, here on Triton's interpreter with nothing timed."""

import contextlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import pytest
import torch
from support import triton_interpreter

from recap_fast.generate.ops import Prompts
from suite.setting import Setting

pytest.importorskip("triton", reason="Triton is not installed: it exists for Linux only")


class Probe:
    """Has a card that is a CPU."""

    is_gpu, device = True, torch.device("cpu")

    def __init__(self, work):
        self.setting, self.rows = Setting(device="cpu", size="tiny", work=work), []

    def add(self, *row):
        self.rows.append(row)

    def trying(self, found, what):
        return contextlib.nullcontext()


def run(work):
    """In another process: what the stage has found, and its rows of the table."""
    from suite.stages import splits

    small = {"SLOTS": 3, "POSITIONS": 330, "CONTEXT": (290, 320), "PROMPTS": Prompts(2, 5, 70), "MIXED_ROWS": 5}
    torch.manual_seed(0)
    probe, found = Probe(work), {}
    with mock.patch.multiple(splits, **small, SPLITS=(256, 192), seconds_of=lambda call, device: 1.0):
        splits.splits(probe, found)
    return found, probe.rows


def test_all_configurations_give_what_plain_torch_does(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=triton_interpreter.interpret) as process:
        found, rows = process.submit(run, tmp_path).result()
    assert [len(tried) for tried in found.values()] == [8, 5, 8, 5, 3]
    assert all("wrong" not in what for what, _ in rows)
    assert len(rows) == 5
