"""A bucket that is denied, gone or out of reach in the middle of a run: a sentence, exit code 1, and the same command
goes on. Secrets show nowhere."""

import json

import pytest
from support import runs
from support.cloud_runs import CloudOutput, succeed
from support.fault_proxy import Fault, every, first
from support.runs import run_arguments
from support.s3_server import KEY, SECRET
from support.web import Web

NUM_SHARDS, NUM_SAMPLES = 2, 20
SHORT = ("--max-new-tokens", 4)
LOST = Fault("lose")
EXPIRED = Fault("status", 403, "ExpiredToken")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp("in"), NUM_SHARDS, NUM_SAMPLES, bad=[3])


@pytest.fixture(scope="module")
def rows(tmp_path_factory, server, tiny_engine, inputs):
    """Those of a run into a local folder."""
    output = tmp_path_factory.mktemp("out")
    succeed(server.run(*run_arguments(tiny_engine, inputs, output, *SHORT)))
    return runs.read_rows(output)


@pytest.fixture
def output(s3_bucket, s3_server, server, tmp_path):
    return CloudOutput(f"{s3_bucket}/out", server, s3_server, tmp_path)


@pytest.fixture
def arguments(tiny_engine, inputs, output):
    """Of a run into the bucket."""
    return run_arguments(tiny_engine, inputs, output.address, *SHORT)


@pytest.fixture
def start(server, arguments, tmp_path):
    """Starts the command, and returns when its output is open and nothing is captioned yet; then what goes on."""

    def begin(*more, **options):
        command = server.start(*arguments, *more, gate=tmp_path / "gate", **options)
        command.wait_for_step()

        def go_on():
            (tmp_path / "gate").touch()
            command.wait()
            return command

        return go_on

    return begin


def after(count, fault, path):
    """From the request on that is the so-and-so-many-th with that text in its path, all go wrong."""
    came = []

    def schedule(request):
        came.extend([request] if path in request.path else [])
        return fault if len(came) > count else None

    return schedule


@pytest.mark.parametrize("method", ["", "PUT"])
def test_answers_that_are_lost_are_no_failures(server, output, s3_faults, arguments, rows, method):
    """The first two of each request, or of each file that is written."""
    s3_faults.schedule = first(2, LOST, method)
    succeed(server.run(*arguments))
    assert s3_faults.faults["lose"] > 0
    output.assert_whole(rows)


def test_two_processes_whose_answers_are_lost_do_no_harm(server, output, s3_faults, arguments, rows, tmp_path):
    """They register the same shards at the same moment, and commit them."""
    s3_faults.schedule = first(3, LOST, "PUT")
    commands = [server.start(*arguments, gate=tmp_path / "gate") for _ in range(2)]
    for command in commands:
        command.wait_for_step()
    (tmp_path / "gate").touch()
    for command in commands:
        succeed(command)
    assert s3_faults.faults["lose"] > 0
    output.assert_whole(rows)


@pytest.mark.parametrize("path", ["partial/", "data/", "manifests/"])
def test_credentials_that_expire_end_the_run_and_lose_nothing(server, output, s3_faults, arguments, rows, path):
    s3_faults.schedule = after(2, EXPIRED, path)
    command = server.run(*arguments)
    assert command.code == 1
    last = command.stderr.splitlines()[-1]
    assert last.startswith(f"recap-fast: {output.address}/")
    assert ": access is denied, the server answered 403 Forbidden" in last
    assert last.endswith(". Mend that, and run the same command again: it goes on from there.")
    assert "Traceback" not in command.stderr
    kept = {f"{row['shard']} {row['index']}" for row in output.written_rows()}
    assert kept
    s3_faults.schedule = lambda _: None
    again = succeed(server.run(*arguments))
    assert not kept & set(again.finished), "these were done"
    output.assert_whole(rows)


@pytest.mark.parametrize("path", ["data/", "manifests/", "partial/"])
def test_what_cannot_be_read_just_now_is_not_done_again(server, output, s3_faults, arguments, rows, path):
    """One shard is finished and another one has begun when nothing there can be read any more."""
    succeed(server.run(*arguments, "--limit", NUM_SAMPLES + 5))
    kept = {f"{row['shard']} {row['index']}" for row in output.written_rows() if row["status"] == "ok"}
    assert len(kept) > NUM_SAMPLES
    s3_faults.schedule = every(EXPIRED, "GET", f"/out/{path}")
    command = server.run(*arguments, "--retry-failed")
    assert command.code == 1
    assert "ExpiredToken" in command.stderr.splitlines()[-1]
    records = [json.loads(content) for name, content in output.files().items() if name.startswith("manifests/")]
    assert [record["status"] for record in records] == ["complete"]
    proof = server.run("verify", output.address)
    assert proof.code == (4 if path == "partial/" else 1), "what cannot be read is no gap"
    s3_faults.schedule = lambda _: None
    again = succeed(server.run(*arguments))
    assert not kept & {*command.finished, *again.finished}
    output.assert_whole(rows)


