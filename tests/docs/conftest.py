"""The folder in which the commands of the manual run: the demo engine, photographs, shards, and captions of both."""

import shutil
from pathlib import Path
from typing import Any

import make_shards
import numpy as np
import pytest
import scenes
from support.manual import ROOT

import recap_fast

BEGINNERS = {"README.md", "get_started.md"}
"""Pages that make their captions themselves."""


def _draw_photographs(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"IMG_{seed}{number:03}.jpg").write_bytes(scenes.jpeg(scenes.random_scene(rng)))


@pytest.fixture(scope="session")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """engine, demo/, photos/ with one file that is cut, more/ and shards/."""
    root = tmp_path_factory.mktemp("manual")
    recap_fast.build_engine("recap_tiny", ROOT / "demo/recap-tiny", root / "engine")
    (root / "demo/out").mkdir(parents=True)
    for name in ("recap-tiny", "recap-tiny-clip"):
        (root / "demo" / name).symlink_to(ROOT / "demo" / name)
    (root / "demo/out/engine").symlink_to(root / "engine")
    _draw_photographs(root / "photos", 9, 1)
    _draw_photographs(root / "photos/holidays", 2, 2)
    _draw_photographs(root / "more", 3, 3)
    (root / "photos/IMG_1000.txt").write_text("drawn by hand\n", encoding="utf-8")
    cut = root / "photos/IMG_1003.jpg"
    cut.write_bytes(cut.read_bytes()[:1500])
    (root / "shards").mkdir()
    for shard in range(2):
        entries = make_shards.make_entries(shard, 20, np.random.default_rng(shard))
        kept = {entry.key: entry for entry in entries if entry.extension == "jpg"}  # datasets wants samples alike
        make_shards.write_shard(root / "shards", shard, list(kept.values()))
    return root


@pytest.fixture
def folder_for(grounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives a page a folder of its own, most with captions/ of photos/ and web/ of shards/."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(page: Path) -> Path:
        folder = tmp_path / "page"
        shutil.copytree(grounds, folder, symlinks=True)
        if page.name in BEGINNERS:
            shutil.rmtree(folder / "engine")
        else:
            recap_fast.run(folder / "engine", folder / "photos", folder / "captions")
            recap_fast.run(folder / "engine", folder / "shards", folder / "web")
        return folder

    return make
