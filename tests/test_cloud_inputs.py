"""Real runs in real processes over inputs in a real S3 server: as over local ones, whatever the server does."""

import signal

import obstore
import pytest
from support import pictures, runs, shard_files
from support.fault_proxy import Fault, every, first, seeded
from support.s3_server import KEY, SECRET

from recap_fast.store.connection import connect


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Tars, a Parquet file, and a folder of images with what lies beside them."""
    folder = runs.write_pictures(tmp_path_factory.mktemp("local") / "in", 3, 4)
    images = [pictures.encode(pictures.noise(24, 20, seed=seed), "PNG") for seed in range(4)]
    shard_files.write_table(folder / "table.parquet", {"image": images, "caption": list("abcd")}, row_group_size=2)
    for number, image in enumerate(images):
        (folder / "photos" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        (folder / "photos" / f"{number % 2}" / f"{number}.png").write_bytes(image)
        (folder / "photos" / f"{number % 2}" / f"{number}.txt").write_text(f"beside {number}")
    return folder


@pytest.fixture
def remote(local, s3_bucket):
    """The same in a bucket."""
    store, _ = connect(s3_bucket)
    for path in sorted(local.rglob("*.*")):
        obstore.put(store, f"in/{path.relative_to(local)}", path.read_bytes())
    return f"{s3_bucket}/in"


@pytest.fixture(scope="module")
def expected(server, tiny_engine, local, tmp_path_factory):
    """The rows of a run over the local files."""
    output = tmp_path_factory.mktemp("expected") / "out"
    assert server.run(*arguments(tiny_engine, local, output)).code == 0
    return rows(output)


def arguments(engine, inputs, output, *more):
    return [
        *("run", "--engine", engine, "--output", output, "--decoder", "pillow", "--max-new-tokens", 6),
        *("--shards", inputs, *more),
    ]


def rows(output):
    """What they say, but for the versions of the inputs, which are times on a disk and ETags in a bucket."""
    return [{**row, "input_version": None} for row in runs.read_rows(output)]


def test_the_same_rows_come_from_a_bucket_as_from_a_disk(server, tiny_engine, remote, expected, tmp_path):
    command = server.run(*arguments(tiny_engine, remote, tmp_path / "out"))
    assert command.code == 0, command.stderr
    assert rows(tmp_path / "out") == expected
    again = server.run(*arguments(tiny_engine, remote, tmp_path / "out"))
    assert (again.code, again.num_steps) == (0, 0)
    verified = server.run("verify", tmp_path / "out", "--shards", remote)
    assert verified.code == 0, verified.stdout + verified.stderr


@pytest.mark.parametrize("seed", range(2))
def test_a_server_that_errs_costs_no_row(server, tiny_engine, remote, s3_faults, expected, tmp_path, seed):
    s3_faults.schedule = seeded(seed, 0.2)
    command = server.run(*arguments(tiny_engine, remote, tmp_path / "out"))
    assert command.code == 0, command.stderr
    assert rows(tmp_path / "out") == expected
    assert any(map(s3_faults.schedule, s3_faults.requests)), "nothing went wrong"


def test_a_shard_that_is_denied_has_failed_and_is_done_by_a_later_run(
    server, tiny_engine, remote, s3_faults, expected, tmp_path
):
    s3_faults.schedule = every(Fault("status", 403, "AccessDenied"), "GET", "00001.tar")
    command = server.run(*arguments(tiny_engine, remote, tmp_path / "out"))
    assert command.code == 1
    assert "00001.tar cannot be read: access is denied, the server answered 403 Forbidden" in command.stderr
    assert rows(tmp_path / "out") == [row for row in expected if row["shard"] != "00001"]
    s3_faults.schedule = lambda _: None
    again = server.run(*arguments(tiny_engine, remote, tmp_path / "out"))
    assert again.code == 0, again.stderr
    assert rows(tmp_path / "out") == expected


def test_inputs_that_are_denied_end_the_run_before_it_begins(server, tiny_engine, remote, s3_faults, tmp_path):
    s3_faults.schedule = every(Fault("status", 403, "AccessDenied"))
    command = server.run(*arguments(tiny_engine, remote, tmp_path / "out"))
    assert command.code == 1
    assert "access is denied, the server answered 403 Forbidden" in command.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["00001.tar", "list-type"], ids=["download", "listing"])
def test_a_signal_while_nothing_comes(server, tiny_engine, remote, s3_faults, expected, tmp_path, path):
    s3_faults.schedule = first(9, Fault("stall"), "GET", path)
    given = arguments(tiny_engine, remote, tmp_path / "out", "--drain-seconds", 2)
    command = server.start(*given)
    assert s3_faults.stalled.wait(runs.GUARD_S)
    command.send(signal.SIGTERM)
    assert command.wait() == 75
    assert command.stderr.endswith("Stopped by a signal; the same command goes on from here.\n")
    s3_faults.schedule = lambda _: None
    assert server.run(*given).code == 0
    assert rows(tmp_path / "out") == expected


def test_a_limit_fetches_little_in_vain(server, tiny_engine, remote, s3_faults, tmp_path):
    s3_faults.schedule = lambda _: None
    given = arguments(tiny_engine, f"{remote}/*.tar", tmp_path / "out", "--limit", 2)
    assert server.run(*given).code == 0
    assert s3_faults.came("GET", "/in/0000") <= 2


def test_keys_are_in_nothing_that_is_written(server, tiny_engine, remote, s3_faults, tmp_path):
    for log_format in ("text", "json"):
        s3_faults.schedule = first(1, Fault("status", 403, "InvalidAccessKeyId"), "GET", ".tar")
        output = tmp_path / log_format
        command = server.run(*arguments(tiny_engine, remote, output), "--log-format", log_format)
        assert command.code == 1, command.stderr
        written = [path.read_bytes() for path in output.rglob("*") if path.is_file()]
        for content in (command.stderr.encode(), command.stdout.encode(), *written):
            assert SECRET.encode() not in content
            assert KEY.encode() not in content
        assert "InvalidAccessKeyId" in command.stderr


@pytest.mark.parametrize("url", ["s3://user:s3cr3t@bucket/a.tar", "s3://bucket/a.tar?X-Amz-Signature=s3cr3t"])
@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--log-format", "json")])
def test_secrets_in_an_address_are_refused(server, tiny_engine, tmp_path, url, more):
    command = server.run(*arguments(tiny_engine, url, tmp_path / "out"), *more)
    assert command.code == 2
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in command.stderr
    assert "s3cr3t" not in command.stderr + command.stdout
    assert not (tmp_path / "out").exists()
