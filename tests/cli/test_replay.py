"""`recap-fast replay`: a line if all is the same, else where two captions part, and the exit code."""

import json
import re

import pytest
from click.testing import CliRunner
from support.replays import rows, with_row
from support.runs import write_pictures

from recap_fast.cli.main import cli
from recap_fast.errors import ConfigError, ExitCode
from recap_fast.generate.engine import EngineOptions, Sampling


@pytest.fixture
def output(start, tmp_path):
    """Captions of two tars; the third picture of each is none."""
    write_pictures(tmp_path / "in", 2, 6, bad=[2])
    start()
    return tmp_path / "out"


def replayed(*words):
    done = CliRunner().invoke(cli, ["replay", *map(str, words), "--device", "cpu"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.splitlines()


def test_a_row_that_is_the_same_takes_one_line(output, tiny_engine):
    for name in ("00000:1", "000000001", "000000001.png"):
        code, lines = replayed(output, name, "--engine", tiny_engine)
        assert code == ExitCode.COMPLETE
        assert lines == ["00000:1 has the same caption again, all of its 4 tokens."]


def test_so_does_a_row_that_fails_again(output, tiny_engine):
    code, (line,) = replayed(output, "00000:2", "--engine", tiny_engine)
    assert code == ExitCode.COMPLETE
    assert line.startswith("00000:2 fails again with not_an_image: ")


def test_where_a_caption_parts_and_how_near_the_tie_was(output, tiny_engine, tmp_path):
    changed = with_row(output, tmp_path / "changed", "00001:4", re_caption="\x1b[31mRED\nalert")
    code, lines = replayed(changed, "00001:4", "--engine", tiny_engine)
    assert code == ExitCode.GAP
    assert lines[0] == "00001:4 has another caption now. It differs after 0 tokens."
    assert lines[1] == '  alike        ""'
    assert lines[2] == "  row          '\\x1b[31mRED\\nalert', 4 tokens, length", "no terminal obeys a caption"
    assert lines[3].startswith("  now          ")
    choice = r".+ \(\d+\), logit -?[\d.]+, probability [\de.-]+"
    assert re.fullmatch(rf"  row's token  {choice}", lines[4])
    assert re.fullmatch(rf"  token now    {choice}", lines[5])
    assert re.fullmatch(
        r"  margin       [\de.-]+ between the logits, [\de.+-]+ steps of float32 at their size", lines[6]
    )
    assert lines[7].startswith("  made on      ")
    assert lines[8] == lines[7].replace("made on", "now on ")
    assert len(lines) == 9


def test_of_a_sampled_caption_the_numbers_that_draw_each_token_are_shown(start, tiny_engine, tmp_path):
    start(options=EngineOptions(device="cpu", max_new_tokens=4, sampling=Sampling(temperature=1.0)))
    changed = with_row(tmp_path / "out", tmp_path / "changed", "00000:0", re_caption="RED")
    code, lines = replayed(changed, "00000:0", "--engine", tiny_engine)
    assert code == ExitCode.GAP
    assert all(re.search(r", probability [\de.-]+, drawn by [\d.]+ to [\d.]+$", line) for line in lines[4:6])
    assert re.fullmatch(r"  drawn        0\.\d{7}", lines[7])


def test_a_row_that_fails_otherwise_or_does_not_fail(output, tiny_engine, tmp_path):
    broken = {"status": "corrupt", "error": "It is torn.", "re_caption": None, "num_tokens": None}
    code, lines = replayed(
        with_row(output, tmp_path / "a", "00000:2", status="corrupt"), "00000:2", "--engine", tiny_engine
    )
    assert code == ExitCode.GAP
    assert "now the image has the status not_an_image (" in lines[0]
    code, lines = replayed(with_row(output, tmp_path / "b", "00000:0", **broken), "00000:0", "--engine", tiny_engine)
    assert code == ExitCode.GAP
    begin = "00000:0 is not the same: the row has the status corrupt (It is torn.), but now the image has the caption "
    assert lines[0].startswith(begin)


def test_what_stands_in_the_json(output, tiny_engine):
    code, lines = replayed(output, "00000:0", "--engine", tiny_engine, "--json")
    found, row = json.loads("\n".join(lines)), rows(output)["00000:0"]
    assert code == ExitCode.COMPLETE
    assert found["same"] is True
    assert (found["row"]["caption"], found["now"]["caption"]) == (row["re_caption"], row["re_caption"])
    assert found["divergence"] is None


@pytest.mark.parametrize(
    ("name", "message"), [("00000:9", "has no row 00000:9"), ("nobody", "has no row 'nobody': give a key")]
)
def test_a_name_without_a_row_is_a_mistake_of_usage(output, tiny_engine, name, message):
    done = CliRunner().invoke(cli, ["replay", str(output), name, "--engine", str(tiny_engine)])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
