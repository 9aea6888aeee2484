"""What Azure's environment variables and files say of Blob Storage."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.errors import ConfigError

_CREDENTIALS = (
    *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY"),
    *("AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_TOKEN"),
    *("AZURE_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_USE_AZURE_CLI"),
    *("AZURE_MSI_ENDPOINT", "AZURE_IDENTITY_ENDPOINT", "AZURE_CREDENTIAL_TYPE", "AZURE_SKIP_SIGNATURE"),
    "AZURE_STORAGE_USE_EMULATOR",
)
"""The variables by which obstore finds credentials."""
_CONNECTION = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "SharedAccessSignature": "sas_key",
    "BlobEndpoint": "endpoint",
}


def settings(container: str, host: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Of obstore's AzureStore, where it does not find them by itself.

    `host` is what follows the '@' in abfss://container@account.dfs.core.windows.net/path. Without any credentials in
    the environment the login of `az login` is used, or else the machine's managed identity. Raises ConfigError.
    """
    found = _of_connection_string(environment.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    emulated = bool(environment.get("AZURE_STORAGE_USE_EMULATOR"))
    account, _, domain = host.partition(".")
    named = environment.get("AZURE_STORAGE_ACCOUNT_NAME") or environment.get("AZURE_STORAGE_ACCOUNT")
    if account := account or found.get("account_name") or named or "":
        found["account_name"] = account
    elif not emulated:
        raise ConfigError(
            f"az://{container} names no storage account: set AZURE_STORAGE_ACCOUNT_NAME, or write "
            f"abfss://{container}@ACCOUNT.dfs.core.windows.net/PATH."
        )
    found |= _of_domain(account, domain)
    if key := environment.get("AZURE_STORAGE_KEY"):  # as the az command line calls it
        found.setdefault("account_key", key)
    endpoints = (found.get("endpoint"), environment.get("AZURE_STORAGE_ENDPOINT"), environment.get("AZURE_ENDPOINT"))
    found["allow_http"] = emulated or any((endpoint or "").startswith("http://") for endpoint in endpoints)
    has_credentials = any(environment.get(name) for name in _CREDENTIALS) or {"account_key", "sas_key"} & found.keys()
    if not has_credentials and _logged_in(environment):
        found["use_azure_cli"] = True
    return found


def _of_domain(account: str, domain: str) -> dict[str, Any]:
    """Of an account that is not in Azure's public cloud."""
    if domain == "dfs.fabric.microsoft.com":
        return {"use_fabric_endpoint": True}
    if domain and not domain.endswith("core.windows.net"):  # a cloud of its own, such as China's
        return {"endpoint": f"https://{account}.{domain.replace('dfs.', 'blob.', 1)}"}
    return {}


def _of_connection_string(text: str) -> dict[str, Any]:
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    return {_CONNECTION[name]: value for name, value in parts.items() if name in _CONNECTION}


def _logged_in(environment: Mapping[str, str]) -> bool:
    folder = Path(environment.get("AZURE_CONFIG_DIR") or "~/.azure").expanduser()
    return shutil.which("az") is not None and (folder / "azureProfile.json").is_file()
