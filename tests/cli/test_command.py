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
        (["--engine", "s3://b/e", "--shards", "x", "--output", "o"], "s3://b/e is a URL. Give a local path"),
        (["--engne", "e"], "Did you mean"),
        (["--shard", "e"], "No such option '--shard'. Did you mean '--shards'?"),
        (["--shards", "{0..1}.tar", "1.tar"], "put the pattern in quotes: --shards '{00000..00099}.tar'."),
        (
            ["--prompt", "What", "is", "it?", "--seed", "1"],
            "Put a prompt of several words in quotes: --prompt 'What is it?'.",
        ),
    ],
)
def test_usage_errors_say_what_to_type(words, advice):
    done = CliRunner().invoke(cli, ["run", *words])
    assert done.exit_code == 2
    assert advice in " ".join(done.output.split())


@pytest.mark.parametrize("num", [2, 5])
def test_a_glob_that_the_shell_expanded_is_given_back_in_quotes(tmp_path, monkeypatch, num):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    names = [f"my photos/{i}.jpg" for i in range(num)]
    for name in names:
        (tmp_path / name).touch()
    done = CliRunner().invoke(cli, ["run", "--engine", "e", "--output", "o", "--shards", *names])
    assert done.exit_code == 2
    assert "put the pattern in quotes: --shards 'my photos/*.jpg'." in " ".join(done.output.split())
