"""What values stand for: brackets, lists, folders with other files, outages. More is in test_expand.py."""

import os
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.guard import GUARD_S

from recap_fast.errors import ConfigError, InputError, StoppedError
from recap_fast.shards import listing
from recap_fast.shards.locate import locate
from recap_fast.shards.patience import patience
from recap_fast.shards.remote import access


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(access, "FIRST_PAUSE_S", 0.0)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def found(*values):
    return [file.url for file in locate([str(value) for value in values])]


# -- brackets in folders -----------------------------------------------------------------------------------------------

FOLDERS = ("plain", "imgs [2023]", "a*b", "what?", "[abc]", "x[!1]/y [z]", "[", "]", "{a,b}x", "**")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_missing_shard_is_missing_whatever_its_folder_is_called(tmp_path, folder):
    here = touch(tmp_path / folder, "00000.tar", "00001.tar", "00003.tar")
    if "{" in folder:  # braces cannot be typed: a list of names is
        values = [f"{here}/0000{i}.tar" for i in range(4) if i != 2]
        assert found(*values) == values
        return
    assert found(f"{here}/{{00000..00003}}.tar") == [f"{here}/0000{i}.tar" for i in range(4)]
    assert found(f"{here}/{{00002..00003}}.tar") == [f"{here}/0000{i}.tar" for i in (2, 3)]
    with pytest.raises(ConfigError, match="nothing matches it"):
        found(f"{here}/{{00004..00005}}.tar")


@pytest.mark.parametrize("folder", [name for name in FOLDERS if "{" not in name])
def test_patterns_work_in_any_folder(tmp_path, folder):
    here = touch(tmp_path / folder, "00000.tar", "00001.tar", "00012.tar", "deep/00013.tar")
    assert found(f"{here}/*.tar") == [f"{here}/{name}.tar" for name in ("00000", "00001", "00012")]
    assert found(f"{here}/0000[1-9].tar") == [f"{here}/00001.tar"]
    assert found(f"{here}/{{0000?,0001*}}.tar") == [f"{here}/{name}.tar" for name in ("00000", "00001", "00012")]
    assert found(f"{here}/**/00013.tar") == [f"{here}/deep/00013.tar"]
    assert found(f"{here}/d*/*.tar") == [f"{here}/deep/00013.tar"]


@pytest.mark.parametrize("folder", ["plain", "imgs [2023]", "x[!1]/y [z]"])
def test_brackets_in_folders_of_other_file_systems(memory, folder):
    for name in ("00000", "00001", "00003"):
        memory.pipe(f"/b/{folder}/{name}.tar", b"x")
    here = f"memory://b/{folder}"
    assert found(f"{here}/{{00000..00003}}.tar") == [f"{here}/0000{i}.tar" for i in range(4)]
    assert found(f"{here}/*.tar") == [f"{here}/0000{i}.tar" for i in (0, 1, 3)]
    assert found(f"{here}/0000[12].tar") == [f"{here}/00001.tar"]
    assert found(f"{here}/0000?.tar") == [f"{here}/0000{i}.tar" for i in (0, 1, 3)]
    with pytest.raises(ConfigError, match="nothing matches it"):
        found(f"{here}/{{00004..00005}}.tar")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.text("[]ab*?! ", min_size=1, max_size=8).filter(str.strip), st.sets(st.integers(0, 5), min_size=1))
def test_any_folder_gives_the_same_as_a_plain_one(tmp_path_factory, name, numbers):
    here = touch(tmp_path_factory.mktemp("any") / f"f{name}f", *(f"{i}.tar" for i in numbers))
    assert found(f"{here}/{{0..5}}.tar") == [f"{here}/{i}.tar" for i in range(6)]
    assert found(f"{here}/*.tar") == [f"{here}/{i}.tar" for i in sorted(numbers)]


# -- lists -------------------------------------------------------------------------------------------------------------


def test_what_several_links_lead_to_is_there_once(tmp_path):
    folder, link = touch(tmp_path / "in", "p/1.jpg", "t.tar"), tmp_path / "link"
    link.symlink_to(folder)
    assert found(folder / "p", f"{link}/p/*", link, folder) == [f"{folder}/p/1.jpg", f"{link}/t.tar"]


