"""A decoder that ends the process: the next run decodes what was being decoded alone, and then gives the image up."""

import multiprocessing
import os
import signal

import pytest
from support.fake_runs import FakeDecoder, FakeRun, captions, expected_captions, write_shards
from support.guard import GUARD_S
from support.runs import read_rows
from support.shard_files import webdataset_members

from recap_fast.pipeline.decoding import TWICE

SIZES = [5, 6]


def image(shard, index):
    """The bytes of a sample of `write_shards`."""
    members = webdataset_members(SIZES[shard], 1000 * shard)
    return [content for name, content in members if name.endswith("jpg")][index]


class Deadly(FakeDecoder):
    """Dies of some images, of some of them with Pillow, too."""

    def __init__(self, killers, killers_of_pillow):
        self.killers, self.killers_of_pillow = killers, killers_of_pillow

    def decode(self, images, *, only_pillow=False):
        if only_pillow:
            assert len(images) == 1
        if set(images) & set(self.killers_of_pillow if only_pillow else self.killers):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(images, only_pillow=only_pillow)


def start(folder, killers=(), killers_of_pillow=()):
    """The exit code of a process that runs over the shards."""

    def run():
        run = FakeRun(folder / "in", folder / "out")
        run.captioner.decoder = Deadly(killers, killers_of_pillow)
        run.run()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(GUARD_S)
    return process.exitcode


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "in", SIZES)
    return tmp_path


def test_what_killed_the_fast_decoder_is_decoded_alone_by_pillow(folder):
    killers = [image(0, 3), image(1, 2)]
    assert start(folder, killers) == -signal.SIGKILL
    assert start(folder, killers) in (0, -signal.SIGKILL)  # where the second was not in the same batch
    start(folder, killers)
    assert captions(folder / "out") == expected_captions(folder / "in", SIZES)
    assert not (folder / "out" / "decoding").exists()


def test_an_image_that_kills_twice_is_a_row_and_all_others_have_captions(folder):
    killer = [image(1, 2)]
    ends = [start(folder, killer, killer) for _ in range(3)]
    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 0]
    rows = {(row["shard"], row["index"]): row for row in read_rows(folder / "out")}
    bad = rows.pop(("00001", 2))
    assert (bad["status"], bad["error"], bad["re_caption"]) == ("crashed", TWICE, None)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(rows) == sum(SIZES) - 1
    assert not (folder / "out" / "decoding").exists()


def test_two_that_kill_twice_are_two_rows(folder):
    killers = [image(0, 1), image(0, 4)]
    ends = [start(folder, killers, killers) for _ in range(6)]
    assert ends[0] == -signal.SIGKILL
    assert ends[-1] == 0
    statuses = [row["status"] for row in read_rows(folder / "out")]
    assert [i for i, status in enumerate(statuses) if status == "crashed"] == [1, 4]
    assert statuses.count("ok") == sum(SIZES) - 2


def test_a_process_that_dies_while_another_one_runs_is_noticed_by_it_with_the_next_shard(folder):
    """As in a cluster, where a worker gets the shard of one that died."""
    killer = [image(1, 2)]
    run = FakeRun(folder / "in", folder / "out")
    run.captioner.decoder = Deadly(killer, ())
    first, second = run.pending

    def shards():
        yield first
        assert start(folder, killer) == -signal.SIGKILL
        yield second

    run.pipeline().run(shards())
    assert captions(folder / "out") == expected_captions(folder / "in", SIZES)
