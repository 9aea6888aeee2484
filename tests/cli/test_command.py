"""Words that the shell made of something, and options that are none: what a usage error says to type."""

import pytest
from click.testing import CliRunner

from recap_fast.cli.main import cli


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["photos"], "Inputs are given with --shards: --shards photos."),
        (["--engine", "e", "--output", "o", "--shards", "a.jpg", "b.jpg", "c.jpg"], "Unexpected: 'b.jpg' 'c.jpg'."),
        (["--engine", "", "--shards", "x", "--output", "o"], "it is empty. Is a variable of your shell not set?"),
        (["--engine", "e", "--shards", "x", "--output", ""], "it is empty. Is a variable of your shell not set?"),
        (["--engine", "e", "--shards", "x", "--output", "s3://b/o"], "s3://b/o is a URL. Give a local path"),
        (["--engne", "e"], "Did you mean"),
    ],
)
def test_usage_errors_say_what_to_type(words, advice):
    done = CliRunner().invoke(cli, ["run", *words])
    assert done.exit_code == 2
    assert advice in " ".join(done.output.split())


def test_a_glob_that_the_shell_expanded_is_given_back_in_quotes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    names = [f"my photos/{i}.jpg" for i in range(5)]
    for name in names:
        (tmp_path / name).touch()
    done = CliRunner().invoke(cli, ["run", "--engine", "e", "--output", "o", "--shards", *names])
    assert done.exit_code == 2
    assert "put it in quotes, and recap-fast expands it: --shards 'my photos/*.jpg'." in " ".join(done.output.split())
