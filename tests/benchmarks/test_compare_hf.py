"""benchmarks/compare_hf.py on a tiny model: both sides agree, and a wrong caption or length makes it fail."""

import dataclasses
import json

import checkpoints
import compare_hf
import pytest
import torch
import workload
from transformers import CLIPImageProcessorPil

NUM_IMAGES = 6
LENGTHS = [8, 3, 8, 5, 1, 8]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    checkpoints.make_checkpoint(folder / "checkpoint", preprocess="crop")
    return workload.Workload.make(folder, folder / "checkpoint", NUM_IMAGES)


@pytest.fixture(scope="module")
def model(work):
    return compare_hf.load_model(work.checkpoint)


@pytest.fixture
def ours(work):
    contestant = workload.RecapFast(work, compare_hf.EngineOptions(device="cpu", num_slots=4, prefill_images=2))
    yield contestant
    contestant.close()


@pytest.fixture
def peer(work, model):
    contestant = compare_hf.Transformers(work, model, batch=4, decode_threads=1)
    yield contestant
    contestant.close()


class Altered:
    """A contestant that spoils one caption."""

    name = "altered"

    def __init__(self, contestant, spoil):
        self._contestant, self._spoil = contestant, spoil

    def run(self, lengths):
        done = self._contestant.run(lengths)
        captions = [list(ids) for ids in done.captions]
        self._spoil(captions[2])
        return dataclasses.replace(done, captions=captions)


def test_both_sides_give_the_same_captions_of_the_requested_lengths(ours, peer):
    found = compare_hf.compare([ours, peer], LENGTHS, repeat=2)
    assert found.num_distinct == NUM_IMAGES
    assert {name: len(passes) for name, passes in found.seconds.items()} == {ours.name: 2, peer.name: 2}
    assert found.best_peer == "transformers, batch 4"
    assert found.ratio == pytest.approx(found.rates["recap-fast"] / found.rates["transformers, batch 4"])
    assert f"recap-fast is {found.ratio:.2f} times as fast" in found.table("varied")


def test_a_wrong_token_fails(ours, peer):
    def spoil(caption):
        caption[-1] += 1

    with pytest.raises(workload.MismatchError, match="altered, image 2: token 7 is "):
        compare_hf.compare([ours, Altered(peer, spoil)], LENGTHS, repeat=1)


def test_a_wrong_length_fails(ours, peer):
    with pytest.raises(workload.MismatchError, match="altered, image 2: 7 tokens, 8 were asked for"):
        compare_hf.compare([peer, Altered(ours, list.pop)], LENGTHS, repeat=1)


def test_a_wrong_row_in_the_output_fails(ours, monkeypatch):
    text = ours._tokenizer.detokenize

    def garbled(rows):
        return [caption + "x" if i == 1 else caption for i, caption in enumerate(text(rows))]

    run = workload.Stages
    monkeypatch.setattr(workload, "Stages", lambda **parts: run(**{**parts, "detokenize": garbled}))
    with pytest.raises(workload.MismatchError, match="do not hold the captions that the engine generated"):
        ours.run(LENGTHS)


def test_pixels_are_those_of_transformers_own_processor(work, peer):
    from recap_fast.decode.pillow import decode_rgb

    processor = CLIPImageProcessorPil.from_pretrained(work.checkpoint)
    images = [decode_rgb(data, 1 << 20) for data in work.images]
    expected = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(peer.pixel_values(work.images), expected, rtol=0, atol=1e-6)


def test_main_writes_the_figures_and_how_they_were_made(work, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(compare_hf.LENGTHS, "fixed", lambda num: [4] * num)
    output = tmp_path / "2026-01-01_machine_compare-hf"
    threads = torch.get_num_threads()
    arguments = ["--checkpoint", str(work.checkpoint), "--images", "3", "--lengths", "fixed", "--batch", "2"]
    assert compare_hf.main([*arguments, "--repeat", "1", "--threads", str(threads), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(output.with_suffix(".json").read_text())
    assert content["comparisons"]["fixed"]["lengths"] == [4, 4, 4]
    assert set(content) >= {"command", "machine", "commit", "versions", "engine"}
    table = printed.partition("\n\n")[2].strip()
    assert table in output.with_suffix(".md").read_text()


def test_main_exits_with_1_where_captions_differ(work, capsys, monkeypatch):
    monkeypatch.setitem(compare_hf.LENGTHS, "fixed", lambda num: [4] * num)
    run = compare_hf.Transformers.run

    def wrong(self, lengths):
        done = run(self, lengths)
        return dataclasses.replace(done, captions=[[*ids[:-1], ids[-1] ^ 1] for ids in done.captions])

    monkeypatch.setattr(compare_hf.Transformers, "run", wrong)
    arguments = ["--checkpoint", str(work.checkpoint), "--images", "3", "--lengths", "fixed", "--batch", "2"]
    assert compare_hf.main([*arguments, "--repeat", "1", "--threads", str(torch.get_num_threads())]) == 1
    assert "compare_hf: transformers, batch 2, image 0: token 3 is" in capsys.readouterr().err
