"""Where the credentials of Google Cloud Storage come from."""

import json
import os

import pytest

from recap_fast.errors import ConfigError
from recap_fast.store.connection import connect

USER = {"type": "authorized_user", "client_id": "i", "client_secret": "hidden", "refresh_token": "hidden"}
NAMES = ("GOOGLE_", "CLOUDSDK_", "STORAGE_EMULATOR_HOST")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(NAMES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def test_the_file_that_the_environment_names(monkeypatch, tmp_path):
    file = write(tmp_path / "key.json", USER)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    bucket, path = connect("gs://bucket/x")
    assert (bucket.config["bucket"], bucket.config["application_credentials"], path) == ("bucket", str(file), "x")


@pytest.mark.parametrize("named", [False, True])
def test_the_file_of_gcloud(named, monkeypatch, tmp_path):
    folder = tmp_path / ("elsewhere" if named else ".config/gcloud")
    if named:
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(folder))
    file = write(folder / "application_default_credentials.json", USER)
    assert connect("gs://bucket/x")[0].config["application_credentials"] == str(file)


def test_without_a_file_it_is_left_to_obstore():
    assert dict(connect("gs://bucket/x")[0].config) == {"bucket": "bucket"}


@pytest.mark.parametrize("content", ["hidden", {"client_secret": "hidden"}])
def test_a_file_that_is_none(content, monkeypatch, tmp_path):
    file = write(tmp_path / "key.json", content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with pytest.raises(ConfigError, match=r"key\.json cannot be read as Google credentials: set GOOGLE_APPL") as caught:
        connect("gs://bucket/x")
    assert "hidden" not in str(caught.value)


def test_other_kinds_go_by_googles_library(monkeypatch, tmp_path):
    file = write(tmp_path / "key.json", {"type": "external_account", "audience": "hidden"})
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    for module in ("google", "google.auth"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ConfigError, match=r"of the kind 'external_account'.* run `pip install google-auth requests"):
        connect("gs://bucket/x")


@pytest.mark.parametrize("host", ["127.0.0.1:4443", "http://127.0.0.1:4443/"])
def test_an_emulator(host, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", host)
    bucket = connect("gs://bucket/x")[0]
    assert bucket.config["base_url"] == "http://127.0.0.1:4443"
    assert bucket.client_options["allow_http"] == "true"
