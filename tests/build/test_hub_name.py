"""What is a name on the Hub and what a path, of all that people give as a checkpoint."""

from pathlib import Path

import pytest

from recap_fast.build.hub_name import HubName, download_advice, parse_hub_name
from recap_fast.errors import ConfigError

PAGE = "https://huggingface.co/org/name-1.5"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "revision"),
    [
        ("org/name-1.5", None),
        ("org/name-1.5/", None),
        ("org/name-1.5@v2", "v2"),
        ("org/name-1.5@refs/pr/6", "refs/pr/6"),
        (PAGE, None),
        (f"{PAGE}/", None),
        (f"{PAGE}?library=transformers", None),
        (f"{PAGE}#usage", None),
        (f"{PAGE}/tree/main", "main"),
        (f"{PAGE}/tree/refs%2Fpr%2F6", "refs/pr/6"),
        (f"{PAGE}/blob/v2/config.json", "v2"),
        (f"{PAGE}/discussions/3", None),
        ("http://www.huggingface.co/org/name-1.5", None),
        ("hf.co/org/name-1.5", None),
        ("hf://org/name-1.5@v2", "v2"),
    ],
)
def test_names_and_pages(given, revision):
    assert parse_hub_name(given) == parse_hub_name(Path(given)) == HubName("org/name-1.5", revision)
    assert parse_hub_name(str(HubName("org/name-1.5", revision))) == HubName("org/name-1.5", revision)


@pytest.mark.parametrize(
    "given", ["/models/name", "../org/name", "name", "a/b/c", "", "s3://bucket/x", "~/a", "a/x.json", "./org/name"]
)
def test_paths(given):
    assert parse_hub_name(given) is None


def test_what_exists_is_a_path():
    Path("org/name@v2").mkdir(parents=True)
    Path("org/file").touch()
    assert parse_hub_name("org/name@v2") is None
    assert parse_hub_name("org/file") is None
    assert parse_hub_name("org/name") == HubName("org/name")


@pytest.mark.parametrize("page", ["datasets/org/name", "spaces/org/name", "org", "datasets/org", ""])
def test_a_page_of_something_else_is_refused(page):
    with pytest.raises(ConfigError, match=r"is not the page of a model: give one, https://huggingface.co/ORG/NAME"):
        parse_hub_name(f"https://huggingface.co/{page}")


@pytest.mark.parametrize("revision", ["../../x", "a b", "/v1"])
def test_what_can_be_no_revision_is_refused(revision):
    with pytest.raises(ConfigError, match=r"is no revision. Give a branch, a tag or a commit after the '@'"):
        parse_hub_name(f"org/name@{revision}")


def test_advice_on_downloading():
    assert download_advice(Path("org/name@v2"), "--model") == (
        " If org/name@v2 is a model of the Hugging Face Hub, download it first:\n  pip install huggingface_hub\n"
        "  hf download org/name --revision v2 --local-dir name\nand give --model name."
    )
    assert download_advice(Path("s3://bucket/model"), "--model") == " Copy the files of a URL to a folder first."
    assert download_advice(Path("a/b/c"), "--model") == ""