def test_the_order_of_a_list_is_kept(tmp_path):
    touch(tmp_path, "00000.tar", "00001.tar", "00002.tar", "more/9.tar")
    (tmp_path / "list.txt").write_text(
        f"{tmp_path}/00002.tar\n{tmp_path}/0000[01].tar\n{tmp_path}/more\n{tmp_path}/3.tar"
    )
    names = ("00002", "00000", "00001", "more/9", "3")
    assert found(f"@{tmp_path}/list.txt") == [f"{tmp_path}/{name}.tar" for name in names]


LINES = ["/a/0.tar", "/a/1 2.tar", "/a/\u00e4.tar"]


@pytest.mark.parametrize(
    "text",
    [
        "{}\n{}\n{}",
        "{}\n{}\n{}\n",
        "\ufeff{}\r\n{}\r\n{}\r\n",
        "{}  \n\t{}\t\n\n \n# a comment\n{}",
        "\ufeff# a comment\n{}\n\ufeff{}\n{}\ufeff",
        "{}\r\n\r\n{} \r\n  {}\r",
    ],
)
def test_lists_are_read_as_they_are_saved(tmp_path, memory, text):
    content = text.format(*LINES).encode()
    (tmp_path / "list.txt").write_bytes(content)
    assert listing.read_list(str(tmp_path / "list.txt")) == LINES
    memory.pipe("/b/list.txt", content)
    assert listing.read_list("memory://b/list.txt") == LINES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lists_in_other_encodings_are_refused(tmp_path, encoding):
    (tmp_path / "list.txt").write_bytes("/a/0.tar\n".encode(encoding))
    with pytest.raises(ConfigError, match=r"--shards @.*/list\.txt: the list cannot be read: "):
        found(f"@{tmp_path}/list.txt")


def test_a_list_may_come_through_a_pipe(tmp_path):
    touch(tmp_path, "0.tar", "1.tar")
    os.mkfifo(tmp_path / "list")
    writer = threading.Thread(target=lambda: (tmp_path / "list").write_text(f"{tmp_path}/1.tar\n{tmp_path}/0.tar\n"))
    writer.start()
    assert found(f"@{tmp_path}/list") == [f"{tmp_path}/1.tar", f"{tmp_path}/0.tar"]
    writer.join()


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            ["a.svg", "b.SVG", "c.mp4", "d"],
            "4 files are skipped because of their suffixes: 2 .svg, 1 .mp4, 1 wi",
        ),
        (["x/a.svg"], "1 file is skipped because of its suffix: 1 .svg"),
        ([f"{i}.s{i}" for i in range(10)], "1 .s7, 2 others"),
        (["a.long-long-long-suffix", "ends."], "2 without suffix"),
        (["a.txt", "a.json", "README.md", "license", "Thumbs.db", "desktop.ini", "metadata.jsonl", ".b.svg"], None),
        (
            ["metadata.csv", "x/metadata.CSV", "README", "labels.csv"],
            "1 file is skipped because of its suffix: 1 .c",
        ),
    ],
)
def test_a_folder_says_what_it_skips(tmp_path, memory, caplog, names, text):
    folder = touch(tmp_path / "photos", "good.jpg", *names)
    for name in ("good.jpg", *names):
        memory.pipe(f"/photos/{name}", b"x")
    for url in (str(folder), "memory://photos"):
        caplog.clear()
        assert found(url) == [f"{url}/good.jpg"]
        assert [record.getMessage().startswith(f"{url}: ") for record in caplog.records] == [True] * (text is not None)
        assert (text or "") in caplog.text


def fail_scandir(monkeypatch, bad, error):
    scandir = os.scandir

    def failing(path):
        if os.fspath(path) == str(bad):
            raise OSError(error, os.strerror(error), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)


@pytest.mark.parametrize("error", [13, 40, 36, 5, 116])  # EACCES, ELOOP, ENAMETOOLONG, EIO, ESTALE
def test_a_folder_that_cannot_be_read_costs_itself_only(tmp_path, monkeypatch, caplog, error):
    touch(tmp_path, "a.jpg", "bad/b.jpg", "c/d.jpg")
    with monkeypatch.context() as patch:
        fail_scandir(patch, tmp_path / "bad", error)
        assert found(tmp_path) == [f"{tmp_path}/a.jpg", f"{tmp_path}/c/d.jpg"]
        assert f"{tmp_path}/bad is skipped: it cannot be read: {os.strerror(error)}" in caplog.text
    fail_scandir(monkeypatch, tmp_path, error)
    with pytest.raises(ConfigError, match=f"--shards {tmp_path}: the folder cannot be read: "):
        found(tmp_path)


