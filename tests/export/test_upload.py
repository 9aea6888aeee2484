"""Uploads to a stand-in of the Hub: what arrives, what a second call sends, and what is said of refusals."""

from pathlib import Path

import pytest
from support.hub_fake import TOKEN, HubFake

from recap_fast.errors import ConfigError, RecapError
from recap_fast.export.upload import Upload

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the library's own calls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set/data").mkdir(parents=True)
    (tmp_path / "set/README.md").write_text("---\nlicense: other\n---\n")
    for number in range(3):
        (tmp_path / f"set/data/train-0000{number}-of-00003.parquet").write_bytes(b"PAR1 %d" % number * 100)
    return tmp_path / "set"


def upload(folder: Path, repo: str, **more: bool) -> str:
    return Upload(repo, **more).send(folder, sorted(content_of(folder)))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_repository_is_made_and_has_every_file_byte_for_byte(hub: HubFake, folder: Path) -> None:
    url = upload(folder, "me/captions", private=True)
    assert url == f"{hub.endpoint}/datasets/me/captions"
    assert hub.repos["me/captions"].files == content_of(folder)
    assert hub.repos["me/captions"].visibility == "private"


def test_a_repository_that_is_there_keeps_its_other_files(hub: HubFake, folder: Path) -> None:
    upload(folder, "me/captions")
    hub.repos["me/captions"].files["LICENSE"] = b"mine"
    (folder / "README.md").write_text("changed")
    upload(folder, "me/captions", overwrite=True)
    assert hub.repos["me/captions"].files == {**content_of(folder), "LICENSE": b"mine"}


def test_a_second_call_uploads_only_what_is_missing(hub: HubFake, folder: Path) -> None:
    hub.refusals["/commit/"] = 403  # the files have arrived, the commit is lost
    with pytest.raises(RecapError, match="may not write there"):
        upload(folder, "me/captions")
    assert len(hub.uploads) == 3
    hub.refusals.clear()
    (folder / "data/train-00001-of-00003.parquet").write_bytes(b"PAR1 another")
    upload(folder, "me/captions")
    assert len(hub.uploads) == 4
    assert hub.repos["me/captions"].files == content_of(folder)


def test_nothing_to_do_makes_no_commit(hub: HubFake, folder: Path) -> None:
    upload(folder, "me/captions")
    upload(folder, "me/captions")
    assert len(hub.repos["me/captions"].commits) == 1
    assert len(hub.uploads) == 3


@pytest.mark.parametrize(
    ("status", "said"), [(401, "hf auth login"), (403, "role 'write'"), (404, "no such dataset"), (418, "418")]
)
@pytest.mark.parametrize("step", ["repos/create", "preupload"])
def test_a_refusal_says_what_to_do_and_never_shows_the_token(
    hub: HubFake, folder: Path, status: int, said: str, step: str
) -> None:
    hub.refusals[step] = status
    with pytest.raises(RecapError, match=said) as caught:
        upload(folder, "me/captions")
    assert "me/captions cannot be uploaded" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_token_is_not_shown(hub: HubFake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongAndSecret")
    with pytest.raises(RecapError, match="you are not logged in to the Hub") as caught:
        upload(folder, "me/captions")
    assert "hf_wrong" not in str(caught.value)


@pytest.mark.parametrize("harm", [b"PAR1 other", None])
def test_a_file_that_did_not_arrive_as_it_was_is_named(
    hub: HubFake, folder: Path, monkeypatch: pytest.MonkeyPatch, harm: bytes | None
) -> None:
    name, commit = "data/train-00002-of-00003.parquet", hub.commit

    def damage(dataset, repo, lines):
        answer = commit(dataset, repo, lines)
        repo.files.pop(name) if harm is None else repo.files.update({name: harm})
        return answer

    monkeypatch.setattr(hub, "commit", damage)
    with pytest.raises(RecapError, match=f"{'lacks' if harm is None else 'has another'} {name}"):
        upload(folder, "me/captions")


@pytest.mark.parametrize("name", ["captions", "a/b/c", "../x", "a/b c", "", "me/", "https://huggingface.co/me/x"])
def test_a_name_of_no_repository_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="NAME/DATASET"):
        Upload(name)


def test_what_the_repository_has_of_others_is_not_replaced(hub: HubFake, folder: Path) -> None:
    upload(folder, "me/captions")
    files = hub.repos["me/captions"].files
    files |= {"README.md": b"mine", "data/train-00003-of-00004.parquet": b"PAR1 of another export"}
    before = dict(files)
    with pytest.raises(ConfigError, match=r"has another README\.md, data/train-00003-of-00004\.parquet already"):
        upload(folder, "me/captions")
    assert files == before
    upload(folder, "me/captions", overwrite=True)
    assert files == content_of(folder)


def test_files_of_others_in_the_folder_are_not_uploaded(hub: HubFake, folder: Path) -> None:
    ours = content_of(folder)
    (folder / "data/private.parquet").write_bytes(b"PAR1 secret")
    (folder / ".recap-fast").mkdir()
    (folder / ".recap-fast/settings.json").write_text("{}")
    Upload("me/captions").send(folder, sorted(ours))
    assert hub.repos["me/captions"].files == ours
