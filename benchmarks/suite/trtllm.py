"""TensorRT-LLM, where it is installed: the demo engine, compiled and run, beside the torch engine.

It is the first thing to run where the library and a GPU are at hand: the demo's captions are known, so that a wrong
name, id, table or stop rule shows. Rates are those of a small model and say nothing; benchmarks/compare_trtllm.py
measures a real checkpoint.
"""

import importlib.util
from pathlib import Path

from contest.compare_trtllm import compare
from make_shards import make_shards

from recap_fast.build.engine_directory import build_engine
from suite.setting import ROOT, Found, Setting

CHECKPOINT = ROOT / "demo/recap-tiny"
SCENES, TINY_SCENES = 400, 24
BAR = 0.97
"""Of captions equal to the torch engine's, both in bfloat16."""


def run(setting: Setting) -> Found:
    """The compiled engine with the torch engine as its reference."""
    found = setting.find("trtllm")
    if importlib.util.find_spec("tensorrt_llm") is None:
        found.add("TensorRT-LLM", "not installed")
        return found
    shards, count = setting.work / "trtllm-shards", SCENES if setting.is_real else TINY_SCENES
    if not shards.is_dir():
        make_shards(shards, num_shards=1, num_samples=count, seed=10**6)
    torch_engine = _build(setting.work / "trtllm-torch")
    with found.trying("demo engine"):
        engine = _build(setting.work / "trtllm", backend="tensorrt-llm")
        _, row = compare([torch_engine, engine], [f"{shards}/*.tar"], count, repeat=1)
        found.details["demo engine"] = row
        share = float(str(row["equal_captions"]))
        what = "demo engine: captions equal to the torch engine's"
        found.add(what, f"{share:.1%}", f">= {BAR:.0%}", share >= BAR)
    return found


def _build(folder: Path, **choices: str) -> Path:
    if not folder.is_dir():
        build_engine("recap_tiny", CHECKPOINT, folder, precision="bfloat16", **choices)
    return folder
