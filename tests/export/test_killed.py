"""Exports that are killed at any change of the file system: the next one completes them, and others' files stay."""

import signal
from pathlib import Path
from typing import Any

import pytest
from support.exports import below, make_output, picture
from support.shard_files import write_tar


def change(row: dict[str, Any]) -> None:
    row["metadata"] = f'{{"image_id": {row["index"]}}}'


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet", "coco"])
def test_what_was_killed_is_completed(kind: str, tmp_path: Path, server: Any) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"in/{name}.tar", [(f"{i}.png", picture(i)) for i in range(2)])
    make_output(tmp_path / "out", tmp_path / "in", change=change)

    def export(target: Path, *, kill_at: int | None = None) -> int:
        (target / "data").mkdir(parents=True, exist_ok=True)
        (target / "data/mine.txt").write_text("mine")
        send = None if kill_at is None else (signal.SIGKILL, "change", kill_at)
        return server.run("export", tmp_path / "out", "--to", kind, "--target", target, send=send).code

    assert export(tmp_path / "whole") == 0
    expected = below(tmp_path / "whole")
    at, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        at += 9
        target = tmp_path / f"to{at}"
        code = export(target, kill_at=at)
        assert export(target) == 0
        assert below(target) == expected
    assert code == 0
    assert at > 9


def test_texts_beside_images_are_completed(tmp_path: Path, server: Any) -> None:
    at, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        at += 13
        photos = tmp_path / f"{at}/photos"
        photos.mkdir(parents=True)
        for number in range(4):
            (photos / f"{number}.png").write_bytes(picture(number))
        make_output(tmp_path / f"{at}/out", photos)
        command = ["export", tmp_path / f"{at}/out", "--to", "txt", "--beside"]
        code = server.run(*command, send=(signal.SIGKILL, "change", at)).code
        images = [f"{number}.png" for number in range(4)]
        assert [name for name in below(photos) if name.endswith(".png")] == images
        assert server.run(*command).code == 0
        assert sorted(below(photos)) == sorted([*images, *(f"{number}.txt" for number in range(4))])
    assert code == 0
    assert at > 13
