"""Where the account and the credentials of Azure come from."""

import os

import pytest

from recap_fast.errors import ConfigError
from recap_fast.store.connection import connect


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path))


@pytest.mark.parametrize("url", ["az://container/x", "abfs://container/x", "abfss://container/x"])
@pytest.mark.parametrize("name", ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"])
def test_the_account_of_the_environment(url, name, monkeypatch):
    monkeypatch.setenv(name, "account")
    bucket, path = connect(url)
    assert (bucket.config["account_name"], bucket.config["container_name"], path) == ("account", "container", "x")


@pytest.mark.parametrize(
    ("host", "more"),
    [
        ("dfs.core.windows.net", {}),
        ("blob.core.windows.net", {}),
        ("dfs.core.chinacloudapi.cn", {"endpoint": "https://mine.blob.core.chinacloudapi.cn"}),
        ("dfs.fabric.microsoft.com", {"use_fabric_endpoint": "true"}),
    ],
)
def test_the_account_of_the_url(host, more, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "another")
    config = dict(connect(f"abfss://container@mine.{host}/x")[0].config)
    assert config == {"account_name": "mine", "container_name": "container", **more}


def test_without_an_account():
    with pytest.raises(
        ConfigError, match=r"az://container names no storage account: set AZURE_STORAGE_ACCOUNT_NAME, or"
    ):
        connect("az://container/x")


def test_the_key_as_the_az_command_calls_it(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
    assert connect("az://container/x")[0].config["account_key"] == "a2V5"


def test_a_connection_string(monkeypatch):
    text = "DefaultEndpointsProtocol=http;AccountName=mine;AccountKey=a2V5Kys=;BlobEndpoint=http://127.0.0.1:1/mine;"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    bucket = connect("az://container/x")[0]
    assert bucket.config["account_key"] == "a2V5Kys="
    assert (bucket.config["account_name"], bucket.config["endpoint"]) == ("mine", "http://127.0.0.1:1/mine")
    assert bucket.client_options["allow_http"] == "true"


@pytest.mark.parametrize("logged_in", [False, True])
def test_the_login_of_the_az_command(logged_in, monkeypatch, tmp_path):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "az").touch(mode=0o755)
    if logged_in:
        (tmp_path / "azureProfile.json").touch()
    assert connect("az://container/x")[0].config.get("use_azure_cli") == ("true" if logged_in else None)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "secret")
    assert "use_azure_cli" not in connect("az://container/x")[0].config
