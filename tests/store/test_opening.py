"""Which store an address means."""

from pathlib import Path

import pytest

from recap_fast.errors import ConfigError
from recap_fast.store.cloud import CloudStore
from recap_fast.store.local import LocalStore
from recap_fast.store.opening import open_store


@pytest.mark.parametrize(
    ("address", "store"),
    [
        ("out/captions", LocalStore(Path("out/captions"))),
        (Path("/out"), LocalStore(Path("/out"))),
        ("file:///out/a b", LocalStore(Path("/out/a b"))),
        ("s3://bucket/out/", CloudStore("s3://bucket/out")),
        ("gs://bucket", CloudStore("gs://bucket")),
        ("az://container/out", CloudStore("az://container/out")),
    ],
)
def test_the_store_of_an_address(address, store):
    assert open_store(address) == store
    assert open_store(address).address == store.address


@pytest.mark.parametrize("address", ["hf://datasets/me/x", "https://host/x", "memory://x", "sftp://host/x"])
def test_where_captions_cannot_go(address):
    with pytest.raises(ConfigError, match=f"{address} cannot hold captions: write them to a local folder, s3://"):
        open_store(address)


@pytest.mark.parametrize("address", ["s3:/bucket/out", "s3:bucket", "GS:/bucket"])
def test_a_url_with_a_slash_too_few_makes_no_local_folder(address):
    with pytest.raises(ConfigError, match=f"{address} is neither .* local folder: write (s3|GS)://BUCKET/PATH"):
        open_store(address)
    assert open_store("s3") == LocalStore(Path("s3"))


@pytest.mark.parametrize("path", ["a//b", "../a", "a/./b"])
def test_a_path_in_a_bucket_that_obstore_cannot_use(path):
    with pytest.raises(ConfigError, match=r"has '//', '\.' or '\.\.' in its path: write the path without them"):
        open_store(f"s3://bucket/{path}")


def test_a_login_is_not_shown():
    with pytest.raises(ConfigError, match="https://host/x cannot hold captions") as caught:
        open_store("https://me:hidden@host/x?token=hidden")
    assert "hidden" not in str(caught.value)