def test_a_server_out_of_reach_ends_the_run_after_a_while(server, output, s3_faults, arguments, rows):
    s3_faults.schedule = after(2, Fault("reset"), "partial/")
    command = server.run(*arguments, patience_s=0.5)
    assert command.code == 1
    last = command.stderr.splitlines()[-1]
    assert last.startswith(f"recap-fast: {output.address}/")
    assert " times. Mend that, and run the same command again: it goes on from there." in last
    s3_faults.schedule = lambda _: None
    succeed(server.run(*arguments))
    output.assert_whole(rows)


def test_a_run_file_that_is_deleted_ends_the_run(server, output, arguments, start, rows):
    go_on = start()
    before = output.files()
    bucket, path = output.store.open(output.address)
    bucket.delete(f"{path}/run.json")
    command = go_on()
    assert command.code == 1
    assert f"--output {output.address} no longer has run.json: it was removed" in command.stderr
    bucket.put(f"{path}/run.json", before["run.json"])
    succeed(server.run(*arguments))
    output.assert_whole(rows)


def finished(output):
    """The captions and the done-records."""
    return {name: content for name, content in output.files().items() if name.startswith(("data/", "manifests/"))}


def test_another_run_in_its_place_ends_the_run(server, output, arguments, start):
    go_on = start()
    succeed(server.run(*arguments, "--prompt", "What is it?", "--overwrite"))
    theirs = finished(output)
    command = go_on()
    assert command.code == 1
    assert f"--output {output.address} is now another folder, with another run" in command.stderr
    assert finished(output) == theirs


def test_a_bucket_that_is_deleted_ends_the_run(server, output, arguments, start, rows):
    go_on = start()
    output.store.remove_bucket(output.address)
    command = go_on()
    assert command.code == 1
    assert output.address in command.stderr.splitlines()[-1]
    assert "no longer has run.json" in command.stderr
    command = server.run(*arguments)
    assert command.code == 2
    assert "no such bucket is known" in command.stderr
    output.store.make_bucket(output.address.split("/")[2])
    succeed(server.run(*arguments))
    output.assert_whole(rows)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_keys_show_nowhere(server, output, s3_faults, arguments, log_format):
    """Not in a run that goes well after faults, nor in errors of each kind, nor in what they have written."""
    errors = [Fault("status", 403, code) for code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")]
    errors += [Fault("status", 400, "AuthorizationHeaderMalformed"), Fault("reset"), Fault("truncate")]
    said = []
    for error in errors:
        s3_faults.schedule = every(error)
        command = server.run(*arguments, "--log-format", log_format, patience_s=0.2)
        assert command.code == 1
        said.append(command.stdout + command.stderr)
    s3_faults.schedule = first(4, Fault("status", 503))
    command = succeed(server.run(*arguments, "--log-format", log_format))
    verified = succeed(server.run("verify", output.address))
    said += [command.stdout + command.stderr, verified.stdout + verified.stderr]
    assert "trying again" in command.stderr
    for content in (*(text.encode() for text in said), *output.files().values()):
        assert KEY.encode() not in content
        assert SECRET.encode() not in content
        assert b"Signature=" not in content


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_logins_and_signatures_of_inputs_show_nowhere(server, output, s3_faults, tiny_engine, inputs, log_format):
    """One can be read, one is damaged, and one is not there; the bucket fails now and then, and at last for good."""
    said = []

    def say(code, schedule, *command):
        s3_faults.schedule = schedule
        ended = server.run(*command, patience_s=1)
        assert ended.code == code, ended.stderr
        said.append(ended.stdout + ended.stderr)

    with Web() as web:
        web.login = "user:s3cr3t"
        content = (inputs / "00000.tar").read_bytes()
        web.files = {"a.tar": content, "b.tar": content[:3000]}
        a, b, c = (f"{web.url(name, 'user:s3cr3t@')}?X-Amz-Signature=s1gned" for name in ("a.tar", "b.tar", "c.tar"))
        arguments = run_arguments(
            tiny_engine, inputs, output.address, *SHORT, "--log-format", log_format, "--shards", b
        )
        arguments[arguments.index(f"{inputs}/*.tar")] = a
        passing = first(2, Fault("status", 503))
        say(1, passing, *arguments)
        say(1, every(Fault("status", 500), "PUT", "/out/partial/"), *arguments, "--retry-failed")
        say(2, passing, *arguments, "--shards", c)
        say(0, passing, "verify", output.address)
        say(0, passing, "verify", output.address, "--json", "--shards", a, "--shards", b)
        say(0, passing, "failures", output.address)
    assert "c.tar" in "".join(said)
    assert b"a.tar" in output.files()["run.json"]
    for content in (*(text.encode() for text in said), *output.files().values()):
        for secret in (b"s3cr3t", b"s1gned", KEY.encode(), SECRET.encode()):
            assert secret not in content


@pytest.mark.parametrize("address", ["s3://user:s3cr3t@bucket/out", "s3://bucket/out?X-Amz-Signature=s3cr3t"])
def test_an_output_with_a_secret_is_refused(server, tiny_engine, inputs, address):
    for command in (run_arguments(tiny_engine, inputs, address), ["verify", address], ["failures", address]):
        ended = server.run(*command)
        assert ended.code == 2
        assert "set AWS_ACCESS_KEY_ID" in ended.stderr
        assert "s3cr3t" not in ended.stderr + ended.stdout
