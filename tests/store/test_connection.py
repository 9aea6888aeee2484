"""URLs of object stores, and connections to them. Where credentials come from: test_aws.py and the others."""

import pickle
import sys

import pytest
from support import guard

from recap_fast.errors import ConfigError
from recap_fast.store.connection import Place, connect, is_cloud, place_of


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://bucket", Place("s3", "bucket", "", "")),
        ("s3a://bucket/a b/c//", Place("s3", "bucket", "", "a b/c")),
        ("S3://bucket/what?.tar", Place("s3", "bucket", "", "what?.tar")),
        ("gs://bucket/x", Place("gs", "bucket", "", "x")),
        ("gcs://bucket/x", Place("gs", "bucket", "", "x")),
        ("az://container/x", Place("az", "container", "", "x")),
        ("abfs://container/x", Place("az", "container", "", "x")),
        (
            "abfss://container@account.dfs.core.windows.net/x",
            Place("az", "container", "account.dfs.core.windows.net", "x"),
        ),
    ],
)
def test_the_parts_of_a_url(url, place):
    assert is_cloud(url)
    assert place_of(url) == place


@pytest.mark.parametrize(
    "url", ["/local/s3", "hf://datasets/a/b", "https://host/x", "file:///x", "s3:/x", "memory://x"]
)
def test_what_is_in_no_object_store(url):
    assert not is_cloud(url)
    with pytest.raises(ConfigError, match="is not in an object store"):
        place_of(url)


@pytest.mark.parametrize(
    ("url", "shown", "advice"),
    [
        ("s3://key:hidden@bucket/x", "s3://bucket/x has a login", "set AWS_ACCESS_KEY_ID"),
        ("s3://hidden@bucket/x", "s3://bucket/x has a login", "AWS_PROFILE"),
        ("gs://key:hidden@bucket/x", "gs://bucket/x has a login", "set GOOGLE_APPLICATION_CREDENTIALS"),
        (
            "abfss://name:hidden@account.dfs.core.windows.net/x",
            "abfss://account.dfs.core.windows.net/x has a login",
            "SAS",
        ),
        ("s3://bucket/x?X-Amz-Signature=hidden", "s3://bucket/x is signed", "set AWS_ACCESS_KEY_ID"),
        ("az://container/x?sv=1&sig=hidden", "az://container/x is signed", "AZURE_STORAGE_SAS_TOKEN"),
        ("s3:///x", "s3:///x names no bucket", "write s3://BUCKET/PATH"),
    ],
)
def test_urls_that_are_refused(url, shown, advice):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert shown in str(caught.value)
    assert advice in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_one_connection_serves_a_bucket(s3_bucket, monkeypatch):
    bucket, path = connect(f"{s3_bucket}/a/b")
    bucket.put(path, b"one")
    assert path == "a/b"
    assert connect(f"{s3_bucket}/c") == (bucket, "c")
    assert connect(s3_bucket)[0] is bucket
    assert connect(s3_bucket, read_timeout_s=5.0)[0] is not bucket
    assert connect(f"{s3_bucket}2")[0] is not bucket
    assert bytes(pickle.loads(pickle.dumps(bucket)).get("a/b").bytes()) == b"one"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert connect(s3_bucket)[0] is not bucket


def test_timeouts_are_per_read_and_not_per_file(s3_bucket):
    options = connect(s3_bucket, read_timeout_s=7.0)[0].client_options
    assert (options["connect_timeout"], options["read_timeout"], options["timeout"]) == ("10s", "7s", "1day")


def test_without_obstore_the_message_names_the_extra(s3_bucket, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(
        ConfigError, match=r"needs a package that is not installed: run `pip install 'recap-fast\[cloud\]'`"
    ):
        connect(s3_bucket)


def test_settings_that_cannot_be_used_are_said_without_their_values(s3_bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match=r"cannot be used with the present settings: .*Missing AccessKeyId") as caught:
        connect(s3_bucket)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told_so_instead_of_hanging(s3_bucket):
    def child():
        with pytest.raises(ConfigError, match=r"cannot be reached from a forked process.* 'spawn'"):
            connect(s3_bucket)

    connect(s3_bucket)[0].put("a", b"one")
    guard.in_processes(child)
