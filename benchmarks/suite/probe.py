"""First contact with a card: every assumption that has never met one, cheapest first; each finding is on disk at once.

One process, so that torch and CUDA start once. A stage that fails is a line, and the next one runs. One that hangs, or
leaves the GPU's context broken, ends the process; the suite starts the part again, and it goes on behind that stage. No
stage begins when the part's time is nearly over. On a CPU the stages run as far as they can there.
"""

import contextlib
import faulthandler
import importlib
import os
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.setting import RESUME, Findings, Setting

if TYPE_CHECKING:
    import torch

HANGS_S = 90.0
STAGES = {
    "environment": ("surroundings", HANGS_S),
    "build": ("surroundings", HANGS_S),
    "card": ("surroundings", HANGS_S),
    "scaled_mm": ("products", HANGS_S),
    "gemm": ("products", HANGS_S),
    "sdpa": ("attention", HANGS_S),
    "modules": ("surroundings", 150.0),
    "cuda_kernels": ("splits", HANGS_S),
    "tokens": ("captions", HANGS_S),
    "engine": ("engine", 150.0),
    "demo": ("captions", HANGS_S),
    "prefill": ("attention", HANGS_S),
    "ops": ("attention", HANGS_S),
    "splits": ("splits", HANGS_S),
}
"""In order, a function of its name each: the module of stages/ that has it, and seconds after which it hangs.

A module is imported where its first stage begins: those behind `modules` need the native ones."""
CHECKED = {"cuda_kernels": "cuda-kernels"}
"""Stages that check kernels. Later stages do without these kernels unless the stage found them right."""
CONTINUED = frozenset({"engine"})
"""Stages that leave out what they have begun already, and so go on after what hung or broke the device."""
MARGIN_S = 20.0
"""No stage begins when less is left."""
WORDS = 3000
"""Characters of a traceback that are kept."""


@dataclass
class Probe:
    """The part, as its stages see it."""

    setting: Setting
    findings: Findings
    modules: "Future[str] | None" = None
    """Where the native modules come from, once that is known."""

    @cached_property
    def device(self) -> "torch.device":
        """Where the stages run."""
        import torch

        return torch.device(self.setting.device)

    @property
    def is_gpu(self) -> bool:
        """Whether that is a card."""
        return self.setting.device != "cpu"

    def add(self, what: str, figure: str, bar: str = "", met: bool | None = None) -> None:
        """Adds a row to the table; what the stage has found so far is on disk afterwards."""
        self.findings.add(what, figure, bar, met)

    @contextlib.contextmanager
    def trying(self, found: dict[str, Any], what: str) -> Iterator[None]:
        """Lets a stage go on after an error in here, which is one of its findings."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest is worth measuring
            failure = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-WORDS:]}
            found[what] = found.get(what, {}) | failure
            self.add(what, type(error).__name__, "no error", False)
            _leave_if_broken(self)
        self.findings.save()


def run(setting: Setting) -> Findings:
    """All stages that earlier processes of the part have not been through."""
    probe = Probe(setting, setting.find("probe"))
    probe.findings.load()
    stacks = setting.work / "probe-stacks.txt"
    for name, (module, hangs_s) in STAGES.items():
        found = probe.findings.details.get(name)
        if found is None:
            _enter(probe, name, module, hangs_s, stacks, {})
        elif "seconds" not in found:
            found["stacks"] = stacks.read_text()[-WORDS:] if stacks.is_file() else ""
            if name not in CONTINUED:
                found["seconds"] = None
            probe.add(f"{name}: hung or broke the device", "stopped", "no error", False)
            if name in CONTINUED:
                _enter(probe, name, module, hangs_s, stacks, found)
        if name in CHECKED and not probe.findings.details[name].get("is right"):
            _disable(probe, CHECKED[name])
    return probe.findings


def _disable(probe: Probe, kernels: str) -> None:
    from recap_fast.generate.device import WITHOUT

    os.environ[WITHOUT] = f"{os.environ.get(WITHOUT, '')},{kernels}"
    probe.add(f"   later stages do without {kernels}", "")


def _enter(probe: Probe, name: str, module: str, hangs_s: float, stacks: Path, found: dict[str, Any]) -> None:
    """One stage, with its seconds; an error is a line."""
    probe.findings.details[name] = found
    if probe.setting.seconds_left < MARGIN_S:
        found["seconds"] = 0.0
        probe.add(name, "no time left", "", False)
        return
    probe.findings.save()
    start = time.perf_counter()
    with _watched(hangs_s, stacks):
        try:
            getattr(importlib.import_module(f"suite.stages.{module}"), name)(probe, found)
        except Exception as error:  # noqa: BLE001 - the next stage is worth its time
            found |= {"error": f"{type(error).__name__}: {error}"[:WORDS], "trace": traceback.format_exc()[-WORDS:]}
            probe.add(name, type(error).__name__, "no error", False)
            _leave_if_broken(probe)
    found["seconds"] = round(time.perf_counter() - start, 2)
    probe.findings.save()


@contextlib.contextmanager
def _watched(seconds: float, stacks: Path) -> Iterator[None]:
    """Ends the process with `RESUME` if this takes longer; where all of its threads were is then in the file."""
    with stacks.open("a") as file:
        faulthandler.dump_traceback_later(seconds, file=file)
        watchdog = threading.Timer(seconds + 1, os._exit, [RESUME])
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
            faulthandler.cancel_dump_traceback_later()


def _leave_if_broken(probe: Probe) -> None:
    """Ends the process with `RESUME` where the card takes no more work from it."""
    if not probe.is_gpu:
        return
    import torch

    try:
        torch.cuda.synchronize()
    except RuntimeError:
        os._exit(RESUME)
