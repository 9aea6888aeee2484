"""The suite's first part: its stages on a CPU, and what happens to the others where one fails, hangs or lies."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
import types

import pytest
import torch
from support.guard import GUARD_S

from recap_fast.generate.device import WITHOUT, disabled_kernels
from suite import build, command, probe
from suite.setting import RESUME, ROOT, Setting, largest
from suite.stages import captions, engine, products, splits

SCRIPT = """
import sys, time, types
from pathlib import Path
from suite import probe
from suite.setting import Setting

def first(probe, found): probe.add("first", "1")
def hangs(probe, found): time.sleep(10**6)
def last(probe, found): probe.add("last", "3")

sys.modules["suite.stages.fake"] = types.SimpleNamespace(first=first, hangs=hangs, last=last)
probe.STAGES = {"first": ("fake", 60.0), "hangs": ("fake", 2.0), "last": ("fake", 60.0)}
probe.run(Setting(device="cpu", size="tiny", work=Path(sys.argv[1])))
"""


@pytest.fixture
def setting(tmp_path):
    return Setting(device="cpu", size="tiny", work=tmp_path)


def stages(monkeypatch, **functions):
    """Replaces the stages by these."""
    monkeypatch.setitem(sys.modules, "suite.stages.fake", types.SimpleNamespace(**functions))
    monkeypatch.setattr(probe, "STAGES", dict.fromkeys(functions, ("fake", GUARD_S)))


def test_every_stage_runs_on_a_cpu(setting, monkeypatch):
    # the watchdog of a stage would end the process of all tests
    monkeypatch.setattr(probe, "STAGES", {name: (module, GUARD_S) for name, (module, _) in probe.STAGES.items()})
    monkeypatch.setattr(captions, "NUM_REQUESTS", 2)
    monkeypatch.setattr(captions, "NUM_SCENES", 2)
    monkeypatch.setattr(engine, "VARIANTS", (("bfloat16", "auto", "cuda-kernels"),))
    found = probe.run(setting)
    assert list(found.details) == list(probe.STAGES)
    assert [line.what for line in found.lines if line.met is False] == []
    assert not any("error" in details for details in found.details.values())
    assert found.details["engine"]["bfloat16, auto cache, without cuda-kernels"]["images_per_s"] > 0
    assert found.details["engine"]["bfloat16, auto cache, without cuda-kernels"]["kernels"]
    assert set(json.loads((setting.work / "expected.json").read_text())) == {
        "tokens, heads of 16",
        "tokens, heads of 128",
        "demo",
    }


def test_a_stage_that_fails_costs_no_other(setting, monkeypatch):
    def broken(probe, found):
        found["so far"] = 7
        raise ValueError("no such thing")

    stages(monkeypatch, broken=broken, fine=lambda probe, found: probe.add("fine", "1"))
    found = probe.run(setting)
    assert [(line.what, line.met) for line in found.lines] == [("broken", False), ("fine", None)]
    assert found.details["broken"]["so far"] == 7
    assert found.details["broken"]["error"] == "ValueError: no such thing"


def test_what_a_stage_found_before_an_error_is_kept(setting):
    part, found = probe.Probe(setting, setting.find("probe")), {}
    with part.trying(found, "fp8"):
        found["fp8"] = {"images_per_s": 83.0}
        raise RuntimeError("no profiler")
    assert found["fp8"]["images_per_s"] == 83.0
    assert found["fp8"]["error"] == "RuntimeError: no profiler"
    assert [(line.what, line.met) for line in part.findings.lines] == [("fp8", False)]


def test_the_suite_goes_on_behind_a_stage_that_hangs(tmp_path):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))
    run = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    codes = [subprocess.run(run, env={**os.environ, "PYTHONPATH": path}, check=False).returncode for _ in range(2)]
    assert codes == [RESUME, 0]
    content = json.loads((tmp_path / "probe.json").read_text())
    assert [line["what"] for line in content["lines"]] == ["first", "hangs: hung or broke the device", "last"]
    assert "in hangs" in content["details"]["hangs"]["stacks"], "where it hung is known"


def test_a_part_that_asks_for_it_is_started_again_as_long_as_it_comes_further(setting, monkeypatch):
    codes = [RESUME, RESUME, RESUME]
    started = []

    def run_process(part, given, limit_s, log):
        started.append(given["limit_s"])
        if len(started) < 3:
            (setting.work / "x.json").write_text(json.dumps({"lines": [], "details": {"stages": started}}))
        return codes[len(started) - 1]

    monkeypatch.setattr(command, "_run_process", run_process)
    found = command.run_part("x", {"work": str(setting.work)}, 60.0)
    assert (len(started), found["error"]) == (3, f"exit code {RESUME}")
    assert found["details"]["stages"] == [60.0, 60.0]


def test_no_stage_begins_when_the_time_is_nearly_over(setting, monkeypatch):
    stages(monkeypatch, never=lambda probe, found: pytest.fail("there was no time for it"))
    late = dataclasses.replace(setting, begun=time.time() - 100, limit_s=100 + probe.MARGIN_S / 2)
    assert [(line.what, line.figure) for line in probe.run(late).lines] == [("never", "no time left")]


def test_tokens_other_than_those_expected_are_found(setting, monkeypatch):
    monkeypatch.setattr(captions, "MODELS", {"heads of 16": {}})
    monkeypatch.setattr(captions, "NUM_REQUESTS", 2)
    monkeypatch.setattr(captions, "LOW", ())
    part = probe.Probe(setting, setting.find("tokens"))
    captions.tokens(part, {})
    assert [line.met for line in part.findings.lines] == [True, True]
    file = setting.work / "expected.json"
    content = json.loads(file.read_text())
    content["tokens, heads of 16"][1][-1] ^= 1
    file.rename(setting.work / "carried.json").write_text(json.dumps(content))
    carried = dataclasses.replace(setting, expected=str(setting.work / "carried.json"))
    part = probe.Probe(carried, setting.find("tokens"))
    captions.tokens(part, {})
    assert [(line.figure, line.met) for line in part.findings.lines] == [("50%", False), ("50%", False)]


def test_native_modules_built_elsewhere_are_tried_in_turn(tmp_path, setting, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_core.so").write_text(name)
    (tmp_path / "recap_fast").mkdir()
    target = tmp_path / "recap_fast" / "_core.so"
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "why_not", lambda: None if target.is_file() and target.read_text() == "two" else "no")
    monkeypatch.setattr(build, "build", lambda *_: pytest.fail("there is nothing to build"))
    given = dataclasses.replace(setting, native=(str(tmp_path / "one"), str(tmp_path / "two")))
    assert build.provide(given) == "from two"
    assert build.provide(given) == "there already"


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (None, "there"),
        ("ImportError: cannot import name '_cuda_ops' from 'recap_fast' (/x/recap_fast/__init__.py)", "none"),
        ("ImportError: /x/recap_fast/_cuda_ops.so: undefined symbol: cudaLaunchKernel", "do not load"),
    ],
)
def test_cuda_kernels_are_there_where_they_load(error, found, monkeypatch):
    monkeypatch.setattr(build, "_import", lambda code: error)
    assert build.cuda_kernels() == found


def test_a_stage_of_variants_goes_on_with_those_that_it_has_not_begun(setting, monkeypatch):
    monkeypatch.setattr(engine, "VARIANTS", tuple(("fp8", kind, "") for kind in ("fp8", "auto", "bfloat16")))
    stages(monkeypatch, engine=engine.engine, last=lambda part, found: part.add("last", "1"))
    begun = []

    def measure(part, row, name, precision, kv_precision):
        begun.append(kv_precision)
        part.add(name, "")
        if kv_precision == "auto":
            raise RuntimeError("an illegal memory access was encountered")

    def leave(part):
        monkeypatch.setattr(probe, "_leave_if_broken", lambda part: None)
        raise SystemExit(RESUME)

    monkeypatch.setattr(engine, "_measure", measure)
    monkeypatch.setattr(probe, "_leave_if_broken", leave)
    with pytest.raises(SystemExit):
        probe.run(setting)
    found = probe.run(setting)
    assert begun == ["fp8", "auto", "bfloat16"]
    assert found.details["engine"]["fp8, auto cache"]["error"].startswith("RuntimeError: an illegal")
    assert [line.what for line in found.lines if line.met is False] == [
        "fp8, auto cache",
        "engine: hung or broke the device",
    ]
    assert [line.what for line in found.lines][-1] == "last"


def test_every_variant_of_the_engine_leaves_out_what_the_environment_does(setting, monkeypatch):
    seen = []
    monkeypatch.setenv(WITHOUT, "cudnn-attention")
    monkeypatch.setattr(engine, "VARIANTS", (("fp8", "fp8", ""), ("fp8", "fp8", "cuda-kernels")))
    monkeypatch.setattr(engine, "_measure", lambda *_: seen.append(disabled_kernels()))
    engine.engine(probe.Probe(setting, setting.find("probe")), {})
    assert seen == [{"cudnn-attention"}, {"cudnn-attention", "cuda-kernels"}]


def test_a_kind_of_product_that_is_refused_costs_no_other_its_rate(setting, monkeypatch):
    def refused(*_):
        raise ValueError("only bf16 and fp16")

    class Refused:
        def product(self, *_):
            return refused

    part, found = probe.Probe(dataclasses.replace(setting, device="cuda"), setting.find("probe")), {}
    part.__dict__["device"] = torch.device("cpu")
    monkeypatch.setattr(products, "KINDS", dict.fromkeys(products.KINDS, Refused()))
    monkeypatch.setattr(products, "SWEEP", (17,))
    monkeypatch.setattr(products, "seconds_of", lambda run, *_, **__: run() is not None or 1e-3)
    products.gemm(part, found)
    assert found["square"]["row32"] is None
    assert found["square"]["bfloat16"] > 0
    assert found["40 rows"]["row32"]["qkv"] == "only bf16 and fp16"


def test_the_largest_error_is_nan_where_one_is():
    assert largest([]) == 0.0
    assert largest([0.01, 0.02]) == 0.02
    assert math.isnan(largest([0.01, math.nan]))


@pytest.mark.parametrize(("error", "is_right"), [(0.01, True), (0.1, False), (math.nan, False), (math.inf, False)])
def test_cuda_kernels_that_are_wrong_or_fail_are_disabled(setting, monkeypatch, error, is_right):
    monkeypatch.setenv(WITHOUT, "row-wise-fp8")
    stages(
        monkeypatch,
        cuda_kernels=splits.cuda_kernels,
        later=lambda part, found: found.update(disabled=disabled_kernels()),
    )
    monkeypatch.setattr(splits.cuda, "takes", lambda *_: True)
    monkeypatch.setattr(splits.cuda, "distance", lambda *_: error)
    found = probe.run(setting)
    assert found.details["later"]["disabled"] == {"row-wise-fp8"} | (set() if is_right else {"cuda-kernels"})
    assert any(line.met is False for line in found.lines) != is_right


def test_where_there_are_no_cuda_kernels_nothing_is_left_out(setting, monkeypatch):
    monkeypatch.delenv(WITHOUT, raising=False)
    stages(monkeypatch, cuda_kernels=splits.cuda_kernels)
    assert probe.run(setting).lines == []
    assert disabled_kernels() == set()
