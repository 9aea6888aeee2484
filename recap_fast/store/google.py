"""What Google's environment variables and files say of Cloud Storage."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.errors import ConfigError

_NATIVE = ("service_account", "authorized_user")
"""The kinds of credentials files that obstore reads by itself."""


def settings(_bucket: str, _host: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Of obstore's GCSStore, where it does not find them by itself.

    It finds a service account, the file of `gcloud auth application-default login`, and a machine's own account.
    Raises ConfigError.
    """
    found: dict[str, Any] = {}
    emulator = environment.get("STORAGE_EMULATOR_HOST")
    if emulator:
        url = (emulator if "://" in emulator else f"http://{emulator}").rstrip("/")
        account = dict.fromkeys(("client_email", "private_key", "private_key_id"), "") | {"disable_oauth": True}
        found |= {"base_url": url, "service_account_key": json.dumps(account | {"gcs_base_url": url})}
    base_url = environment.get("GOOGLE_BASE_URL") or found.get("base_url", "")
    found["allow_http"] = base_url.startswith("http://")
    own = ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY")
    if emulator or any(environment.get(name) for name in (*own, "GOOGLE_BEARER_TOKEN", "GOOGLE_SKIP_SIGNATURE")):
        return found
    if (file := _credentials_file(environment)) is None:
        return found
    kind = _kind(file)
    if kind in _NATIVE:
        found["application_credentials"] = str(file)
    else:
        found["credential_provider"] = _provider(file, kind)
    return found


def _credentials_file(environment: Mapping[str, str]) -> Path | None:
    if named := environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return Path(named)
    folder = Path(environment.get("CLOUDSDK_CONFIG") or "~/.config/gcloud").expanduser()
    file = folder / "application_default_credentials.json"
    return file if file.is_file() else None


def _kind(file: Path) -> str:
    try:
        return str(json.loads(file.read_text("utf-8"))["type"])
    except (OSError, ValueError, KeyError, TypeError):  # the error would quote it
        raise ConfigError(
            f"{file} cannot be read as Google credentials: set GOOGLE_APPLICATION_CREDENTIALS to the JSON file of a "
            "service account, or run `gcloud auth application-default login`."
        ) from None


def _provider(file: Path, kind: str) -> Any:
    try:
        import google.auth
        from obstore.auth.google import GoogleCredentialProvider
    except ImportError as error:
        raise ConfigError(
            f"{file} holds credentials of the kind {kind!r}, which take Google's own library: "
            "run `pip install google-auth requests aiohttp`."
        ) from error
    scopes = ["https://www.googleapis.com/auth/devstorage.read_write"]
    try:
        credentials, _ = google.auth.load_credentials_from_file(str(file), scopes=scopes)
        return GoogleCredentialProvider(credentials)
    except (google.auth.exceptions.GoogleAuthError, ImportError, ValueError) as error:
        raise ConfigError(f"{file} gives no Google credentials: {type(error).__name__}.") from error
