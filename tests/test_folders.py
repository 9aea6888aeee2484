"""A folder of images over time: whatever happens to it, the rows are the files, or `verify` says that they are not."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import folder_runs
from support.examples import share
from support.fake_runs import caption_of
from support.folder_runs import BrokenError, rows_by_file, sha256, versions_on_disk

from recap_fast.api import verify
from recap_fast.shards.identity import of_stat
from recap_fast.write import shard_writer, units

NAMES = [f"{folder}{name}{suffix}" for folder in ("", "s/") for name in "acemx" for suffix in (".jpg", ".png")]
PATTERNS = {
    "folder": ["photos"],
    "parent": ["."],
    "sub-folder": ["photos/s"],
    "jpg": ["photos/*.jpg"],
    "png": ["photos/*.png"],
    "globs": ["photos/*.jpg", "photos/*.png", "photos/s/*"],
}
WHOLE = ("folder", "parent", "globs")
names = st.sampled_from(NAMES)


class FolderOverTime(RuleBasedStateMachine):
    """Files come, go and change; runs of all kinds come between; the disk is compared with a dict of the files."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.output = self.base.parent / f"{self.base.name}.out"
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(units, "UNIT_IMAGES", 3)
        self.patch.setattr(shard_writer, "STRETCH_ROWS", 2)
        self.files: dict[str, bytes] = {}
        self.trash: dict[str, tuple[bytes, int]] = {}
        self.units: dict[str, Any] = {}
        self.clock = 0

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.base)
        shutil.rmtree(self.output, ignore_errors=True)

    def path(self, name: str) -> Path:
        return self.base / "photos" / name

    def write(self, name: str, content: bytes, mtime_s: int) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_bytes(content)
        os.utime(self.path(name), (mtime_s, mtime_s))
        self.files[name] = content

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def existing(self, name: str) -> str:
        """A file that there is, the same for the same name and files."""
        return name if name in self.files else sorted(self.files)[NAMES.index(name) % len(self.files)]

    @rule(name=names)
    def write_new_content(self, name: str) -> None:
        """Adds a file or changes one."""
        now = self.tick()
        self.write(name, folder_runs.image(now), now)

    @rule(chosen=st.sets(names, min_size=1))
    def add_several(self, chosen: set[str]) -> None:
        for name in sorted(chosen - self.files.keys()):
            self.write_new_content(name)

    @precondition(lambda self: self.files)
    @rule(name=names, new=names)
    def rename(self, name: str, new: str) -> None:
        name = self.existing(name)
        if new in self.files:
            return
        self.path(new).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).rename(self.path(new))
        self.files[new] = self.files.pop(name)

    @precondition(lambda self: self.files)
    @rule(name=names, other=names)
    def swap(self, name: str, other: str) -> None:
        name, other = self.existing(name), self.existing(other)
        contents = self.files[name], self.files[other]
        times = [int(self.path(each).stat().st_mtime) for each in (name, other)]
        self.write(name, contents[1], times[1])
        self.write(other, contents[0], times[0])

    @precondition(lambda self: self.files)
    @rule(name=names)
    def touch(self, name: str) -> None:
        name = self.existing(name)
        self.write(name, self.files[name], self.tick())

    @precondition(lambda self: self.files)
    @rule(name=names)
    def delete(self, name: str) -> None:
        name = self.existing(name)
        self.trash[name] = self.files.pop(name), int(self.path(name).stat().st_mtime)
        self.path(name).unlink()

    @rule(name=names)
    def bring_back(self, name: str) -> None:
        if name in self.trash and name not in self.files:
            self.write(name, *self.trash[name])

    @precondition(lambda self: self.files)
    @rule(kind=st.sampled_from(sorted(PATTERNS)), redo=st.booleans(), prune=st.booleans(), limit=st.integers(1, 9))
    def run_a_part(self, kind: str, redo: bool, prune: bool, limit: int) -> None:
        """By any pattern, and perhaps not to the end."""
        before = self.rows()
        self.run(kind, redo, prune, limit=limit if limit < 6 else None)
        for path, row in self.rows().items():
            assert row["sha256"] in (self.digests().get(path), before.get(path, row)["sha256"])

    @precondition(lambda self: self.files)
    @rule(redo=st.booleans(), after=st.integers(1, 6))
    def run_interrupted(self, redo: bool, after: int) -> None:
        known = self.versions_missing()
        try:
            self.run("folder", redo, False, break_after=after)
        except BrokenError:
            assert not redo or known - len(self.versions_missing_files()) >= after

    @precondition(lambda self: self.files)
    @rule(kind=st.sampled_from(WHOLE), prune=st.booleans())
    def run_whole(self, kind: str, prune: bool) -> None:
        """Without --redo-changed no row of a finished unit changes."""
        before, lacking = self.rows(), self.digests().keys() - versions_on_disk(self.output).keys()
        num_decoded = self.run(kind, False, prune)
        assert len(lacking) <= num_decoded
        rows = self.rows()
        assert rows.keys() >= self.digests().keys() | (set() if prune else before.keys())
        assert not prune or rows.keys() == self.digests().keys()
        for path, row in rows.items():
            assert row["sha256"] in (self.digests().get(path), before.get(path, row)["sha256"])

    @precondition(lambda self: self.files)
    @rule(kind=st.sampled_from(WHOLE))
    def run_to_what_there_is(self, kind: str) -> None:
        """With --redo-changed and --prune the rows are the files, and each image was decoded once."""
        missing = self.versions_missing()
        assert self.run(kind, True, True) == missing
        rows = self.rows()
        assert {path: row["sha256"] for path, row in rows.items()} == self.digests()
        assert all(rows[str(self.path(name))]["re_caption"] == caption_of(self.files[name]) for name in self.files)
        assert not verify(self.output, self.base).faults
        assert self.run(kind, True, True) == 0

    @precondition(lambda self: self.files and self.output.exists())
    @rule()
    def verify_knows(self) -> None:
        """Rows that do not agree with the files are never proven; those that agree are, once each unit is done."""
        agree = {path: row["sha256"] for path, row in self.rows().items()} == self.digests()
        faults = verify(self.output, self.base).faults
        assert agree or faults
        assert not agree or {fault.kind for fault in faults} <= {"no record"}

    @invariant()
    def units_keep_their_files(self) -> None:
        now = folder_runs.units(self.output)
        for name, before in self.units.items():
            assert {**now[name], "pruned": before["pruned"]} == before
            assert set(now[name]["pruned"]) >= set(before["pruned"])
        self.units = now

    def run(self, kind: str, redo: bool, prune: bool, **more: Any) -> int:
        patterns = [self.base / pattern for pattern in PATTERNS[kind]]
        patterns = [p for p in patterns if any(f.is_file() for f in p.parent.glob(p.name)) or self.has_images(p)]
        return len(folder_runs.run(self.output, *patterns, redo_changed=redo, prune=prune, **more)) if patterns else 0

    def has_images(self, folder: Path) -> bool:
        return folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))

    def rows(self) -> dict[str, Any]:
        return rows_by_file(self.output) if self.output.exists() else {}

    def digests(self) -> dict[str, str]:
        return {str(self.path(name)): sha256(content) for name, content in self.files.items()}

    def versions_missing(self) -> int:
        return len(self.versions_missing_files())

    def versions_missing_files(self) -> list[str]:
        """Files of whose present version no row is on disk."""
        known = versions_on_disk(self.output)
        paths = [str(self.path(name)) for name in self.files]
        return [path for path in paths if known.get(path) != of_stat(Path(path).stat()).text]


TestFolderOverTime = FolderOverTime.TestCase
TestFolderOverTime.settings = settings(share(0.5), stateful_step_count=20)
