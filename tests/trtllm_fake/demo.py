"""Builds the demo engine and captions demo shards with commands of their own, as a user would."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import make_shards
from support.runs import read_rows

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "recap_fast")
Rows = dict[tuple[str, int], tuple[str, str | None]]
"""Status and caption, by shard and index."""
GPU = """
import torch
from recap_fast.generate.tensorrt_backend import environment

environment.find_gpu = lambda device: environment.Gpu("a CPU in a test", "0.0", torch.device("cpu"))
"""
"""For write_site's `startup`: the backend's own check finds a GPU, whose memory is the CPU's."""


def write_demo_shards(folder: Path, num_samples: int) -> Path:
    """One shard of drawn scenes, with the things in it that go wrong on the web."""
    arguments = ["--output", str(folder), "--shards", "1", "--samples", str(num_samples), "--seed", "7"]
    _run([sys.executable, make_shards.__file__, *arguments], os.environ)
    return folder


def build_demo(folder: Path, *options: str, site: Path | None = None) -> Path:
    """Builds recap-tiny with these options; `site` is of write_site."""
    checkpoint, engine = ROOT / "demo/recap-tiny", folder / "engine"
    arguments = ["build-engine", "recap_tiny", "--checkpoint", str(checkpoint), "--output", str(engine), *options]
    _run([*COMMAND, *arguments], _environment(site))
    return engine


def caption_demo(
    engine: Path, shards: Path, output: Path, *options: str, site: Path | None = None, codes: tuple[int, ...] = (0, 3)
) -> Rows:
    """Captions the shards, and returns the rows that are there afterwards; `codes` are those that it may exit with."""
    arguments = ["run", "--engine", str(engine), "--shards", f"{shards}/*.tar", "--output", str(output)]
    _run([*COMMAND, *arguments, "--decoder", "pillow", *options], _environment(site), codes)
    return {(row["shard"], row["index"]): (row["status"], row["re_caption"]) for row in read_rows(output)}


def _environment(site: Path | None) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(site)} if site else {})


def _run(command: list[str], environment: Mapping[str, str], codes: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in codes, f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}"