# -- what cannot be reached --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["blocking://b/0.tar", "blocking://b/{0..99}.tar", "blocking://b/*.tar", "blocking://b"]
)
def test_an_outage_is_no_typo(blocking, value):
    blocking.files["b/0.tar"] = b"x"
    for operation in ("info", "ls"):
        blocking.fail(operation, *[ConnectionResetError("dropped")] * 99)
    with pytest.raises(InputError) as caught:
        found(value)
    message = f"--shards {value}: cannot be reached: ConnectionResetError: dropped, tried 5 times"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "value", ["blocking://b/0.tar", "blocking://b/*.tar", "blocking://b", "@blocking://b/list.txt"]
)
def test_a_listing_that_fails_now_and_then_is_tried_again(blocking, value):
    blocking.files.update({"b/0.tar": b"x", "b/list.txt": b"blocking://b/0.tar\n"})
    for operation in ("info", "ls", "open"):
        blocking.fail(operation, *[ConnectionResetError("dropped")] * 2)
    assert found(value) == ["blocking://b/0.tar"]


@pytest.mark.parametrize(
    "value", ["blocking://b/0.tar", "blocking://b/*.tar", "blocking://b", "@blocking://b/list.txt"]
)
def test_a_listing_that_hangs_ends(blocking, value):
    blocking.files["b/0.tar"] = b"x"
    for operation in ("info", "ls", "open"):
        blocking.block(operation)
    with pytest.raises(StoppedError), patience(should_stop=lambda: blocking.num_blocked > 0):
        found(value)
    with patience(0.05), pytest.raises(InputError, match=r"cannot be reached: nothing came for 0\.05 s"):
        found(value)


def test_a_local_listing_that_hangs_ends(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg")
    ended = threading.Event()
    monkeypatch.setattr(os, "scandir", lambda path: ended.wait(GUARD_S))
    with patience(0.05), pytest.raises(InputError, match=r"cannot be reached: nothing came for 0\.05 s"):
        found(tmp_path)
    ended.set()


def test_a_server_that_is_down(caplog):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        for path in ("0.tar", "{0..99}.tar", "*.tar", "folder", "[ab]/*.tar"):
            with pytest.raises(InputError) as caught:
                found(
                    f"http://u:s3cr3t@{host}/{path}?sig=s3cr3t" if path == "0.tar" else f"http://u:s3cr3t@{host}/{path}"
                )
            assert str(caught.value).startswith(f"--shards http://{host}/{path}: cannot be reached: ConnectionRefused")
            assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in caplog.text


@pytest.fixture
def web():
    from support.web import Web

    with Web() as web:
        web.files.update({f"b/{i}.tar": b"x" for i in range(3)})
        yield web


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
@pytest.mark.parametrize("path", ["b/0.tar", "b/{0..2}.tar", "b/*.tar", "b", "b/"])
def test_a_server_that_refuses_says_what_it_answered(web, path, status):
    from support.web import Fault

    web.always = Fault(status)
    with pytest.raises(InputError, match=rf"the server answered {status} "):
        found(web.url(path))


def test_one_of_many_may_be_refused(web):
    from support.web import Fault

    web.faults.append(Fault(403))
    web.always = None
    assert found(web.url("b/{0..2}.tar")) == [web.url(f"b/{i}.tar") for i in range(3)]


@pytest.mark.parametrize("path", ["gone/0.tar", "gone/*.tar", "gone"])
def test_a_server_that_answers_says_that_nothing_is_there(web, path):
    with pytest.raises(ConfigError, match=r"nothing matches it|does not exist"):
        found(web.url(path))


def test_signed_files_are_found_and_never_shown(web):
    (file,) = locate([web.url("b/0.tar?sig=s3cr3t", "u:s3cr3t@")])
    assert file.url == web.url("b/0.tar?sig=s3cr3t", "u:s3cr3t@")
    assert file.value == web.url("b/0.tar")
    with pytest.raises(ConfigError) as caught:
        locate([web.url("b/gone.tar?sig=s3cr3t", "u:s3cr3t@")])
    assert "s3cr3t" not in str(caught.value)
