"""benchmarks/contest with peers that err, and for real: recap-fast beside transformers on a tiny model."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from support.guard import wait_until

from contest import command
from contest.contest import Contest, MismatchError, cut
from contest.contestants import Candidate, ContestantError, Process, check_installed
from contest.kinds import KINDS, Kind
from contest.peers.protocol import Job
from inputs import checkpoints

LENGTHS = [5, 7, 6]
OURS = Candidate("recap-fast", "float32")
SETTINGS = ({"seconds": 3.0}, {"seconds": 1.5}, {"seconds": 6.0})


@pytest.fixture
def job(tmp_path):
    (tmp_path / "images").mkdir()
    return Job(
        folder=str(tmp_path),
        checkpoint="none",
        recipe="none",
        prefix_ids=[1],
        suffix_ids=[2],
        stop_ids=[3],
        image_token_id=3,
        num_image_tokens=4,
        image_size=8,
        mode="crop",
        mean=[0.5] * 3,
        std=[0.5] * 3,
    )


@pytest.fixture
def start(job, monkeypatch):
    """Starts candidates as fake peers: those of recap-fast, too."""
    fake = Kind("fake_peer", "numpy", "pip install fake", {}, str(Path(__file__).parent))
    for name in ("recap-fast", "fake"):
        monkeypatch.setitem(KINDS, name, fake)
    started = []

    def start(candidate):
        fields = {**vars(job), "precision": candidate.precision, "settings": candidate.settings}
        started.append(Process(candidate, sys.executable, Job(**fields)))
        return started[-1]

    yield start
    for process in started:
        assert process._process.poll() is not None, "a contest leaves none of its processes behind"


def compare(start, fault, precision="float32"):
    peer = Candidate("fake", precision, {"fault": fault})
    return Contest(start, LENGTHS, OURS).compare("test", {"recap-fast": [OURS], "fake": [peer]}, repeat=2)


def test_equal_captions_give_a_ratio(start):
    found = compare(start, None)
    assert {name: entry.seconds for name, entry in found.entries.items()} == {
        "recap-fast": [1.0, 1.0],
        "fake": [1.0, 1.0],
    }
    assert (found.ratio("fake"), found.num_distinct) == (1.0, 3)
    assert "all equal" in found.table()
    assert set(found.entries["fake"].versions) == {"numpy"}


def test_the_fastest_settings_are_chosen(start):
    peers = [Candidate("fake", "float32", settings) for settings in SETTINGS]
    contest = Contest(start, LENGTHS, OURS)
    found = contest.compare("test", {"recap-fast": [OURS], "fake": peers}, repeat=1)
    assert found.entries["fake"].candidate == peers[1]
    assert found.ratio("fake") == pytest.approx(1.5)
    assert list(found.tried.values()) == [1.0, 2.0, 0.5]


def test_a_setting_that_fails_is_passed_over_while_another_works(start, capfd):
    peers = [Candidate("fake", "float32", settings) for settings in ({"fault": "cannot open"}, *SETTINGS)]
    candidates = {"recap-fast": [OURS], "fake": peers}
    found = Contest(start, LENGTHS, OURS).compare("test", candidates, repeat=1)
    assert found.entries["fake"].candidate == peers[2]
    assert "no such weights" in capfd.readouterr().err
    broken = [Candidate("fake", "float32", {"fault": "cannot open", "n": n}) for n in range(2)]
    with pytest.raises(ContestantError, match=r"fake float32 .*ValueError: no such weights"):
        Contest(start, LENGTHS, OURS).compare("test", {**candidates, "fake": broken}, repeat=1)


@pytest.mark.parametrize(
    ("fault", "precision", "message"),
    [
        ("length", "float32", "image 1: 6 tokens, 7 were asked for"),
        ("length", "bfloat16", "image 1: 6 tokens, 7 were asked for"),
        ("token", "float32", "image 1: token 6 is 107, in the first captions it is 106"),
        ("image", "float32", "returned 2 captions for 3 images"),
    ],
)
def test_wrong_output_fails(start, fault, precision, message):
    with pytest.raises(MismatchError, match=f"^fake {precision} .*{message}"):
        compare(start, fault, precision)


def test_captions_as_long_as_ours_end_behind_the_first_stop_token(start):
    contest = Contest(start, LENGTHS, OURS, stop_ids=[102, 200, 204])
    found = contest.compare("test", {"recap-fast": [OURS], "fake": [Candidate("fake", "float32")]}, repeat=1)
    assert found.lengths == [5, 3, 1]


def test_a_caption_without_a_stop_token_is_kept_whole():
    assert cut([5, 6, 7], [8]) == [5, 6, 7]
    assert cut([5, 6, 7], [7, 6]) == [5, 6]


def test_in_lower_precision_wrong_tokens_are_counted(start):
    found = compare(start, "token", "bfloat16")
    assert found.entries["fake"].agreement == {"equal_captions": 2 / 3, "mean_equal_tokens": (5 + 6 + 6) / 3}
    assert "67% equal, first 5.7 tokens" in found.table()


def test_a_peer_that_dies_is_named_with_what_it_said_last(start):
    with pytest.raises(
        ContestantError, match=r"fake float32 .*ended without an answer\n(.*\n)*.*out of memory, they said"
    ):
        compare(start, "dies")


def test_a_peer_is_stopped_between_passes(start):
    process = start(Candidate("fake", "float32"))
    stat = Path(f"/proc/{process._process.pid}/stat")

    def state():
        return stat.read_text().rpartition(")")[2].split()[0]

    wait_until(lambda: state() == "T", lambda: f"it is in state {state()}")
    assert process.run(LENGTHS).seconds == 1.0
    process.close()


@pytest.mark.parametrize("python", [sys.executable, "/no/such/python"])
def test_a_peer_that_is_not_installed_says_how_to_install_it(monkeypatch, python):
    monkeypatch.setitem(KINDS, "fake", Kind("none", "no_such_module", "pip install fake", {}))
    with pytest.raises(
        ContestantError, match=f"fake is not installed for {python}: .*pip install fake.*--python fake="
    ):
        check_installed("fake", python)


def test_best_takes_all_precisions_of_each():
    args = command.parse(["--peers", "transformers", "openvino", "--num-slots", "8"])
    found = command.choose_candidates(args, "best")
    assert [(c.precision, c.settings) for c in found["recap-fast"]] == [
        (precision, {"num_slots": 8}) for precision in ("float32", "bfloat16", "int8")
    ]
    assert {c.precision for c in found["transformers"]} == {"float32", "bfloat16"}
    with pytest.raises(ContestantError, match="none of transformers has --precision int8"):
        command.choose_candidates(command.parse(["--peers", "transformers"]), "int8")


@pytest.fixture
def two_at_a_time(monkeypatch):
    """transformers tries one size of batches."""
    batches = {"cpu": {"float32": {"batch-2": {"batch": 2}}}}
    monkeypatch.setitem(KINDS, "transformers", dataclasses.replace(KINDS["transformers"], settings=batches))


@pytest.mark.usefixtures("two_at_a_time")
def test_main_beside_transformers_writes_figures_and_how_they_were_made(tmp_path, capsys, monkeypatch):
    checkpoints.make_checkpoint(tmp_path / "tiny", "hf4", preprocess="crop")
    monkeypatch.setitem(command.LENGTHS, "fixed", lambda num: [4, 9, 6][:num])
    output = tmp_path / "2026-01-01_machine_peers"
    arguments = ["--checkpoint", str(tmp_path / "tiny"), "--images", "3", "--lengths", "fixed", "--repeat", "1"]
    assert command.main([*arguments, "--threads", "1", "--output", str(output)]) == 0
    table = capsys.readouterr().out.strip()
    (comparison,) = json.loads(output.with_suffix(".json").read_text())["comparisons"]
    assert comparison["lengths"] == [4, 9, 6]
    assert comparison["different_captions"] == 3
    assert set(comparison["engines"]) == {"recap-fast", "transformers"}
    assert table in output.with_suffix(".md").read_text()


@pytest.mark.usefixtures("two_at_a_time")
def test_other_kinds_of_models_are_compared(tmp_path, capsys, monkeypatch):
    """SigLIP's images are stretched, as its checkpoint says, and all of its patches are read."""
    monkeypatch.setitem(command.LENGTHS, "varied", lambda num: [4, 9, 6][:num])
    work = ["--work", str(tmp_path), "--images", "3", "--repeat", "1", "--threads", "1"]
    arguments = ["--preset", "joycaption", *work, "--size", "siglip-tiny"]
    assert command.main(arguments) == 0
    assert "3 different captions" in capsys.readouterr().out
    _, job, _ = command.prepare(command.parse(arguments), tmp_path, "siglip-tiny")
    assert (job.mode, job.mean, job.num_image_tokens) == ("stretch", [0.5] * 3, 9)


def test_a_setting_is_chosen_by_its_name_and_engines_without_it_keep_theirs():
    args = command.parse(["--peers", "transformers", "openvino", "--setting", "batch-8"])
    found = command.choose_candidates(args, "float32")
    assert [c.settings for c in found["transformers"]] == [{"batch": 8}]
    assert len(found["openvino"]) == 3
