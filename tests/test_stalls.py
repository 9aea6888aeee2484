"""Real runs in real processes over inputs that never end: each exits in time, and says why."""

import os
import signal
import socket

import pytest
from support import runs
from support.web import Fault, Web


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp("in"), 2, 3)


@pytest.fixture
def web(inputs):
    with Web() as web:
        web.files.update({f"b/{path.name}": path.read_bytes() for path in sorted(inputs.iterdir())})
        yield web


def arguments(engine, output, *shards, drain=2):
    given = [part for value in shards for part in ("--shards", value)]
    return [
        *("run", "--engine", engine, "--output", output, "--decoder", "pillow", "--max-new-tokens", 4, *given),
        *("--drain-seconds", drain),
    ]


def make_special(kind, path):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_file_is_a_shard_that_failed(server, tiny_engine, inputs, tmp_path, monkeypatch, kind, suffix):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    make_special(kind, (tmp_path / f"x.{suffix}").relative_to(tmp_path))
    special = tmp_path / f"x.{suffix}"
    command = server.run(*arguments(tiny_engine, tmp_path / "out", f"{inputs}/*.tar", special))
    assert command.code == 1, command.stderr
    assert f"it is a {kind}, not a file" in command.stderr
    assert "Traceback" not in command.stderr
    assert len(runs.read_rows(tmp_path / "out")) == 6


def test_a_signal_while_the_run_is_planned(server, tiny_engine, tmp_path):
    os.mkfifo(tmp_path / "list")
    command = server.start(*arguments(tiny_engine, tmp_path / "out", f"@{tmp_path}/list"))
    with (tmp_path / "list").open("w"):  # it has begun to read
        command.send(signal.SIGTERM)
        assert command.wait() == 75
    assert command.stderr == "SIGTERM: stopping\nStopped by a signal; the same command goes on from here.\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", ["b/*.tar", "b/0000{0..1}.tar"])
@pytest.mark.parametrize("after", [None, 0], ids=["no answer", "no body"])
def test_a_signal_while_a_server_lists_nothing(server, tiny_engine, tmp_path, web, pattern, after):
    web.always = Fault(stall=True, after=after)
    command = server.start(*arguments(tiny_engine, tmp_path / "out", web.url(pattern)))
    assert web.stalled.wait(runs.GUARD_S)
    command.send(signal.SIGTERM)
    assert command.wait() == 75
    assert command.stderr.endswith("Stopped by a signal; the same command goes on from here.\n")


def test_a_signal_while_a_body_has_stopped_and_the_next_run_goes_on(server, tiny_engine, tmp_path, web):
    web.faults.append(Fault(stall=True, after=3000))
    given = arguments(tiny_engine, tmp_path / "out", web.url("b/0000{0..1}.tar"))
    command = server.start(*given)
    assert web.stalled.wait(runs.GUARD_S)
    command.send(signal.SIGTERM)
    assert command.wait() == 75
    assert command.stderr.endswith("Stopped by a signal; the same command goes on from here.\n")
    assert server.run(*given).code == 0
    assert len(runs.read_rows(tmp_path / "out")) == 6


def test_a_server_that_stops_is_given_up_without_a_signal(server, tiny_engine, tmp_path, web):
    web.faults.extend([Fault(stall=True, after=0)] * 9)
    urls = web.url("b/0000{0..1}.tar")
    command = server.run(*arguments(tiny_engine, tmp_path / "out", urls), "--read-timeout", 0.5)
    assert command.code == 1
    assert "warning: shard 00000: " in command.stderr
    assert "Timeout on reading data from socket, tried " in command.stderr


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_nobody_reads_standard_error_any_more(server, tiny_engine, inputs, tmp_path, lines):
    os.mkfifo(tmp_path / "stderr")
    command = server.start(
        *arguments(tiny_engine, tmp_path / "out", f"{inputs}/*.tar"), stderr=str(tmp_path / "stderr")
    )
    with (tmp_path / "stderr").open() as stream:
        for _ in range(lines):
            stream.readline()
    assert command.wait() == 0
    assert len(runs.read_rows(tmp_path / "out")) == 6


def test_secrets_are_never_shown(server, tiny_engine, tmp_path, web):
    web.login = "user:s3cr3t"
    given = [web.url(f"b/0000{i}.tar?X-Amz-Signature=s3cr3t", "user:s3cr3t@") for i in range(2)]
    for log_format in ("text", "json"):
        web.faults.extend([Fault(503), Fault(after=1000)])
        command = server.run(*arguments(tiny_engine, tmp_path / log_format, *given), "--log-format", log_format)
        assert command.code == 0, command.stderr
        assert "s3cr3t" not in command.stderr
        assert all(secret not in str(runs.read_rows(tmp_path / log_format)) for secret in ("s3cr3t", "user:"))
    assert "trying again" in command.stderr
    dry = server.run(*arguments(tiny_engine, tmp_path / "dry", *given), "--dry-run")
    assert dry.code == 0
    assert "s3cr3t" not in dry.stderr + dry.stdout
